"""The app in a real browser: what it shows is what Python's predictor says, and nothing leaves."""

import csv
import io
import re

import numpy as np
import pytest

pytest.importorskip("playwright")
pytest.importorskip("uvicorn")

from PIL import Image
from playwright.sync_api import sync_playwright

import browser
import small
from browser import Visit
from dermdistill.app import build_site, write_site
from dermdistill.bundle import Bundle
from dermdistill.bundle.predict import predict_files
from dermdistill.data.phantom import synthesise
from dermdistill.errors import ConfigError, DermdistillError
from dermdistill.export import BUNDLE

pytestmark = [browser.built, browser.browser, pytest.mark.slow]
VIEWS = ("image", "compare", "folder", "model")
FP32 = 1e-3  # of a probability


@pytest.fixture(scope="module")
def bundle():
    return small.exported() / BUNDLE


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    folder = tmp_path_factory.mktemp("drawn")
    synthesise(folder, 50, 160, seed=11, workers=1)
    return sorted(folder.rglob("*.jpg"))


@pytest.fixture(scope="module")
def address(bundle):
    with browser.server(bundle) as address:
        yield address


@pytest.fixture(scope="module")
def playwright():
    with sync_playwright() as running:
        yield running


@pytest.fixture
def visit(playwright, address):
    made = Visit(playwright, address)
    yield made
    made.close()


def clean(visit):
    """Nothing went wrong and nothing went elsewhere."""
    assert visit.errors == []
    assert visit.elsewhere() == []


def test_an_image_gets_the_predictors_probabilities(visit, bundle, drawn):
    visit.open()
    assert "For research only" in visit.page.locator(".notice").inner_text()
    expected, _ = predict_files(bundle, [str(path) for path in drawn[:5]])
    for row, path in zip(expected.probabilities, drawn, strict=False):
        found = visit.ask(path)
        assert found == pytest.approx(dict(zip(expected.classes, row, strict=True)), abs=FP32)
    clean(visit)


@pytest.mark.shared
def test_originals_get_the_predictors_probabilities(visit, bundle, shared_folder):
    paths = sorted((shared_folder / "data/originals").glob("*.jpg"))[::4]
    assert len(paths) == 20
    visit.open()
    expected, _ = predict_files(bundle, [str(path) for path in paths])
    found = [list(sorted_by(visit.ask(path), expected.classes)) for path in paths]
    assert np.abs(np.array(found) - expected.probabilities).max() < FP32
    clean(visit)


def sorted_by(answer, classes):
    return (answer[name] for name in classes)


def test_it_works_without_a_network_after_the_first_load(playwright, bundle, drawn):
    with browser.server(bundle) as address:
        visit = Visit(playwright, address)
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
    assert np.abs(found - expected.probabilities).max() < FP32
    assert rows[-1]["error"] == "unreadable"
    assert rows[-1][expected.classes[0]] == ""
    clean(visit)


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
    assert visit.answer(slot) == pytest.approx(wanted, abs=FP32)
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
def test_axe_finds_nothing(playwright, address, drawn, scheme, size):
    visit = Visit(playwright, address, size, color_scheme=scheme)
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
    visit.ask(drawn[0])
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

    folder = browser.AXE.parents[2] / "messages"
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
