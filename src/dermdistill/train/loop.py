"""The training loop: batches, steps, validation, checkpoints, and exact continuation."""

import contextlib
import time
from collections.abc import Callable, Iterator
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
from dermdistill.errors import TerminatedError
from dermdistill.models.norm import globalise
from dermdistill.run import BEST, LAST
from dermdistill.runtime import derived_seed, layout, seed_step
from dermdistill.stop import Stop, sigterm
from dermdistill.train.checkpoint import save_checkpoint, save_weights
from dermdistill.train.history import History, NoHistory
from dermdistill.train.learner import Learner
from dermdistill.train.order import epoch_order
from dermdistill.train.parallel import any_process, check_shares, own_share
from dermdistill.train.schedule import Schedule, build_optimiser
from dermdistill.train.state import Progress, Stateful, restore, state_of
from dermdistill.train.validation import validation_figures
from dermdistill.train.watch import NumberWatch
from dermdistill.types import Batch, Taps, Terms, total_loss

HISTORY_STEPS = 20  # steps that one line of the training history averages; an epoch's end ends one
Teach = Callable[[Batch], tuple[Taps, ...]]


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
        self.processes, self.first = self.fabric.world_size, self.fabric.global_rank == 0
        self.batch_size = check_shares(self.config.batch_size, len(self.data.train), self.processes)
        if self.processes > 1:
            for network in filter(None, (self.learner.student, *self.learner.peers)):
                globalise(network)
        self.steps_per_epoch = len(self.data.train) // self.batch_size
        self.learner.to(self.fabric.device, memory_format=layout(self.fabric))
        self.augmentation = Augmentation(self.views)
        optimiser = build_optimiser(self.learner.parameters(), self.config)
        self.schedule = Schedule(optimiser, self.config, self.steps_per_epoch, self.watch)
        self.ema = None
        if self.config.ema_decay and self.learner.student is not None:
            self.ema = ModelEmaV3(self.learner.student, decay=self.config.ema_decay)
        self.wrapped, self.optimiser = self.fabric.setup(self.learner, optimiser)
        self.progress = Progress()
        self.sums: dict[str, Tensor] = {}  # each term's sum, and over how many steps
        self.numbers, self.stop = NumberWatch(), Stop()

    @property
    def watch(self) -> str:
        """The validation figure that judges an epoch; a pretext has no other than its loss."""
        return "loss" if self.learner.student is None else self.config.watch

    @property
    def judged(self) -> nn.Module:
        """What is validated and kept: the student or its moving average, or a pretext's heads."""
        if self.learner.student is None:
            return self.learner.adapters
        return (self.learner.student if self.ema is None else self.ema.module).settled(
            self.data.store.px
        )

    def run(self) -> Progress:
        """Train to the end, from the start or from the checkpoint in the run directory.

        Raises:
            RunError: the checkpoint, the disk or the numbers are no good.
            DataError: the store changed.
            TerminatedError: SIGTERM came; the state after the last step is saved.
        """
        self._restore()
        where = self.progress.history_lines, self.progress.step
        history = History(self.folder, *where) if self.first else NoHistory()
        shown = self.shown and self.first
        display = Display(self.stage, self.schedule.total, self.progress.step, shown)
        with contextlib.closing(history), contextlib.closing(display), self._terminable(history):
            while not self.progress.finished:
                self._epoch(history, display)
                self._judge(history, display)
                self._count_epoch()
                self._save(history)
                self._end_if_told()
        if self.first:
            save_weights(self.folder / LAST, self.judged.state_dict())
        return self.progress

    @contextlib.contextmanager
    def _terminable(self, history: History) -> Iterator[None]:
        """Answer SIGTERM by saving; it is answered only where the state is between two steps."""
        with sigterm(self.stop.ask):
            try:
                yield
            except TerminatedError as error:
                self._save(history)
                raise TerminatedError(
                    f"{self.stage}: ended by SIGTERM after step {self.progress.step} of "
                    f"{self.schedule.total}, which is saved in {self.folder}; the same command "
                    "continues it"
                ) from error

    def _end_if_told(self) -> None:
        """End here if SIGTERM came to any process: all of them end after the same step."""
        self.stop.asked = any_process(self.stop.asked)
        self.stop.check()

    def _count_epoch(self) -> None:
        """One more epoch is trained and judged; maybe it was the last."""
        progress, config = self.progress, self.config
        progress.epoch += 1
        progress.finished = (
            progress.epoch >= config.epochs
            or progress.step >= self.schedule.total
            or 0 < config.early_stop_epochs <= progress.stale_epochs
        )

    def _epoch(self, history: History, display: Display) -> None:
        """The rest of the current epoch, step by step."""
        progress = self.progress
        order = epoch_order(self.data.train, self.config.sampler_power, self.seed, progress.epoch,
                            self.data.shuffle_shards)  # fmt: skip
        self.learner.train()
        first = progress.step - progress.epoch * self.steps_per_epoch
        for index in range(first, min(self.steps_per_epoch, first + self._left)):
            started = time.monotonic()
            self._step(order[index * self.batch_size : (index + 1) * self.batch_size])
            progress.step += 1
            progress.wall_s += time.monotonic() - started
            done, means = index + 1, {}
            if done % HISTORY_STEPS == 0 or done == self.steps_per_epoch or not self._left:
                means = self._flush(history)
            display.step(means)
            self._end_if_told()
            if self._left and progress.step % self.config.save_every_steps == 0:
                self._save(history)

    @property
    def _left(self) -> int:
        """Steps until the training's last."""
        return self.schedule.total - self.progress.step

    def _step(self, chosen: np.ndarray) -> None:
        """One batch: its views, what is learnt from them, and what is noted of it."""
        progress, part = self.progress, self.data.train
        rank = [self.fabric.global_rank] if self.processes > 1 else []
        seed_step(self.seed, "step", progress.step, *rank)
        own = own_share(chosen, self.fabric.global_rank, self.processes)
        self.data.store.check(part.rows[own])
        terms, norm = self.learn(self._batch(part, own, self.augmentation))
        self.numbers.note(progress.step + 1, [part.ids[i] for i in chosen], terms, norm)
        values = {"loss": total_loss(terms)} | {name: value for name, (_, value) in terms.items()}
        for name, value in values.items():
            once = torch.stack((value.detach(), torch.ones_like(value)))
            self.sums[name] = self.sums.get(name, 0) + once

    def learn(self, batch: Batch) -> tuple[Terms, Tensor]:
        """Teacher, student, terms, gradient, weights; return the terms and the gradient's norm."""
        terms = self._terms(batch)
        self.optimiser.zero_grad(set_to_none=True)
        self.fabric.backward(total_loss(terms))
        norm = self._clip()
        self.optimiser.step()
        self.schedule.step()
        with self.fabric.autocast():  # the lesson's taps are in the type of the forward pass
            self.learner.after_step(self.progress.step + 1)
        if self.ema is not None:
            self.ema.update(self.learner.student)
        return terms, norm

    def _clip(self) -> Tensor:
        """The norm of the whole gradient, which is then shortened if the config says so."""
        if self.config.clip_norm:
            # What is no number is told later, when it is looked for, by its term's name.
            return self.fabric.clip_gradients(self.wrapped, self.optimiser,
                                              max_norm=self.config.clip_norm,
                                              error_if_nonfinite=False)  # fmt: skip
        gradients = [p.grad for p in self.learner.parameters() if p.grad is not None]
        return nn.utils.get_total_norm(gradients)

    def _look(self) -> None:
        """Stop where a loss or a gradient is no number, before anything of it is saved."""
        saved = f"The last good state is in {self.folder}"
        self.numbers.look(self.stage, (
            f"{saved}; the same command would come to this step again. Look at these images, lower "
            f"{self.stage}.fit.lr (now {self.config.lr}), set clip_norm, or try precision fp32"
        ))  # fmt: skip

    def _terms(self, batch: Batch) -> Terms:
        """The method's weighted terms for a batch, at this point of the training."""
        step = self.progress.step
        done_ratio, common_seed = min(step / self.schedule.total, 1.0), None
        if self.processes > 1 and self.learner.training:
            common_seed = derived_seed(self.seed, "terms", step)
        return self.wrapped(batch, self.teach, done_ratio, common_seed)

    def _batch(self, part: Part, chosen: np.ndarray, augmentation: Augmentation | None) -> Batch:
        """Chosen images of a part as a batch on the device."""
        pixels = part.pixels(chosen).to(self.fabric.device, non_blocking=True)
        target = torch.from_numpy(part.labels[chosen]).to(self.fabric.device)
        method = self.learner.method
        images = make_views(pixels, method.views, augmentation)
        if augmentation is not None:
            images = method.vary(images)
        rows = torch.from_numpy(chosen).to(target)
        ids, known = [part.ids[i] for i in chosen], part.about(chosen)
        return Batch(images, target, ids, rows, method.views.apart, known)

    def _flush(self, history: History) -> dict[str, float]:
        """Write the means of the steps since the last line."""
        self._look()
        means = {name: float(total) / float(count) for name, (total, count) in self.sums.items()}
        self.sums = {}
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
        with self.stop.anywhere():
            figures = self.fabric.broadcast(self._validate() if self.first else None)
        watched = figures[self.watch]
        worth = watched if self.watch == "loss" else -watched
        if worth < progress.best_figure:
            progress.best_figure, progress.best_epoch = worth, progress.epoch
            progress.stale_epochs = 0
            if self.first:
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
        self.data.store.check(self.data.validation.rows)
        if self.learner.student is None:
            return {"loss": self._validation_terms(self.data.validation)}
        return validation_figures(
            self.judged, self.data.validation, self.data.classes, self.learner.class_weights,
            self.fabric,
        )  # fmt: skip

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
        """Save a state that is good: of numbers, and of the store that the run began with."""
        self._look()
        self.data.store.check()
        if not self.first:
            return
        self.progress.history_lines = history.lines
        save_checkpoint(self.folder, state_of(self._parts, self.progress, self.sums))

    def _restore(self) -> None:
        self.progress, sums = restore(self.folder, self._parts)
        self.sums = {name: value.to(self.fabric.device) for name, value in sums.items()}

    @property
    def _parts(self) -> dict[str, Stateful]:
        """What changes from step to step, by the name it has in a checkpoint."""
        parts = {"learner": self.learner, "optimiser": self.optimiser, "schedule": self.schedule}
        return parts | ({} if self.ema is None else {"ema": self.ema})
