"""The same network elsewhere: a drop that is known, its interval, and what keeps sets apart."""

import math
import warnings

import numpy as np
import pandas as pd
import pytest

import small
from dermdistill.config import EvaluationConfig
from dermdistill.data.readers import read_table
from dermdistill.errors import DataError
from dermdistill.evaluate.drift import FILE, HOME, Sample, cautions, drift, drifts_of, told
from dermdistill.evaluate.groups import load_groups, save_groups
from dermdistill.evaluate.images import score_images
from dermdistill.evaluate.intervals import bootstrap
from dermdistill.evaluate.metrics import classification_metrics
from dermdistill.evaluate.predictions import Predictions
from dermdistill.report import write_report
from dermdistill.run import read_json
from report_runs import write_groups, write_run

CLASSES = ("MEL", "NV", "BCC")
FEW = EvaluationConfig(draws=300)
ACCURACY, BALANCED = ("accuracy",), ("balanced_accuracy",)


def sample(name: str, right: float, lesions: int, seed: int, classes: int = 3) -> Sample:
    """Images whose class is named rightly with a known chance; a lesion's share one fate."""
    rng = np.random.default_rng(seed)
    label = rng.integers(0, classes, lesions)
    named = np.where(rng.random(lesions) < right, label, (label + 1) % classes)
    rows = np.repeat(np.arange(lesions), rng.integers(1, 4, lesions))
    ids = [f"{name}{row}" for row in range(len(rows))]
    probabilities = np.full((len(rows), 3), 0.1)
    probabilities[np.arange(len(rows)), named[rows]] = 0.8
    facts = pd.DataFrame({"lesion": [f"{name}-{row}" for row in rows]}, index=ids)
    return Sample(name, Predictions(ids, CLASSES, probabilities, label[rows]), facts)


def test_a_known_drop_is_found_with_its_interval():
    found = drift(sample("home", 0.9, 800, 1), sample("away", 0.7, 800, 2), FEW)
    made = found.change(ACCURACY)
    own = [float((s.predictions.predicted == s.predictions.labels).mean())
           for s in (found.away, found.home)]  # fmt: skip
    assert made.value == pytest.approx(own[0] - own[1], abs=1e-12)
    low, high = made.interval
    assert low < -0.2 < high < 0
    # Independent sets: the variances add up, and pairing would have no meaning.
    widths = [made_by.interval(ACCURACY) for made_by in (found.here, found.there)]
    together = math.hypot(*(w.high - w.low for w in widths))
    assert high - low == pytest.approx(together, rel=0.1)
    assert found.classes == CLASSES
    assert cautions(found) == []
    assert told(found)[0].startswith("away (")


def test_no_drop_is_not_called_one():
    found = drift(sample("home", 0.8, 600, 5), sample("away", 0.8, 600, 6), FEW)
    low, high = found.change(BALANCED).interval
    assert low < 0 < high


@pytest.mark.slow
def test_intervals_hold_the_known_drop_as_often_as_they_say():
    """-0.15 in 500 simulations of 150 lesions a side; images as units would hold it less often."""
    held = {"lesions": 0, "images": 0}
    for seed in range(500):
        home, away = sample("home", 0.85, 150, 2 * seed), sample("away", 0.70, 150, 2 * seed + 1)
        alone = [s._replace(groups=pd.DataFrame({"lesion": s.groups.index}, index=s.groups.index))
                 for s in (home, away)]  # fmt: skip
        for name, pair in (("lesions", (home, away)), ("images", alone)):
            low, high = drift(*pair, FEW).change(ACCURACY).interval
            held[name] += low <= -0.15 <= high
    assert abs(held["lesions"] / 500 - 0.95) <= 0.039  # four deviations of the binomial
    assert held["images"] / 500 < 0.91


def test_only_classes_of_both_are_compared():
    """A class that fails, and that the other set has no image of, must not count as drift."""
    home, away = sample("home", 0.9, 300, 1), sample("away", 0.9, 300, 2, classes=2)
    spoilt = home.predictions.probabilities.copy()
    lost = home.predictions.labels == 2
    spoilt[lost] = [0.8, 0.1, 0.1]
    home = home._replace(predictions=Predictions(
        home.predictions.ids, CLASSES, spoilt, home.predictions.labels))  # fmt: skip
    found = drift(home, away, FEW)
    assert found.classes == CLASSES[:2]
    assert found.left_out == {"BCC": "home"}
    assert "BCC (in home alone)" in cautions(found)[0]
    kept = home.of(np.flatnonzero(~lost))
    figures = classification_metrics(kept.predictions)
    assert found.here.point[BALANCED] == pytest.approx(figures["balanced_accuracy"])
    assert found.change(BALANCED).interval.low < 0 < found.change(BALANCED).interval.high


def test_other_classes_or_none_in_common_are_refused():
    home, away = sample("home", 0.9, 50, 1), sample("away", 0.9, 50, 2)
    made = away.predictions
    renamed = Predictions(made.ids, ("MEL", "NV", "AK"), made.probabilities, made.labels)
    with pytest.raises(DataError, match=r"away has the classes MEL, NV, AK, home MEL, NV, BCC"):
        drift(home, away._replace(predictions=renamed), FEW)
    only = [s.of(np.flatnonzero(s.predictions.labels == k)) for k, s in enumerate((home, away))]
    with pytest.raises(DataError, match="no class in common"):
        drift(*only, FEW)


def test_shared_lesions_are_told():
    home = sample("home", 0.9, 100, 1)
    found = drift(home, home._replace(name="away"), FEW)
    assert "100 lesions have images of both" in cautions(found)[0]
    assert found.change(ACCURACY).value == 0
    assert found.change(ACCURACY).interval.low < 0  # its draws are its own all the same


def test_one_seed_for_two_sets_is_refused():
    made = [bootstrap(s.predictions, np.arange(len(s.predictions)), FEW, seed=4)
            for s in (sample("a", 0.9, 30, 1), sample("b", 0.9, 30, 2))]  # fmt: skip
    with pytest.raises(DataError, match="drawn from one seed, 4"):
        made[0].minus_unpaired(made[1], ACCURACY)


def judged(folder, sources: bool = False):
    """A run whose figures of another folder are worse than its own."""
    run = write_run(folder, epochs=0, skill=1.5)
    write_groups(run)
    better = write_run(folder.with_name("better"), epochs=0, skill=3.5)
    write_groups(better)
    for file in ("predictions", "truth", "groups"):
        text = (better / f"{file}-test.csv").read_text()
        (run / f"{file}-{HOME}.csv").write_text(
            text.replace("test_", "home_").replace(",L", ",HOME-")
        )
    if sources:
        made = Predictions.load(run / "predictions-test.csv", run / "truth-test.csv")
        facts = load_groups(run / "groups-test.csv", made.ids)
        right = made.predicted == made.labels
        lucky = np.random.default_rng(0).random(len(right)) < np.where(right, 0.8, 0.3)
        facts["source"] = np.where(lucky, "clinic", np.where(right, "phone", "phone"))
        save_groups(run / "groups-test.csv", made.ids, facts)
    return run


def test_a_run_directory_tells_of_folder_and_sources(tmp_path):
    run = judged(tmp_path / "run", sources=True)
    folder, source = drifts_of(run, EvaluationConfig(draws=200))
    assert (folder.home.name, folder.away.name) == ("own test part", "this folder")
    assert folder.change(BALANCED).interval.high < 0
    assert (source.home.name, source.away.name) == ("source clinic", "source phone")
    assert source.change(ACCURACY).interval.high < 0
    assert len(source.home.predictions) > len(source.away.predictions)
    plain = write_run(tmp_path / "plain", epochs=0)
    assert drifts_of(plain) == []


def test_the_report_has_the_drop_and_its_interval(tmp_path):
    run = judged(tmp_path / "run")
    text = write_report([run], tmp_path / "report.html").read_text()
    assert "Elsewhere" in text
    table = (tmp_path / "report-tables" / "drift.csv").read_text()
    found = drifts_of(run, EvaluationConfig(draws=100))[0].change(BALANCED)
    assert f"{100 * found.value:.1f}".replace("-", "−") in table


def test_sources_are_read_where_a_table_names_them(tmp_path):
    frame = read_table(small.images()).frame
    assert frame["source"].isna().all()
    save_groups(tmp_path / "groups.csv", frame["id"].tolist(), frame)
    assert "source" not in (tmp_path / "groups.csv").read_text().splitlines()[0]
    for column in ("source", "dataset", "camera"):
        folder = tmp_path / column
        folder.mkdir()
        for path in small.images().glob("*"):
            (folder / path.name).symlink_to(path)
        metadata = folder / "ISIC_2019_Training_Metadata.csv"
        rows = pd.read_csv(metadata, dtype=str)
        metadata.unlink()
        rows.assign(**{column: "vidir"}).to_csv(metadata, index=False)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert (read_table(folder).frame["source"] == "vidir").all()


def test_evaluating_elsewhere_writes_the_drift(tmp_path, capsys):
    from dermdistill.commands.judge import evaluate

    run = small.exported()
    before = {path.name: path.read_bytes() for path in run.iterdir() if path.is_file()}
    made = score_images(run, small.images(), tmp_path / "made", progress=False)
    (found,) = read_json(made / FILE)["drifts"]
    own = read_json(run / "metrics.json")["test"]
    assert found["home"]["images"] == own["images"]
    assert found["shared_lesions"] > 0  # this folder is the run's own
    figures = found["figures"]["accuracy"]
    assert figures["change"] == pytest.approx(figures["away"] - figures["home"])
    assert {path.name: path.read_bytes() for path in run.iterdir() if path.is_file()} == before
    evaluate(images=str(small.images()), model=str(run), output=str(tmp_path / "again"))
    assert "this folder (128 images" in capsys.readouterr().out
