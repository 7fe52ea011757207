"""One training step as this package does it and as published, from the same files.

`prepare` writes images, a teacher's run and starting weights into a folder; `build` makes of them,
in whichever process asks, a step that can be done again and again.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import nn

from dermdistill.config import DataConfig, FitConfig, NetworkConfig, ViewsConfig, to_dict
from dermdistill.data.dataset import Dataset, open_dataset
from dermdistill.data.phantom import synthesise
from dermdistill.data.views import QUARTER_TURNS, Augmentation, make_views
from dermdistill.methods import build_method
from dermdistill.models import Backbone, build_backbone, compile_learning, freeze, load_network
from dermdistill.run import BEST, PROVENANCE, write_json
from dermdistill.runtime import seed_step, start_fabric
from dermdistill.train import Learner, Trainer
from dermdistill.train.checkpoint import save_weights
from dermdistill.train.schedule import class_weights
from dermdistill.train.teachers import FrozenTeachers
from dermdistill.types import Batch, Views, total_loss
from published import PublishedPretext, PublishedStudent

CLASSES = 8  # of the synthetic images, as of ISIC 2019
TEACHER_RUN, START, HEAD = "teacher", "start.safetensors", "head.safetensors"


@dataclass(frozen=True)
class Setting:
    """What a step works on.

    Args:
        folder: where the files are.
        images: of a batch, each in four views.
        px: side of the images.
        teacher, student: timm's names.
        student_weights: "none", or a file of weights.
        teacher_steps: that the teacher has learnt the images for; by default none.
        seed: of everything drawn.
    """

    folder: Path
    images: int
    px: int = 224
    teacher: str = "resnet50"
    student: str = "mobilenetv2_100"
    student_weights: str = "none"
    teacher_steps: int = 0
    seed: int = 0

    @property
    def fit(self) -> FitConfig:
        """The official code's optimiser; the rate stays where it is."""
        return FitConfig(batch_size=self.images, schedule="constant")

    def dataset(self) -> Dataset:
        """The synthetic images."""
        data = DataConfig(str(self.folder / "images"), px=self.px, workers=1)
        return open_dataset(data, self.folder, progress=False)

    def batch(self, data: Dataset) -> Batch:
        """Its first images in four views, varied."""
        seed_step(self.seed, "batch")
        part, rows = data.train, torch.arange(self.images)
        pixels = part.pixels(rows.numpy())
        views = make_views(pixels, QUARTER_TURNS, Augmentation(ViewsConfig()))
        target = torch.from_numpy(part.labels[: self.images])
        return Batch(views, target, part.ids[: self.images], rows)


def prepare(setting: Setting) -> None:
    """Write the images, a teacher's run directory and the starting weights.

    Random weights, as time does not depend on them; the teacher's batch norms get the statistics of
    the images, so that its maps have the scale of a trained network's.
    """
    torch.manual_seed(setting.seed)
    synthesise(setting.folder / "images", 2 * setting.images + 64, setting.px, seed=7, workers=1)
    data = setting.dataset()
    config = NetworkConfig(setting.teacher, "none", {"zero_init_last": False})
    teacher = build_backbone(config, CLASSES)
    for norm in teacher.modules():
        if isinstance(norm, nn.BatchNorm2d):
            norm.momentum = None
    with torch.no_grad():
        teacher.train()(setting.batch(data).images[:, 0])
    _teach(teacher, setting, data)
    run = setting.folder / TEACHER_RUN
    run.mkdir()
    write_json(run / PROVENANCE, {"classes": data.classes, "network_config": to_dict(config)})
    save_weights(run / BEST, teacher.state_dict())
    learner = _learner(setting, data, "ssd_kd")
    save_weights(setting.folder / START, learner.state_dict())
    pretext = _learner(setting, data, "pretext")
    save_weights(setting.folder / HEAD, pretext.state_dict())


def _teach(teacher: nn.Module, setting: Setting, data: Dataset) -> None:
    """Let the teacher learn, in the form that any network here is trained in."""
    optimiser = torch.optim.AdamW(teacher.parameters(), 1e-3)
    teacher.to(memory_format=torch.channels_last)
    for step in range(setting.teacher_steps):
        rows = np.random.default_rng(step).permutation(len(data.train))[: setting.images]
        views = make_views(data.train.pixels(rows), Views(1), Augmentation(ViewsConfig()))
        with torch.autocast("cpu", torch.bfloat16):
            logits = teacher(views[:, 0].contiguous(memory_format=torch.channels_last)).logits
        optimiser.zero_grad()
        F.cross_entropy(logits.float(), torch.from_numpy(data.train.labels[rows])).backward()
        optimiser.step()
    teacher.to(memory_format=torch.contiguous_format)


def _learner(setting: Setting, data: Dataset, stage: str, head: nn.Module | None = None) -> Learner:
    method = build_method("ssd_kd")
    teacher = load_network(setting.folder / TEACHER_RUN).widths(setting.px)
    counts = torch.bincount(torch.from_numpy(data.train.labels), minlength=CLASSES)
    student = None
    if stage == "pretext":
        method = method.pretext()
    else:
        config = NetworkConfig(setting.student, setting.student_weights)
        student = build_backbone(config, CLASSES)
    labels, weights = torch.from_numpy(data.train.labels), class_weights(counts, 1.0)
    return Learner(method, student, [], [teacher], setting.px, labels, weights, head)


class Step(NamedTuple):
    """A step on always the same batch.

    Attributes:
        learn: does it once more, and returns its loss.
        trained: what it changes.
    """

    learn: Callable[[], float]
    trained: nn.Module


def build(setting: Setting, form: str, stage: str, precision: str) -> Step:
    """The step of a stage ("ssd_kd", "pretext") in a form ("ours", "published")."""
    fabric = start_fabric(precision, "cpu")
    data = setting.dataset()
    batch = setting.batch(data)
    head = _learner(setting, data, "pretext")
    head.load_state_dict(load_file(setting.folder / HEAD))
    frozen = None if stage == "pretext" else freeze(head.adapters)
    learner = head if stage == "pretext" else _learner(setting, data, stage, frozen)
    if stage != "pretext":
        learner.load_state_dict(load_file(setting.folder / START))
    run, fit = setting.folder / TEACHER_RUN, setting.fit
    if form == "ours":
        compile_learning(learner)
        teachers = FrozenTeachers([run], data.classes, False, fabric, setting.px, compiled=True)
        trainer = Trainer(
            learner.train(), teachers, data, fit, ViewsConfig(), setting.seed, fabric, run, stage,
            shown=False,
        )  # fmt: skip
        return Step(lambda: float(total_loss(trainer.learn(batch)[0]).detach()), learner)
    teacher: Backbone = load_network(run)
    sgd = (fit.lr, fit.momentum, fit.weight_decay)
    if stage == "pretext":
        plain = PublishedPretext(teacher, learner.adapters["teacher_head"], *sgd)
    else:
        plain = PublishedStudent(
            freeze(teacher), learner.student, learner.adapters, frozen["teacher_head"],
            learner.class_weights, *sgd,
        )  # fmt: skip
    return Step(lambda: float(plain.learn(batch)), learner)
