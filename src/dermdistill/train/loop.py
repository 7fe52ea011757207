"""The training loop: batches, steps, validation, checkpoints, and exact continuation."""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from lightning_fabric import Fabric
from timm.utils import ModelEmaV3
from torch import Tensor, nn

from dermdistill.config import FitConfig, ViewsConfig
from dermdistill.data.dataset import Dataset, Part
from dermdistill.data.views import Augmentation, make_views
from dermdistill.display import Display
from dermdistill.errors import RunError
from dermdistill.evaluate.metrics import classification_metrics
from dermdistill.evaluate.predict import as_predictions, predict_logits
from dermdistill.losses import cross_entropy_loss
from dermdistill.run import BEST, LAST
from dermdistill.runtime import derived_seed, seed_step
from dermdistill.train.checkpoint import load_checkpoint, save_checkpoint, save_weights
from dermdistill.train.history import History
from dermdistill.train.learner import Learner
from dermdistill.train.schedule import Schedule, build_optimiser
from dermdistill.types import Batch, Taps, Terms, total_loss

HISTORY_STEPS = 20  # steps that one line of the training history averages; an epoch's end ends one
Teach = Callable[[Batch], tuple[Taps, ...]]


@dataclass
class Progress:
    """Where a training stands; plain numbers, saved with every checkpoint."""

    epoch: int = 0
    step: int = 0  # in all epochs together
    best_figure: float = math.inf  # of the watched figure, turned so that less is better
    best_epoch: int = -1
    stale_epochs: int = 0
    history_lines: int = 0
    wall_s: float = 0.0
    finished: bool = False


@dataclass
class Trainer:
    """One stage's training; `run` does it.

    Args:
        learner: what is trained.
        teach: gives the frozen teachers' taps for a batch (none where there are none).
        data: the parts.
        config: how long, how fast, what is watched.
        views: how training images are varied.
        seed: of the order of images, the views and the network's own draws.
        fabric: device and number format.
        folder: the run directory.
        stage: the stage's name, for the history and the display.
        shown: show progress.
    """

    learner: Learner
    teach: Teach
    data: Dataset
    config: FitConfig
    views: ViewsConfig
    seed: int
    fabric: Fabric
    folder: Path
    stage: str
    shown: bool = True

    def __post_init__(self) -> None:
        self.batch_size = min(self.config.batch_size, len(self.data.train))
        self.steps_per_epoch = len(self.data.train) // self.batch_size
        self.learner.to(self.fabric.device, memory_format=torch.channels_last)
        self.augmentation = Augmentation(self.views)
        optimiser = build_optimiser(self.learner.parameters(), self.config)
        self.schedule = Schedule(optimiser, self.config, self.steps_per_epoch, self.watch)
        self.ema = None
        if self.config.ema_decay and self.learner.student is not None:
            self.ema = ModelEmaV3(self.learner.student, decay=self.config.ema_decay)
        self.wrapped, self.optimiser = self.fabric.setup(self.learner, optimiser)
        self.progress = Progress()
        self.sums: dict[str, Tensor] = {}  # each term's sum, and over how many steps

    @property
    def watch(self) -> str:
        """The validation figure that judges an epoch; a pretext has no other than its loss."""
        return "loss" if self.learner.student is None else self.config.watch

    @property
    def judged(self) -> nn.Module:
        """What is validated and kept: the student or its moving average, or a pretext's heads."""
        if self.learner.student is None:
            return self.learner.adapters
        return self.learner.student if self.ema is None else self.ema.module

    def run(self) -> Progress:
        """Train to the end, from the start or from the checkpoint in the run directory."""
        self._restore()
        progress, config = self.progress, self.config
        history = History(self.folder, progress.history_lines, progress.step)
        display = Display(self.stage, self.schedule.total, progress.step, self.shown)
        try:
            while not progress.finished:
                self._epoch(history, display)
                self._judge(history, display)
                progress.epoch += 1
                progress.finished = (
                    progress.epoch >= config.epochs
                    or progress.step >= self.schedule.total
                    or 0 < config.early_stop_epochs <= progress.stale_epochs
                )
                self._save(history)
        finally:
            history.close()
            display.close()
        save_weights(self.folder / LAST, self.judged.state_dict())
        return progress

    def _epoch(self, history: History, display: Display) -> None:
        """The rest of the current epoch, step by step."""
        progress = self.progress
        order = epoch_order(self.data.train, self.config.sampler_power, self.seed, progress.epoch)
        self.learner.train()
        first = progress.step - progress.epoch * self.steps_per_epoch
        for index in range(first, self.steps_per_epoch):
            started = time.monotonic()
            self._step(order[index * self.batch_size : (index + 1) * self.batch_size])
            progress.step += 1
            progress.wall_s += time.monotonic() - started
            last = progress.step >= self.schedule.total
            done, means = index + 1, {}
            if done % HISTORY_STEPS == 0 or done == self.steps_per_epoch or last:
                means = self._flush(history, done % HISTORY_STEPS or HISTORY_STEPS)
            display.step(means)
            if last:
                break
            if progress.step % self.config.save_every_steps == 0:
                self._save(history)

    def _step(self, chosen: np.ndarray) -> None:
        """One batch: views, teacher, student, terms, gradient, weights."""
        progress, part = self.progress, self.data.train
        seed_step(self.seed, "step", progress.step)
        batch = self._batch(part, chosen, self.augmentation)
        terms = self._terms(batch)
        loss = total_loss(terms)
        self.optimiser.zero_grad(set_to_none=True)
        self.fabric.backward(loss)
        if self.config.clip_norm:
            # A loss that is no number is told when the history is written, by its term's name.
            self.fabric.clip_gradients(
                self.wrapped,
                self.optimiser,
                max_norm=self.config.clip_norm,
                error_if_nonfinite=False,
            )
        self.optimiser.step()
        self.schedule.step()
        with self.fabric.autocast():  # the lesson's taps are in the type of the forward pass
            self.learner.after_step(progress.step + 1)
        if self.ema is not None:
            self.ema.update(self.learner.student)
        for name, value in {"loss": loss, **{n: v for n, (_, v) in terms.items()}}.items():
            once = torch.stack((value.detach(), torch.ones_like(value)))
            self.sums[name] = self.sums.get(name, 0) + once

    def _terms(self, batch: Batch) -> Terms:
        """The method's weighted terms for a batch, at this point of the training."""
        done_ratio = min(self.progress.step / self.schedule.total, 1.0)
        return self.wrapped(batch, self.teach(batch), done_ratio)

    def _batch(self, part: Part, chosen: np.ndarray, augmentation: Augmentation | None) -> Batch:
        """Chosen images of a part as a batch on the device."""
        pixels = part.pixels(chosen).to(self.fabric.device, non_blocking=True)
        target = torch.from_numpy(part.labels[chosen]).to(self.fabric.device)
        method = self.learner.method
        images = make_views(pixels, method.views, augmentation)
        if augmentation is not None:
            images = method.vary(images)
        rows = torch.from_numpy(chosen).to(target)
        return Batch(images, target, [part.ids[i] for i in chosen], rows, method.views.apart)

    def _flush(self, history: History, steps: int) -> dict[str, float]:
        """Write the means of the steps since the last line; stop on a loss that is no number."""
        means = {name: float(total) / float(count) for name, (total, count) in self.sums.items()}
        self.sums = {}
        bad = [name for name, value in means.items() if not math.isfinite(value)]
        if bad:
            raise RunError(
                f"{' and '.join(bad)} became {means[bad[0]]} within the last {steps} steps before "
                f"step {self.progress.step} of {self.stage}. Lower {self.stage}.fit.lr "
                f"(now {self.config.lr}), set clip_norm, or try precision fp32"
            )
        loss = means.pop("loss")
        history.add({
            "stage": self.stage, "split": "train", "epoch": self.progress.epoch,
            "step": self.progress.step, "loss": loss, "terms": means,
            "lr": self.optimiser.param_groups[0]["lr"],
        })  # fmt: skip
        return {"loss": loss, **means}

    def _judge(self, history: History, display: Display) -> None:
        """Validate, keep the best, tell the schedule, and count epochs without progress."""
        progress = self.progress
        figures = self._validate()
        watched = figures[self.watch]
        worth = watched if self.watch == "loss" else -watched
        if worth < progress.best_figure:
            progress.best_figure, progress.best_epoch = worth, progress.epoch
            progress.stale_epochs = 0
            save_weights(self.folder / BEST, self.judged.state_dict())
        else:
            progress.stale_epochs += 1
        self.schedule.epoch(watched)
        history.add({
            "stage": self.stage, "split": "validation", "epoch": progress.epoch,
            "step": progress.step, **figures,
        })  # fmt: skip
        display.say(
            f"epoch {progress.epoch + 1}/{self.config.epochs}: validation "
            + ", ".join(f"{k.replace('_', ' ')} {v:.4f}" for k, v in figures.items())
            + (" (best)" if progress.best_epoch == progress.epoch else "")
        )

    def _validate(self) -> dict[str, float]:
        """The watched figures on the validation part."""
        part = self.data.validation
        if self.learner.student is None:
            return {"loss": self._validation_terms(part)}
        logits = predict_logits(self.judged, part, self.fabric)
        loss = cross_entropy_loss(
            logits, torch.from_numpy(part.labels), self.learner.class_weights.cpu()
        )
        metrics = classification_metrics(as_predictions(logits, part, self.data.classes))
        return {
            "loss": float(loss),
            "accuracy": metrics["accuracy"],
            "balanced_accuracy": metrics["balanced_accuracy"],
            **({"macro_auc": metrics["macro_auc"]} if metrics["macro_auc"] is not None else {}),
        }

    @torch.no_grad()
    def _validation_terms(self, part: Part) -> float:
        """The method's own loss on unvaried views, for stages that have no prediction."""
        self.learner.eval()
        size = min(self.batch_size, len(part))
        losses = []
        for first in range(0, len(part) - size + 1, size):
            batch = self._batch(part, np.arange(first, first + size), None)
            losses.append(float(total_loss(self._terms(batch))))
        return float(np.mean(losses))

    def _save(self, history: History) -> None:
        self.progress.history_lines = history.lines
        save_checkpoint(self.folder, {
            "learner": self.learner.state_dict(),
            "ema": None if self.ema is None else self.ema.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "schedule": self.schedule.state_dict(),
            "progress": vars(self.progress),
            "sums": self.sums,
        })  # fmt: skip

    def _restore(self) -> None:
        state = load_checkpoint(self.folder)
        if state is None:
            return
        self.learner.load_state_dict(state["learner"])
        if self.ema is not None:
            self.ema.load_state_dict(state["ema"])
        self.optimiser.load_state_dict(state["optimiser"])
        self.schedule.load_state_dict(state["schedule"])
        self.progress = Progress(**state["progress"])
        self.sums = {k: v.to(self.fabric.device) for k, v in state["sums"].items()}


def epoch_order(part: Part, power: float, seed: int, epoch: int) -> np.ndarray:
    """Positions of a part in the order of one epoch, a function of seed and epoch alone.

    Args:
        part: whose images.
        power: 0 shows every image once; otherwise as many are drawn with replacement, each with
            chance (N / N_class) ** power.
        seed: the run's.
        epoch: counted from 0.
    """
    rng = np.random.default_rng(derived_seed(seed, "order", epoch))
    if not power:
        return rng.permutation(len(part))
    chance = np.bincount(part.labels)[part.labels] ** -float(power)
    return rng.choice(len(part), size=len(part), p=chance / chance.sum())
