"""Every recipe is understood, and those no laptop can finish are walked a few steps for real."""

import csv
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from dermdistill.run import METRICS, PROVENANCE, read_json

CHECKOUT = Path(__file__).parents[1]
RECIPES = sorted((CHECKOUT / "recipes").glob("*.yaml"))
LARGE = [path for path in RECIPES if "isic2019" in path.name]
NAME = "ISIC_2019_Training"


def call(*words) -> subprocess.CompletedProcess:
    """One command in a process of its own, from the checkout as the recipes say."""
    return subprocess.run(
        [sys.executable, "-m", "dermdistill", *map(str, words)], cwd=CHECKOUT, text=True,
        capture_output=True, check=False, env=os.environ,
    )  # fmt: skip


def isic2019_of(originals: Path, folder: Path) -> Path:
    """The real images under ISIC 2019's names; returns its truth file, as the recipes give it."""
    with open(originals / "labels.csv", newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    classes = ["MEL", "NV", "BCC", "AK", "BKL", "DF", "VASC", "SCC", "UNK"]
    (folder / f"{NAME}_Input").mkdir(parents=True)
    truth = folder / f"{NAME}_GroundTruth.csv"
    with (
        open(truth, "w", newline="", encoding="utf-8") as one_hot,
        open(folder / f"{NAME}_Metadata.csv", "w", newline="", encoding="utf-8") as metadata,
    ):
        labels, about = csv.writer(one_hot), csv.writer(metadata)
        labels.writerow(["image", *classes])
        about.writerow(["image", "age_approx", "anatom_site_general", "lesion_id", "sex"])
        for row in rows:
            name = Path(row["image"]).stem
            (folder / f"{NAME}_Input" / f"{name}.jpg").symlink_to(
                next(originals.glob(f"{name}.*"))
            )  # fmt: skip
            labels.writerow([name, *(float(row["label"] == label) for label in classes)])
            about.writerow([name, "", "", row["lesion_id"], ""])
    return truth


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: path.stem)
def test_a_recipe_is_understood_and_survives_printing(recipe, tmp_path):
    done = call("distill", "--config", recipe, "--print-config")
    assert done.returncode == 0, done.stderr
    written, shown = yaml.safe_load(recipe.read_text()), yaml.safe_load(done.stdout)
    assert_holds(shown, written)
    (tmp_path / "again.yaml").write_text(done.stdout)
    again = call("distill", "--config", tmp_path / "again.yaml", "--print-config")
    assert again.stdout == done.stdout


def assert_holds(shown, written) -> None:
    """Every setting that a recipe writes is in force."""
    for key, value in written.items():
        if isinstance(value, dict):
            assert_holds(shown[key], value)
        elif isinstance(value, list) and any(isinstance(item, dict) for item in value):
            for one, other in zip(shown[key], value, strict=True):
                assert_holds(one, other)
        else:
            assert shown[key] == value, key


def test_the_papers_recipe_is_the_papers():
    paper = yaml.safe_load((CHECKOUT / "recipes" / "ssd_kd_isic2019_paper.yaml").read_text())
    assert paper["teacher"]["network"]["name"] == "resnet50"
    assert paper["student"]["network"]["name"] == "mobilenetv2_100"
    assert paper["student"]["method"] == "ssd_kd"
    assert (paper["data"]["px"], paper["data"]["protocol"]) == (224, "image")
    fit = paper["student"]["fit"]
    assert (fit["batch_size"], fit["optimiser"], fit["schedule"]) == (32, "sgd", "plateau")


@pytest.mark.slow
@pytest.mark.shared
@pytest.mark.parametrize("recipe", LARGE, ids=lambda path: path.stem)
def test_a_large_recipe_walks_two_steps_on_real_images(recipe, shared_folder, tmp_path):
    """The real networks at the real size, from images of all sizes to the report."""
    truth = isic2019_of(shared_folder / "data" / "originals", tmp_path / "isic2019")
    short = [word for stage in ("teacher", "pretext", "student")
             for name, value in (("epochs", 1), ("max_steps", 2), ("batch_size", 4))
             for word in (f"--{stage}.fit.{name}", value)]  # fmt: skip
    done = call(
        "distill", "--config", recipe, "--data.folder", truth, "--output", tmp_path / "runs",
        "--teacher.network.weights", "none", "--student.network.weights", "none",
        "--precision", "fp32", "--device", "cpu", *short,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    (student,) = (tmp_path / "runs").glob("student-*")
    metrics, origin = read_json(student / METRICS), read_json(student / PROVENANCE)
    assert metrics["steps"] == 2
    assert metrics["test"]["images"] > 0
    written = yaml.safe_load(recipe.read_text())
    assert origin["network"] == written["student"]["network"]["name"]
    assert origin["input_px"] == written["data"]["px"]
    assert origin["split"]["protocol"] == written["data"]["protocol"]
    assert (student / "report.html").exists()
    assert read_json(student / "parity.json")["onnx"]["source"] == "test images"
