"""What is fitted to a run's outputs: by loops over the definitions, from its validation part."""

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import small
from dermdistill import distill
from dermdistill.bundle import Bundle
from dermdistill.bundle.decision import Decision, write_decision
from dermdistill.config import EvaluationConfig
from dermdistill.errors import DataError, RunError
from dermdistill.evaluate.groups import load_groups
from dermdistill.export import export_run
from dermdistill.export.subject import Subject
from dermdistill.run import digest_file

DECISION = "decision.json"


@pytest.fixture
def run(tmp_path) -> Path:
    """A copy of a trained student's run, to damage."""
    return Path(shutil.copytree(small.exported(), tmp_path / "run"))


def scaled(run: Path, temperature: float) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Probabilities of the validation images after division of the logits, truth and ids."""
    made = small.predictions(run, "validation")
    powers = made.probabilities ** (1 / temperature)
    return powers / powers.sum(axis=1, keepdims=True), made.labels, made.ids


def nll(run: Path, temperature: float) -> float:
    probabilities, labels, _ = scaled(run, temperature)
    return -np.log(probabilities[np.arange(len(labels)), labels]).mean()


def test_training_leaves_what_the_validation_part_says(run):
    decision = Decision.of(run)
    calibration, abstention, conformal = (
        decision.calibration, decision.abstention, decision.conformal
    )  # fmt: skip
    grid = np.geomspace(0.05, 20, 400)
    best = min(nll(run, temperature) for temperature in grid)
    assert nll(run, calibration.temperature) <= best + 1e-9
    probabilities, labels, ids = scaled(run, calibration.temperature)
    top, right = probabilities.max(axis=1), probabilities.argmax(axis=1) == labels
    answered = top >= abstention.least_probability - 1e-12
    assert answered.mean() == pytest.approx(abstention.answered_ratio)
    assert not answered.any() or right[answered].mean() >= 0.9
    lesions = load_groups(run / "groups-validation.csv", ids)["lesion"]
    first = ~lesions.duplicated().to_numpy()
    truth = probabilities[np.arange(len(labels)), labels][first]
    enough = np.ceil(0.95 * (len(truth) + 1))
    held = (truth >= 1 - conformal.quantile - 1e-12).sum()
    assert held >= min(enough, len(truth)), "sets hold the truth as often as promised"
    assert Bundle(run / "bundle.zip").manifest.conformal == conformal


def test_the_test_part_has_no_say(run):
    before = digest_file(run / DECISION)
    for path in run.glob("*-test.csv"):
        path.unlink()
    assert write_decision(run, EvaluationConfig(), Decision.of(run).ood) == Decision.of(run)
    assert digest_file(run / DECISION) == before


def test_scoring_again_fits_again(run):
    before = digest_file(run / DECISION)
    (run / DECISION).unlink()
    distill.evaluate(run, progress=False)
    assert digest_file(run / DECISION) == before


def test_the_score_of_unlikeness_keeps_its_share_of_validation_images(run):
    ood, part = Decision.of(run).ood, small.dataset().validation
    answers = Subject.of(run).answers(part.pixels(np.arange(len(part))).numpy())
    kept = (answers.ood_score[:, 0] <= ood.threshold + 1e-6).mean()
    assert abs(kept - ood.kept_ratio) <= 1 / len(part)


def test_a_score_without_its_arrays_is_named(run):
    (run / "prototypes.safetensors").write_bytes(b"\x08\x00")
    with pytest.raises(RunError, match=r"prototypes\.safetensors cannot be read.*evaluate"):
        Subject.of(run)


def test_what_is_asked_changes_what_is_fitted(run):
    asked = EvaluationConfig()
    wide = write_decision(run, asked)
    narrow = write_decision(run, replace(asked, coverage=0.5, answered_accuracy=0.2))
    assert narrow.conformal.quantile < wide.conformal.quantile
    assert narrow.abstention.answered_ratio >= wide.abstention.answered_ratio
    assert narrow.calibration == wide.calibration


def test_a_run_without_it_says_that_nothing_was_fitted(run):
    (run / DECISION).unlink()
    export_run(run)
    bundle = Bundle(run / "bundle.zip")
    manifest = bundle.manifest
    assert manifest.calibration is manifest.abstention is manifest.conformal is manifest.ood is None
    assert "ood_score" not in manifest.models["onnx"].outputs
    assert "Probabilities are not calibrated." in bundle.read("card.md").decode()


def test_a_run_without_predictions_is_named(run):
    (run / "predictions-validation.csv").unlink()
    with pytest.raises(DataError, match=r"predictions-validation\.csv does not exist"):
        write_decision(run, EvaluationConfig())
