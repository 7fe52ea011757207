"""SSD-KD's two stages as published, in plain eager float32: what the benchmarks compare with.

Written from the formulas of the official code, its crash in the second stage mended: all Gram
matrices [views C C], all differences [views views C], all cosines [views views views], similarities
from products of all pairs [turned upright C]. One layout, torch's default; an optimiser that goes
parameter by parameter. The first stage back-propagates through the frozen teacher.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dermdistill.types import Batch, Taps
from relations import GRAM_WEIGHT, published_gram, published_samples

CE_WEIGHT, KD_WEIGHT, TURNED_WEIGHT, SS_WEIGHT = 0.1, 0.9, 2.7, 10.0
KD_TEMPERATURE, SS_TEMPERATURE, SS_KEPT = 4.0, 0.5, 0.75


def divergence(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """T^2 KL of softened rows, a mean over rows."""
    soft = F.softmax(teacher / temperature, 1)
    return F.kl_div(F.log_softmax(student / temperature, 1), soft, reduction="batchmean") * (
        temperature**2
    )


def similarities(rows: Tensor, views: int) -> Tensor:
    """Cosines [3N N] of every turned view to every upright one, of image-major rows."""
    split = rows.unflatten(0, (-1, views))
    turned, upright = split[:, 1:].flatten(0, 1), split[:, 0]
    return F.cosine_similarity(turned[:, None, :], upright[None, :, :], dim=2)


def trusted(scores: Tensor, own: Tensor, share: float) -> Tensor:
    """Rows that are kept: all whose own column comes first, and the less wrong of the others."""
    order = scores.argsort(dim=1, descending=True, stable=True)
    rank = (order == own[:, None]).int().argmax(1)
    right = int((rank == 0).sum())
    return rank.argsort(stable=True)[: right + int((len(rank) - right) * share)]


class PublishedStudent:
    """The second stage's step.

    Args:
        teacher: frozen.
        student: what is trained.
        adapters: `student_head` and `connector`, trained beside it.
        teacher_head: of the first stage, frozen.
        class_weights: of the cross entropy.
        lr, momentum, weight_decay: of SGD.
    """

    def __init__(
        self, teacher: nn.Module, student: nn.Module, adapters: nn.ModuleDict,
        teacher_head: nn.Module, class_weights: Tensor, lr: float, momentum: float,
        weight_decay: float,
    ):  # fmt: skip
        self.teacher, self.student, self.adapters = teacher, student.train(), adapters.train()
        self.teacher_head, self.class_weights = teacher_head, class_weights
        trained = [*student.parameters(), *adapters.parameters()]
        self.optimiser = torch.optim.SGD(trained, lr, momentum, weight_decay=weight_decay)

    def learn(self, batch: Batch) -> Tensor:
        """One step; returns its loss."""
        images = batch.images.flatten(0, 1)
        with torch.no_grad():
            taught = self.teacher(images)
        loss = self.loss(batch, self.student(images), taught)
        self.optimiser.zero_grad()
        loss.backward()
        self.optimiser.step()
        return loss.detach()

    def loss(self, batch: Batch, student: Taps, teacher: Taps) -> Tensor:
        """The weighted sum of all terms."""
        views = batch.views
        upright = torch.arange(0, len(student.logits), views)
        turned = torch.arange(len(student.logits)).view(-1, views)[:, 1:].flatten()
        s, t = student.logits, teacher.logits
        with torch.no_grad():
            t_similar = similarities(self.teacher_head(teacher.embedding), views)
            t_gram = published_gram(teacher.map)
        s_similar = similarities(self.adapters["student_head"](student.embedding), views)
        own = torch.arange(len(batch.target)).repeat_interleave(views - 1)
        kept = trusted(t_similar, own, SS_KEPT)
        gram = F.mse_loss(published_gram(self.adapters["connector"](student.map)), t_gram).sqrt()
        return (
            CE_WEIGHT * F.cross_entropy(s[upright], batch.target, self.class_weights)
            + KD_WEIGHT * divergence(s[upright], t[upright], KD_TEMPERATURE)
            + TURNED_WEIGHT * divergence(s[turned], t[turned], KD_TEMPERATURE)
            + SS_WEIGHT * divergence(s_similar[kept], t_similar[kept], SS_TEMPERATURE)
            + published_samples(student.embedding, teacher.embedding)
            + GRAM_WEIGHT * gram
        )


class PublishedPretext:
    """The first stage's step: a gradient through the whole teacher, at learning rate 0.

    Args:
        teacher: frozen in its batch statistics, but part of the graph.
        head: what is trained.
        lr, momentum, weight_decay: of SGD.
    """

    def __init__(
        self, teacher: nn.Module, head: nn.Module, lr: float, momentum: float, weight_decay: float
    ):
        self.teacher, self.head = teacher.requires_grad_(True).eval(), head.train()
        groups = [
            {"params": [*teacher.parameters()], "lr": 0.0},
            {"params": [*head.parameters()], "lr": lr},
        ]
        self.optimiser = torch.optim.SGD(groups, lr, momentum, weight_decay=weight_decay)

    def learn(self, batch: Batch) -> Tensor:
        """One step; returns its loss."""
        rows = self.head(self.teacher(batch.images.flatten(0, 1)).embedding)
        similar = similarities(rows, batch.views)
        own = torch.arange(len(batch.target)).repeat_interleave(batch.views - 1)
        loss = F.cross_entropy(similar, own)
        self.optimiser.zero_grad()
        loss.backward()
        self.optimiser.step()
        return loss.detach()
