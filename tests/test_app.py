"""The app in a real browser: what it shows is what Python's predictor says, and nothing leaves."""

import csv
import io
import re
import shutil
import subprocess

import numpy as np
import pytest

pytest.importorskip("playwright")
pytest.importorskip("uvicorn")

from PIL import Image

import browser
from browser import Visit
from dermdistill.app import build_site, write_site
from dermdistill.bundle import Bundle
from dermdistill.bundle.predict import predict_files
from dermdistill.errors import ConfigError, DermdistillError
from dermdistill.export import export_run

pytestmark = [browser.built, browser.browser, pytest.mark.slow]
VIEWS = ("image", "compare", "folder", "model")
SAME = 1e-3  # of a probability: less than a fifth of what these images differ by


@pytest.fixture(scope="module")
def several(decided, tmp_path_factory):
    """The same student for both of a browser's engines."""
    for package in ("litert_torch", "ai_edge_litert", "ai_edge_quantizer"):
        pytest.importorskip(package, reason=f"{package} is missing: `make toolchains` installs it")
    path = tmp_path_factory.mktemp("several") / "bundle.zip"
    export_run(decided, ["onnx", "litert", "litert-int8"], output=path)
    return path


@pytest.fixture
def visit(chromium, address):
    made = Visit(chromium, address)
    yield made
    made.close()


def clean(visit):
    """Nothing went wrong and nothing went elsewhere."""
    assert visit.errors == []
    assert visit.elsewhere() == []


def test_an_image_gets_the_predictors_probabilities(visit, bundle, drawn):
    visit.open()
    assert "For research only" in visit.page.locator(".notice").inner_text()
    same(visit, bundle, drawn[:5], "onnx")
    clean(visit)


def test_doubts_are_the_predictors(visit, bundle, drawn):
    """Every outcome is met: an answer, "not sure", "unlike what the model knows"."""
    visit.open()
    _, doubts = predict_files(bundle, [str(path) for path in drawn[:16]])
    met = set()
    for path, unsure, unlike in zip(drawn, *doubts, strict=False):
        visit.ask(path)
        wanted = "Unlike what the model knows" if unlike else "Not sure" if unsure else "%"
        assert wanted in visit.page.locator("#view-image .answer h2").inner_text()
        assert visit.page.locator("#view-image .set").is_visible() == (not unlike)
        met.add(wanted)
    assert len(met) == 3
    clean(visit)


def same(visit, bundle, paths, engine):
    """The page's probabilities of some images are the predictor's."""
    expected, _ = predict_files(bundle, [str(path) for path in paths], engine)
    answers = [visit.ask(path) for path in paths]
    found = np.array([[answer[name] for name in expected.classes] for answer in answers])
    assert np.abs(found - expected.probabilities).max() < SAME
    # Were all images alike to the student, any answer would pass.
    assert np.ptp(expected.probabilities, axis=0).max() > 5 * SAME


@pytest.mark.shared
def test_originals_get_the_predictors_probabilities(visit, bundle, shared_folder):
    paths = sorted((shared_folder / "data/originals").glob("*.jpg"))[::4]
    assert len(paths) == 20
    visit.open()
    same(visit, bundle, paths, "onnx")
    clean(visit)


@pytest.mark.parametrize("engine", ["litert", "litert-int8", "onnx"])
def test_every_engine_answers_as_the_predictor(chromium, several, drawn, engine):
    with browser.server(several, "--formats", engine) as address:
        visit = Visit(chromium, address)
        visit.open()
        assert len(runtimes(visit)) == 1  # the lean one has what this processor's kernels need
        same(visit, several, drawn[:6], engine)
        assert engine_of(visit) == engine
        clean(visit)
        visit.close()


def test_the_other_engine_answers_where_the_first_cannot_load(chromium, several, drawn):
    with browser.server(several) as address:
        visit = Visit(chromium, address)
        visit.open()
        assert engine_of(visit) == "litert-int8"
        visit.close()
        visit = Visit(chromium, address)
        visit.context.route("**/litert_wasm*", lambda route: route.abort())
        visit.open()
        assert engine_of(visit) == "onnx"
        same(visit, several, drawn[:2], "onnx")
        assert visit.elsewhere() == []
        visit.close()


def test_a_function_that_was_left_out_brings_the_whole_runtime(chromium, several, drawn):
    with browser.server(several, "--formats", "litert") as address:
        visit = Visit(chromium, address)
        visit.open()
        assert runtimes(visit) == [".lean.wasm"]
        visit.close()
        visit = Visit(chromium, address)
        answer = {"body": fewer_functions(), "content_type": "application/wasm"}
        visit.context.route("**/*.lean.wasm", lambda route: route.fulfill(**answer))
        visit.open()
        assert runtimes(visit) == [".lean.wasm", ".wasm"]
        same(visit, several, drawn[:6], "litert")
        clean(visit)
        visit.close()


def runtimes(visit):
    """Endings of LiteRT.js's runtimes that were loaded before the service worker kept them."""
    names = [url.rpartition("/")[2] for url in visit.requests if url.endswith(".wasm")]
    return list(dict.fromkeys(name[name.index(".") :] for name in names))


def fewer_functions():
    """The lean runtime without every tenth function."""
    script = """
        import { readFileSync } from "node:fs";
        import { without } from "./wasm.mjs";
        const name = "litert_wasm_internal";
        const { functions } = JSON.parse(readFileSync("runtime.json"))[name];
        const kept = new Set(functions.filter((_, place) => place % 10));
        const whole = readFileSync(`node_modules/@litertjs/core/wasm/${name}.wasm`);
        process.stdout.write(without(whole, (place) => kept.has(place)));
    """
    command = ["node", "--input-type=module", "-e", script]
    return subprocess.run(command, cwd=browser.APP, capture_output=True, check=True).stdout


def engine_of(visit):
    """Which of the bundle's formats answers in the page."""
    return visit.page.locator("#card-facts dd").nth(1).text_content().partition(" ")[0]


def test_it_works_without_a_network_after_the_first_load(chromium, bundle, drawn):
    with browser.server(bundle) as address:
        visit = Visit(chromium, address)
        visit.open()
        online = visit.ask(drawn[0])
        visit.context.set_offline(True)
        visit.page.reload()
        visit.page.wait_for_selector("html[data-ready]")
        assert visit.ask(drawn[0]) == online
    visit.page.reload()  # and with the server gone
    visit.page.wait_for_selector("html[data-ready]")
    assert visit.ask(drawn[0]) == online
    visit.close()


def test_the_camera(visit):
    visit.open()
    visit.page.get_by_role("button", name="Take photograph").click()
    visit.page.get_by_role("button", name="Take", exact=True).click()
    answer = visit.answer(visit.page.locator("#view-image"))
    assert sum(answer.values()) == pytest.approx(1, abs=1e-3)
    # The fake device shows a green field with a dial: no dermoscopy.
    assert "Unlike dermoscopy" in visit.page.locator(".warnings").inner_text()
    clean(visit)


def test_a_folder_of_fifty(visit, bundle, drawn, tmp_path):
    visit.open("folder")
    broken = tmp_path / "=broken.jpg"
    broken.write_bytes(drawn[0].read_bytes()[:300])
    visit.page.locator("#files-input").set_input_files([*drawn[:49], broken])
    visit.page.wait_for_selector('#view-folder[data-done="50"]', timeout=120_000)
    with visit.page.expect_download() as download:
        visit.page.get_by_role("button", name="Download CSV").click()
    rows = list(csv.DictReader(io.StringIO(download.value.path().read_text(), newline="")))
    expected, _ = predict_files(bundle, [str(path) for path in drawn[:49]])
    assert [row["image"] for row in rows] == [path.name for path in drawn[:49]] + ["'=broken.jpg"]
    found = np.array([[float(row[name]) for name in expected.classes] for row in rows[:49]])
    assert np.abs(found - expected.probabilities).max() < SAME
    assert rows[-1]["error"] == "unreadable"
    assert rows[-1][expected.classes[0]] == ""
    clean(visit)


def test_a_chosen_folder_with_folders_in_it(visit, drawn, tmp_path):
    places = ["first/a.jpg", "first/deeper/b.jpg", "second/c.jpg"]
    for place, image in zip(places, drawn, strict=False):
        (tmp_path / "visit" / place).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(image, tmp_path / "visit" / place)
    (tmp_path / "visit/second/notes.txt").write_text("no image, and not asked about")
    visit.open("folder")
    with visit.page.expect_file_chooser() as chooser:
        visit.page.get_by_role("button", name="Choose folder").click()
    chooser.value.set_files(tmp_path / "visit")
    visit.page.wait_for_selector('#view-folder[data-done="3"]', timeout=60_000)
    with visit.page.expect_download() as download:
        visit.page.get_by_role("button", name="Download CSV").click()
    rows = list(csv.DictReader(io.StringIO(download.value.path().read_text(), newline="")))
    assert sorted(row["image"] for row in rows) == [f"visit/{place}" for place in places]
    assert [row["error"] for row in rows] == ["", "", ""]
    clean(visit)


def test_files_on_a_web_host_below_a_path(chromium, bundle, drawn, tmp_path):
    """Plain files, a plain server, somebody else's address above them; offline afterwards."""
    write_site(tmp_path / "clinic/derm", build_site(Bundle(bundle)))
    (tmp_path / "index.html").write_text("<title>somebody else's</title>")
    with browser.plain_host(tmp_path) as host:
        visit = Visit(chromium, f"{host}/clinic/derm")
        visit.open()
        same(visit, bundle, drawn[:2], "onnx")
        visit.page.get_by_role("link", name="Model", exact=True).click()
        visit.page.locator("#card-text h2").first.wait_for()
        clean(visit)
    visit.page.reload()
    visit.page.wait_for_selector("html[data-ready]")
    visit.page.get_by_role("link", name="Image", exact=True).click()
    assert sum(visit.ask(drawn[0]).values()) == pytest.approx(1, abs=1e-3)
    assert visit.elsewhere() == []
    visit.close()


def test_turning_and_cropping_ask_about_those_pixels(visit, bundle, drawn, tmp_path):
    visit.open()
    visit.ask(drawn[0])
    slot = visit.page.locator("#view-image")
    visit.page.get_by_role("button", name="Turn right").click()
    visit.page.get_by_role("slider", name="Section").fill("50")
    visit.page.wait_for_timeout(300)
    visit.page.wait_for_selector("#view-image:not(.waiting)")
    with Image.open(drawn[0]) as image:
        turned = image.convert("RGB").transpose(Image.Transpose.ROTATE_270)
    side = round(min(turned.size) / 2)
    left, top = (round(length / 2 - side / 2) for length in turned.size)
    turned.crop((left, top, left + side, top + side)).save(tmp_path / "part.png")
    expected, _ = predict_files(bundle, [str(tmp_path / "part.png")])
    wanted = dict(zip(expected.classes, expected.probabilities[0], strict=True))
    assert visit.answer(slot) == pytest.approx(wanted, abs=SAME)
    slot.locator(".box").press("ArrowRight")
    visit.page.wait_for_timeout(300)
    assert visit.answer(slot) != pytest.approx(wanted, abs=1e-9)
    clean(visit)


def test_two_images_are_compared(visit, drawn):
    visit.open("compare")
    first = visit.ask(drawn[0], "#view-compare .slot >> nth=0")
    second = visit.ask(drawn[1], "#view-compare .slot >> nth=1")
    rows = visit.page.locator(".change tbody tr")
    assert rows.count() == len(first)
    points = rows.first.locator("td").last.inner_text().replace("−", "-")
    change = float(re.search(r"[-+]?[\d.]+", points)[0])
    top = max(second, key=second.get)
    assert change == pytest.approx(100 * (second[top] - first[top]), abs=0.06)
    clean(visit)


def test_a_pasted_and_a_dropped_image(visit, drawn):
    visit.open()
    expected = visit.ask(drawn[2])
    for kind in ("paste", "drop"):
        visit.page.get_by_role("button", name="Another image").click()
        visit.page.evaluate(
            """async ([kind, bytes]) => {
                const transfer = new DataTransfer();
                const options = {type: "image/jpeg"};
                transfer.items.add(new File([new Uint8Array(bytes)], "x.jpg", options));
                const name = kind === "paste" ? "clipboardData" : "dataTransfer";
                const made = kind === "paste" ? ClipboardEvent : DragEvent;
                document.querySelector("#view-image").dispatchEvent(
                    new made(kind, {[name]: transfer, bubbles: true, cancelable: true}));
            }""",
            [kind, list(drawn[2].read_bytes())],
        )
        assert visit.answer(visit.page.locator("#view-image")) == expected
    clean(visit)


def test_a_file_that_is_no_image_is_told(visit, tmp_path):
    (tmp_path / "no.jpg").write_bytes(b"no image at all")
    visit.open()
    visit.page.locator("#view-image input[type=file]").set_input_files(tmp_path / "no.jpg")
    visit.page.locator(".status.alarm").wait_for()
    assert "no image" in visit.page.locator(".status.alarm").inner_text()
    assert visit.page.locator("#view-image .door").is_visible()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", [(390, 844), (1440, 900)])
def test_axe_finds_nothing(chromium, address, drawn, scheme, size):
    visit = Visit(chromium, address, size, color_scheme=scheme)
    visit.open()
    found = visit.violations()
    visit.ask(drawn[0])
    found += visit.violations()
    for view in VIEWS[1:]:
        visit.page.goto(f"{address}/#{view}")
        if view == "compare":
            visit.ask(drawn[0], "#view-compare .slot >> nth=0")
            visit.ask(drawn[1], "#view-compare .slot >> nth=1")
        if view == "folder":
            visit.page.locator("#files-input").set_input_files(drawn[:3])
            visit.page.wait_for_selector("#view-folder[data-done]")
        found += visit.violations()
        wide = visit.page.evaluate("document.documentElement.scrollWidth")
        assert wide <= size[0], f"{view} is {wide} px wide"
    visit.close()
    assert found == []


def test_german_and_the_keyboard_alone(visit, drawn):
    visit.open()
    with visit.page.expect_file_chooser() as chooser:
        visit.page.locator("#view-image .choose").press("Enter")
    chooser.value.set_files(drawn[0])
    visit.answer(visit.page.locator("#view-image"))
    assert visit.page.locator("#view-image .box:focus").count() == 1
    visit.page.locator("#language").select_option("de")
    assert visit.page.locator("html").get_attribute("lang") == "de"
    assert "Nur für die Forschung" in visit.page.locator(".notice").inner_text()
    second = visit.page.locator(".bars button").nth(1)
    second.focus()
    visit.page.keyboard.press("Enter")
    pressed = visit.page.locator('.bars button[aria-pressed="true"]')
    assert pressed.count() == 1
    assert pressed.inner_text() == second.inner_text()
    visit.page.reload()
    visit.page.wait_for_selector("html[data-ready]")
    assert visit.page.locator("html").get_attribute("lang") == "de"
    clean(visit)


def test_every_message_in_every_language():
    import json

    folder = browser.APP / "messages"
    words = {path.stem: json.loads(path.read_text()) for path in folder.glob("*.json")}
    assert len(words) >= 2
    for name, messages in words.items():
        assert messages.keys() == words["en"].keys(), name
        for key, text in messages.items():
            gaps = re.compile(r"\{\w+\}")
            assert sorted(gaps.findall(text)) == sorted(gaps.findall(words["en"][key])), (name, key)


def test_it_can_be_installed(visit):
    """What Chromium itself says against installing the page."""
    visit.open()
    client = visit.context.new_cdp_session(visit.page)
    assert client.send("Page.getAppManifest")["errors"] == []
    errors = client.send("Page.getInstallabilityErrors")["installabilityErrors"]
    assert [one["errorId"] for one in errors if one["errorId"] != "in-incognito"] == []


def test_a_written_site_is_the_served_one(bundle, tmp_path):
    files = build_site(Bundle(bundle))
    write_site(tmp_path / "site", files)
    (tmp_path / "site/assets/old.js").write_text("from an earlier build")
    write_site(tmp_path / "site", files)
    written = {path.relative_to(tmp_path / "site").as_posix(): path.read_bytes()
               for path in (tmp_path / "site").rglob("*") if path.is_file()}  # fmt: skip
    assert written == files
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/thesis.txt").write_text("precious")
    with pytest.raises(ConfigError, match="holds no earlier app"):
        write_site(tmp_path / "mine", files)
    with pytest.raises(DermdistillError, match="no format for browsers 'ncnn'"):
        build_site(Bundle(bundle), ["ncnn"])
