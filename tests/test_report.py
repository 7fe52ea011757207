"""The page stands alone, says what the run directories hold, and survives what they lack."""

import base64
import io
import json
import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dermdistill.data.store import Store
from dermdistill.errors import RunError
from dermdistill.evaluate.metrics import classification_metrics
from dermdistill.evaluate.predictions import Predictions
from dermdistill.report import write_report
from dermdistill.report.figures import accuracy_figure, loss_figure
from dermdistill.run import RESEARCH_NOTICE, digest_of, read_json, write_json
from report_runs import CLASSES, history_of, write_pair, write_run

VOID = {"meta", "img", "br", "link", "hr", "input"}


class Page(HTMLParser):
    """What a browser would see: tags, attributes, text; fails where tags do not nest."""

    def __init__(self, path: Path):
        super().__init__(convert_charrefs=True)
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.styles: list[str] = []
        self._open: list[str] = []
        self.source = path.read_text(encoding="utf-8")
        self.feed(self.source)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self._open.pop() == tag

    def handle_data(self, data):
        (self.styles if self._open[-1:] == ["style"] else self.words).append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())

    def values(self, attribute: str) -> list[str]:
        return [attrs[attribute] for _, attrs in self.tags if attrs.get(attribute) is not None]


@pytest.fixture(scope="module")
def pair(tmp_path_factory) -> tuple[Path, Path]:
    return write_pair(tmp_path_factory.mktemp("runs"))


@pytest.fixture(scope="module")
def page(pair, tmp_path_factory) -> Page:
    path = tmp_path_factory.mktemp("page") / "report.html"
    assert write_report([pair[0]], path) == path
    return Page(path)


def page_of(runs: list[Path], folder: Path) -> Page:
    return Page(write_report(runs, folder / "report.html"))


def test_the_page_needs_nothing_but_itself(page):
    names = {tag for tag, _ in page.tags}
    assert not names & {"script", "link", "iframe", "object", "embed", "base", "form"}
    assert all(link.startswith("#") for link in page.values("href"))
    assert all(source.startswith("data:image/jpeg;base64,") for source in page.values("src"))
    assert not page.values("srcset") + page.values("xlink:href") + page.values("action")
    styles = " ".join(page.styles + page.values("style") + page.values("clip-path"))
    assert "@import" not in styles
    assert set(re.findall(r"url\((.)", styles)) <= {"#"}
    assert not re.search(r"https?:|//cdn|file:", page.source)
    assert not [name for _, attrs in page.tags for name in attrs if name.startswith("on")]


def test_ids_are_unique_and_every_reference_has_its_target(page):
    ids = page.values("id")
    assert len(ids) == len(set(ids))
    wanted = {link[1:] for link in page.values("href")}
    wanted |= set(re.findall(r"url\(#([^)]+)\)", page.source))
    assert wanted <= set(ids)


def test_no_placeholder_colour_is_left_in_the_figures(page):
    figures = " ".join(re.findall(r"<svg.*?</svg>", page.source, re.S))
    assert figures.count("<svg") >= 7
    assert "currentColor" in figures
    assert set(re.findall(r"var\(--(\w+)", figures)) >= {"muted", "grid", "series"}
    assert not re.findall(r"#0[0-9a-f]{5}\b", figures)


def test_the_research_notice_is_always_in_view(page):
    assert page.text.count(RESEARCH_NOTICE) == 2  # above everything, and at the end
    assert ("div", {"class": "notice", "role": "note"}) in page.tags
    assert re.search(r"\.notice \{ position: sticky; top: 0;", page.styles[0])


def test_every_figure_of_the_metrics_stands_on_the_page(page, pair):
    cells = [" ".join(cell.split()) for cell in page.words]
    for run in pair:
        metrics = read_json(run / "metrics.json")
        for part in ("validation", "test"):
            figures = metrics[part]
            wanted = [f"{100 * figures['accuracy']:.1f}", f"{figures['macro_auc']:.3f}",
                      f"{100 * figures['balanced_accuracy']:.1f}"]  # fmt: skip
            for row in figures["per_class"].values():
                wanted += [f"{100 * row[key]:.1f}" for key in ("sensitivity", "specificity")]
                wanted += [f"{row['auc']:.3f}", str(row["support"])]
            wanted += [str(number) for row in figures["confusion_matrix"] for number in row]
            assert set(wanted) <= set(cells)
            assert f"{part.capitalize()} part, {figures['images']} images" in page.text
        assert f"{metrics['cost']['size_mb']:.1f}" in cells
    assert {"2.23 M", "301 M", "23.5 M", "4.09 G", "34", "2 h 14 min"} <= set(cells)
    assert "mobilenetv2_100 at 224 px" in page.text


def test_a_student_brings_its_teacher_along(page, pair):
    student, teacher = (read_json(run / "metrics.json")["test"] for run in pair)
    points = 100 * (student["balanced_accuracy"] - teacher["balanced_accuracy"])
    assert f"{abs(points):.1f} points {'above' if points > 0 else 'below'} its teacher" in page.text
    assert "10.5 times fewer parameters and 13.6 times fewer multiply-adds" in page.text
    assert "95 % interval of the difference is" in page.text
    assert page.text.index("student-ssd_kd") < page.text.index("teacher-resnet50")
    assert {"#run-1", "#run-2"} <= set(page.values("href"))


def test_provenance_and_the_command_are_given(page, pair):
    made = read_json(pair[0] / "provenance.json")
    for value in (made["commit"], made["machine"], "by lesion", "torch 2.14.0", "3.1e-06"):
        assert value in page.text
    assert {made["split"]["digest"], made["store"]["digest"]} <= set(page.values("title"))
    assert "dermdistill teach --config teacher-resnet50/config.yaml" in page.text
    assert "dermdistill distill --config student-ssd_kd/config.yaml" in page.text


def test_thumbnails_are_the_stored_pictures(page, pair):
    pictures = [attrs for tag, attrs in page.tags if tag == "img"]
    assert len(pictures) == 32  # two runs, hits and misses, eight each
    store = Store.open(pair[0].parent / "store")
    for picture in pictures[:10]:
        name = picture["alt"].removeprefix("Test image ")
        shown = Image.open(io.BytesIO(base64.b64decode(picture["src"].partition(",")[2])))
        kept = store.images[store.rows([name])[0]]
        assert shown.size == kept.shape[:2]
        assert np.abs(np.asarray(shown, float) - kept).mean() < 8  # JPEG's own loss


def test_hits_are_right_and_misses_are_wrong(page):
    said = re.findall(r"truth (\w+) said (\w+) ([\d.]+) %", page.text)
    assert len(said) == 32
    for run in (said[:16], said[16:]):
        assert all(truth == prediction for truth, prediction, _ in run[:8])
        assert all(truth != prediction for truth, prediction, _ in run[8:])
        assert [truth for truth, _, _ in run[:8]] == list(CLASSES)


def test_hostile_names_are_shown_and_never_run(tmp_path):
    hostile = (
        "<script>alert(1)</script>",
        '"><img src=x onerror=alert(2)>',
        "$\\frac{$",
        "-->",
        "NV",
    )
    run = write_run(tmp_path / "</title><script>x", classes=hostile, network="<b>&amp;", epochs=0)
    (run / "config.yaml").write_text("</pre><script>alert(3)</script>\n")
    made = page_of([run], tmp_path)
    assert not [tag for tag, _ in made.tags if tag in ("script", "b", "img")]
    assert not made.values("onerror")
    for name in (*hostile, "<b>&amp;", "</pre><script>alert(3)</script>"):
        assert name in made.text


def test_absent_classes_are_blank_and_named(tmp_path):
    run = write_run(tmp_path / "run", epochs=0)
    paths = run / "predictions-test.csv", run / "truth-test.csv"
    whole = Predictions.load(*paths)
    without = Predictions(whole.ids, whole.classes, whole.probabilities,
                          np.where(whole.labels == 7, 1, whole.labels))  # fmt: skip
    without.save_truth(paths[1])
    metrics = read_json(run / "metrics.json")
    metrics["test"] = classification_metrics(without) | {"macro_auc": None, "accuracy": None}
    write_json(run / "metrics.json", metrics)
    made = page_of([run], tmp_path)
    assert "No test image is of SCC" in made.text
    assert re.search(r"SCC 0 – [\d.]+ [\d.]+ to [\d.]+ ", made.text)  # no sensitivity, yet alarms
    assert not re.search(r"\b(nan|NaN|None|Undefined)\b", made.text)


@pytest.mark.parametrize(
    ("missing", "note"),
    [
        ("history.jsonl", "run/history.jsonl is missing: its curves are left out."),
        ("provenance.json", "provenance.json is missing: what made this run cannot be shown."),
        ("config.yaml", "config.yaml is missing: the settings cannot be shown."),
        ("predictions-test.csv", "No examples are shown: "),
        ("truth-test.csv", "No examples are shown: "),
        ("parity.json", ""),
    ],
)
def test_a_missing_file_leaves_a_note(tmp_path, missing, note):
    run = write_run(tmp_path / "run", epochs=0)
    (run / missing).unlink()
    made = page_of([run], tmp_path)
    assert note in made.text
    assert ("Export, onnx" in made.text) == (missing != "parity.json")


def test_a_store_that_is_gone_or_changed_shows_no_pictures(tmp_path):
    student, _ = write_pair(tmp_path, epochs=0)
    made = read_json(student / "provenance.json")
    write_json(student / "provenance.json", made | {"store": {"folder": "../store", "digest": "0"}})
    changed = page_of([student], tmp_path)
    assert "the packed store 'store' has changed since the run" in changed.text
    assert len(changed.values("src")) == 16  # the teacher's pictures stay
    shutil.rmtree(tmp_path / "store")
    gone = page_of([student], tmp_path)
    assert "the packed store 'store' is not there any more" in gone.text
    assert gone.values("src") == []


def test_a_teacher_that_is_gone_is_noted(tmp_path):
    run = write_run(tmp_path / "run", teacher_run="../nowhere", epochs=0)
    assert "Its teacher's run could not be read" in page_of([run], tmp_path).text


def test_runs_of_different_splits_are_not_compared(tmp_path):
    other = {"digest": digest_of("another split"), "protocol": "image"}
    write_run(tmp_path / "teacher", "teacher", "resnet50", None, split=other, epochs=0)
    run = write_run(tmp_path / "run", teacher_run="../teacher", epochs=0)
    made = page_of([run], tmp_path)
    assert "their figures must not be compared" in made.text
    assert "must not be ranked side by side" in made.text
    assert "At least one run is split by image" in made.text
    assert "points below its teacher" not in made.text


def test_an_unfinished_run_is_an_error_with_the_next_step(tmp_path):
    run = write_run(tmp_path / "run", epochs=0)
    metrics = read_json(run / "metrics.json")
    write_json(run / "metrics.json", {"test": metrics["test"]})
    with pytest.raises(RunError, match=r"lacks .* for 'validation'.*Evaluate the run again"):
        write_report([run], tmp_path / "report.html")
    (run / "metrics.json").unlink()
    with pytest.raises(RunError, match=r"no metrics\.json.*Continue it"):
        write_report([run], tmp_path / "report.html")
    write_json(tmp_path / "pretext-rotation/metrics.json", {"validation": {"loss": 0.5}})
    with pytest.raises(RunError, match=r"is a pretext stage.*pass the student's run"):
        write_report([tmp_path / "pretext-rotation"], tmp_path / "report.html")
    with pytest.raises(RunError, match="no run directory"):
        write_report([tmp_path / "nowhere"], tmp_path / "report.html")
    with pytest.raises(RunError, match="no run to report on"):
        write_report([], tmp_path / "report.html")
    assert not (tmp_path / "report.html").exists()


def test_a_history_cut_short_by_a_kill_is_still_drawn(tmp_path):
    run = write_run(tmp_path / "run", epochs=3)
    whole = (run / "history.jsonl").read_text()
    (run / "history.jsonl").write_text(whole + whole.splitlines()[0][:40])
    made = page_of([run], tmp_path)
    assert "Learning rate over the epochs" in made.values("aria-label")
    assert "is no JSON" not in made.text


def test_curves_draw_what_the_history_says():
    history = history_of("student", 5, {"kd": 2.0, "cross_entropy": 1.0}, 0)
    history.append({"stage": "student", "epoch": 6, "split": "train", "loss": float("nan")})
    drawn = loss_figure(history, "a")
    for name in ("training loss", "validation loss", "kd", "cross_entropy"):
        assert f">{name}</text>" in drawn
    assert "kept: epoch 3" in accuracy_figure(history, 3, "a")
    assert "kept" not in accuracy_figure(history, 99, "a")
    assert loss_figure([], "a") is None
    assert accuracy_figure([line for line in history if line["split"] == "train"], 1, "a") is None


def test_the_same_run_gives_the_same_page(tmp_path):
    run = write_run(tmp_path / "run", epochs=2)
    assert page_of([run], tmp_path).source == page_of([run], tmp_path).source


def test_many_runs_and_a_run_given_twice(pair, tmp_path):
    runs = [write_run(tmp_path / f"run-{number}", epochs=0) for number in range(6)]
    made = page_of([*pair, pair[0], *runs], tmp_path)
    sections = [tag for tag, attrs in made.tags if attrs.get("class") == "run"]
    assert sections == ["details", "section"] * 8
    assert {attrs["id"] for _, attrs in made.tags if "id" in attrs} > {"runs", "run-8"}
    assert "Over 7 seeds ssd_kd reaches a mean balanced accuracy of" in made.text


def test_a_few_runs_stand_open(page):
    assert "details" not in {tag for tag, attrs in page.tags if attrs.get("class") == "run"}


def test_neither_report_nor_metrics_import_torch():
    code = (
        "import sys, dermdistill.report, dermdistill.evaluate.metrics; "
        "print(json.dumps([m for m in ('torch', 'timm', 'kornia') if m in sys.modules]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", "import json; " + code], capture_output=True, text=True, check=True
    )
    assert json.loads(done.stdout) == []
