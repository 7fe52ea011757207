"""Optimisers and learning-rate schedules, by name."""

import math
from collections.abc import Iterable

import torch
from torch import nn
from torch.optim import SGD, AdamW, Optimizer
from torch.optim.lr_scheduler import LambdaLR, ReduceLROnPlateau

from dermdistill.config import FitConfig


def build_optimiser(parameters: Iterable[nn.Parameter], config: FitConfig) -> Optimizer:
    """SGD with momentum or AdamW over all trained weights, adapters included.

    Fused: one pass over all of them on any device, instead of several over each.
    """
    parameters = [p for p in parameters if p.requires_grad]
    if config.optimiser == "sgd":
        return SGD(parameters, config.lr, config.momentum, weight_decay=config.weight_decay,
                   fused=True)  # fmt: skip
    return AdamW(parameters, config.lr, weight_decay=config.weight_decay, fused=True)


class Schedule:
    """A warm-up and what follows it; steps after every batch, looks at the figure every epoch.

    Args:
        optimiser: whose rate is set.
        config: which schedule.
        steps_per_epoch: batches of an epoch.
        watch: the figure that `epoch` is told: "loss", or one that grows as it gets better.
    """

    def __init__(self, optimiser: Optimizer, config: FitConfig, steps_per_epoch: int, watch: str):
        self.config = config
        self.total = config.epochs * steps_per_epoch
        if config.max_steps:
            self.total = min(self.total, config.max_steps)
        self.warmup = round(config.warmup_epochs * steps_per_epoch)
        self.per_epoch = steps_per_epoch
        self.by_step = None
        self.plateau = None
        if config.schedule == "plateau":
            self.plateau = ReduceLROnPlateau(
                optimiser,
                mode="min" if watch == "loss" else "max",
                factor=config.lr_factor,
                patience=config.patience_epochs,
                min_lr=config.min_lr,
            )
        else:
            self.by_step = LambdaLR(optimiser, self._factor)

    def _factor(self, step: int) -> float:
        """Share of the peak rate at a step, in [0, 1]."""
        if step < self.warmup:
            return (step + 1) / (self.warmup + 1)
        if self.config.schedule == "cosine":
            done = (step - self.warmup) / max(1, self.total - self.warmup)
            return 0.5 * (1 + math.cos(math.pi * min(1.0, done)))
        if self.config.schedule == "steps":
            passed = sum(step >= m * self.per_epoch for m in self.config.milestones)
            return self.config.lr_factor**passed
        return 1.0

    def step(self) -> None:
        """After a batch."""
        if self.by_step is not None:
            self.by_step.step()

    def epoch(self, figure: float) -> None:
        """After an epoch's validation, with the watched figure of that epoch."""
        if self.plateau is not None:
            self.plateau.step(figure)

    def state_dict(self) -> dict:
        """Plain values, for a checkpoint."""
        state = (self.by_step or self.plateau).state_dict()
        return {key: value for key, value in state.items() if key != "lr_lambdas"}

    def load_state_dict(self, state: dict) -> None:
        """Continue where a checkpoint stood.

        Raises:
            KeyError: it is of another schedule; torch's own would take up any names.
        """
        if state.keys() != self.state_dict().keys():
            raise KeyError(f"a schedule of {sorted(state)}")
        (self.by_step or self.plateau).load_state_dict(
            state | ({"lr_lambdas": [None]} if self.by_step else {})
        )


def class_weights(counts: torch.Tensor, power: float) -> torch.Tensor:
    """(N / N_class) ** power rounded to 3 digits; 0 for a class without an image.

    Source: the official SSD-KD code (power 1, rounded to 3 digits).
    """
    present = counts > 0
    ratio = torch.where(present, counts.sum() / counts.clamp(min=1), torch.zeros(()))
    return torch.where(present, ratio**power, ratio).mul(1000).round().div(1000)
