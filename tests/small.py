"""The smallest real thing: 128 synthetic images, networks that train in seconds, a whole config."""

import atexit
import functools
import json
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from dermdistill.config import (
    Config,
    DataConfig,
    FitConfig,
    NetworkConfig,
    PretextConfig,
    StudentConfig,
    TeacherConfig,
    ViewsConfig,
)
from dermdistill.data.dataset import Dataset, open_dataset
from dermdistill.data.phantom import synthesise
from dermdistill.evaluate.predictions import Predictions
from dermdistill.methods import build_method
from dermdistill.models import MetadataEncoder, build_backbone, compile_learning, freeze
from dermdistill.run import HISTORY
from dermdistill.runtime import seed_step, start_fabric
from dermdistill.train import Learner, Trainer
from dermdistill.train.schedule import class_weights
from dermdistill.train.teachers import ask

PX, IMAGES, BATCH = 32, 128, 16
TEACHER, STUDENT = "test_resnet", "test_efficientnet"
TEACHERS = (TEACHER, "test_convnext")  # of methods with several


@functools.cache
def scratch() -> Path:
    """A folder that all tests of this process share; it goes when the process ends."""
    folder = Path(tempfile.mkdtemp(prefix="dermdistill-tests-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


@functools.cache
def images() -> Path:
    """A synthetic data set in ISIC 2019's layout."""
    synthesise(scratch() / "data", IMAGES, 48, seed=7, workers=1)
    return scratch() / "data"


def data_config(**changes: Any) -> DataConfig:
    """Which images: the synthetic ones, decoded once for all tests."""
    settings = {"folder": str(images()), "px": PX, "store": str(scratch() / "store"), "folds": 3,
                "workers": 1}  # fmt: skip
    return DataConfig(**settings | changes)


def fit(**changes: Any) -> FitConfig:
    """A short training: two epochs, a checkpoint every two steps."""
    settings = {"epochs": 2, "batch_size": BATCH, "optimiser": "adamw", "lr": 2e-3,
                "schedule": "cosine", "early_stop_epochs": 0, "save_every_steps": 2}  # fmt: skip
    return FitConfig(**settings | changes)


def config(output: Path, method: str = "ssd_kd", seed: int = 5, **changes: Any) -> Config:
    """A whole distillation of seconds, between two of timm's test networks."""
    return Config(
        output=str(output),
        seed=seed,
        device="cpu",
        data=changes.pop("data", data_config()),
        teacher=TeacherConfig(NetworkConfig(TEACHER, weights="none"), fit(),
                              run=changes.pop("teacher_run", None)),
        teachers=changes.pop("teachers", [
            TeacherConfig(NetworkConfig(name, weights="none"), fit()) for name in TEACHERS
        ]),
        pretext=PretextConfig(fit(epochs=1)),
        student=StudentConfig(
            NetworkConfig(STUDENT, weights="none"), method, changes.pop("options", {}),
            changes.pop("student_fit", fit()),
        ),
        **changes,
    )  # fmt: skip


@functools.cache
def dataset() -> Dataset:
    """The three parts of the synthetic images."""
    return open_dataset(data_config(), scratch(), progress=False)


def teacher(seed: int = 1) -> nn.Module:
    """An untrained, frozen teacher; always the same one of a seed."""
    seed_step(seed, "teacher")
    return freeze(build_backbone(NetworkConfig(TEACHER, weights="none"), len(dataset().classes)))


def trainer(
    folder: Path,
    settings: FitConfig,
    method: str = "supervised",
    options: dict[str, Any] | None = None,
    init: int = 3,
    before_step: Callable[[], None] = lambda: None,
    teacher: nn.Module | None = None,
    metadata: str = "none",
    int8: bool = False,
    fused: bool = False,
) -> Trainer:
    """A trainer of the student as the stages build it.

    Args:
        folder: its run directory.
        settings: how it trains.
        method: by name.
        options: the method's hyper-parameters.
        init: seed of the weights that it starts from.
        before_step: called whenever the networks are asked, in the middle of every step.
        teacher: who teaches, if the method asks for somebody.
        metadata: how the student reads age, sex and site.
        int8: whether the student computes in 8 bits.
        fused: whether it computes in bf16, its norms by our kernels.
    """
    data, built, classes = dataset(), build_method(method, options), len(dataset().classes)
    teachers = [] if teacher is None else [teacher]
    widths = [teacher.widths(PX, built.stages) for teacher in teachers]
    first = built.pretext()
    seed_step(1, "pretext")  # the frozen head is the same whatever the student starts from
    pretext = freeze(nn.ModuleDict(first.adapters(None, *widths))) if first else None
    seed_step(init, "init")
    student, *peers = (
        build_backbone(
            NetworkConfig(STUDENT, weights="none", metadata=metadata, int8=int8),
            classes,
            MetadataEncoder.of(data.train.metadata),
        )
        for _ in range(1 + built.peers)
    )
    learner = Learner(
        built, built.enrol(student, *teachers), peers, widths, PX,
        torch.from_numpy(data.train.labels), _weights(data), pretext,
    )  # fmt: skip

    if fused:
        compile_learning(learner)
    learner.register_forward_pre_hook(lambda *_: before_step())

    fabric = start_fabric("bf16" if fused else "fp32", "cpu")

    def teach(batch):
        return ask(teachers, batch, built.stages)

    return Trainer(
        learner, teach, data, settings, ViewsConfig(), 3, fabric, folder, "student", shown=False
    )


def _weights(data: Dataset) -> torch.Tensor:
    counts = np.bincount(data.train.labels, minlength=len(data.classes))
    return class_weights(torch.from_numpy(counts), 1.0)


@functools.cache
def exported() -> Path:
    """A student trained for an epoch, with its bundle; to be read only."""
    from dermdistill.distill import distill
    from dermdistill.export import export_run

    run = distill(config(scratch() / "exported", "supervised", student_fit=fit(epochs=1)),
                  progress=False)  # fmt: skip
    export_run(run, ["onnx"])
    return run


def history(folder: Path, split: str | None = None) -> list[dict[str, Any]]:
    """A run's history, or the lines of one split."""
    lines = [json.loads(line) for line in (folder / HISTORY).read_text().splitlines()]
    return [line for line in lines if split in (None, line["split"])]


def predictions(run: Path, part: str) -> Predictions:
    """A run's predictions with their truth, from its two files."""
    return Predictions.load(run / f"predictions-{part}.csv", run / f"truth-{part}.csv")
