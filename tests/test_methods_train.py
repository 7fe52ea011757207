"""Every method trains through the real command, at one budget, and beats where it began."""

import csv
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

import small
from dermdistill.cli import main
from dermdistill.config import Config, FitConfig, to_dict
from dermdistill.data.phantom import NAME, synthesise
from dermdistill.methods import METHODS
from dermdistill.run import METRICS, read_json

IMAGES, PX, SEED = 480, 48, 5
MARGIN = 0.1  # of macro AUC; the least that was seen is 0.12
CLASSES = ("NV", "MEL", "BCC", "BKL")  # the others have a handful of images each
BUDGET = {"epochs": 5, "lr": 4e-3}
LONGER = {"adadfkd": 20, "tss_kd": 30}  # epochs: one makes its images first, one learns slowly
# A step at a rate of nearly nothing leaves a network as it started.
START = {"epochs": 1, "max_steps": 1, "lr": 1e-12, "weight_decay": 0.0}


def drawn(folder: Path) -> Path:
    """The frequent classes of the synthetic set, a folder a class."""
    data = synthesise(folder / "drawn", IMAGES, 64, seed=7, workers=1)
    with open(data / f"{NAME}_GroundTruth.csv", newline="") as file:
        for row in csv.DictReader(file):
            (name,) = (key for key, value in row.items() if value == "1.0")
            if name in CLASSES:
                own = folder / "classes" / name
                own.mkdir(parents=True, exist_ok=True)
                shutil.copy(data / f"{NAME}_Input" / f"{row['image']}.jpg", own)
    return folder / "classes"


def settings(folder: Path, images: Path) -> Config:
    """What all methods share: images, teachers, and how long."""
    data = small.data_config(
        folder=str(images), store=str(folder / "store"), px=PX, layout="folders",
        test_fraction=0.25,
    )  # fmt: skip

    def fit(**changes) -> FitConfig:
        return small.fit(batch_size=24, watch="balanced_accuracy", class_weight_power=0.5,
                         sampler_power=0.5, clip_norm=5.0, save_every_steps=1000,
                         **changes)  # fmt: skip

    made = small.config(folder / "runs", "supervised", data=data, student_fit=fit(**BUDGET))
    able = fit(epochs=8, lr=4e-3)
    return replace(
        made, teacher=replace(made.teacher, fit=able),
        teachers=[replace(teacher, fit=able) for teacher in made.teachers],
        evaluation=replace(made.evaluation, draws=100),
    )  # fmt: skip


def held_out_auc(config: Config, methods: list[str], capsys) -> dict[str, float]:
    """Mean macro AUC of validation and test part, by method, after `dermdistill compare`.

    It trains and scores as `dermdistill distill` does, without an export and a report for each.
    """
    recipe = Path(config.output).with_suffix(".yaml")
    recipe.write_text(yaml.safe_dump(to_dict(config)))
    assert main([
        "compare", "--config", str(recipe), "--methods", ",".join(methods), "--seeds", str(SEED),
        "--ray", "none",
    ]) == 0, capsys.readouterr().err  # fmt: skip
    table = capsys.readouterr().out.split("runs: ")[1].split()[0]
    with open(table, newline="") as file:
        runs = {row["method"]: Path(row["run"]) for row in csv.DictReader(file)}
    metrics = {name: read_json(run / METRICS) for name, run in runs.items()}
    return {
        name: (of["validation"]["macro_auc"] + of["test"]["macro_auc"]) / 2
        for name, of in metrics.items()
    }


@pytest.mark.slow
def test_every_method_beats_its_untrained_start(tmp_path, capsys):
    config = settings(tmp_path, drawn(tmp_path))

    def auc(names: list[str], **changes) -> dict[str, float]:
        student = replace(config.student, fit=replace(config.student.fit, **changes))
        return held_out_auc(replace(config, student=student), names, capsys)

    start = auc(list(METHODS), **START)
    trained = auc([name for name in METHODS if name not in LONGER])
    for name, epochs in LONGER.items():
        trained |= auc([name], epochs=epochs)
    assert trained.keys() == METHODS.keys()
    short = {name: (start[name], end) for name, end in trained.items()
             if end < start[name] + MARGIN}  # fmt: skip
    assert not short
