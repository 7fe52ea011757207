"""Our losses against torchdistill's and pytorch-metric-learning's, as installed: values, gradients.

Where they differ, the difference is applied to their side and has a row in docs/fidelity.md.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dermdistill import losses
from dermdistill.methods import build_method
from dermdistill.methods.adadfkd import relation_loss
from dermdistill.methods.relation_bank import bank_contrast_loss
from dermdistill.methods.review_kd import hierarchical_loss
from dermdistill.types import total_loss
from test_methods import lesson, project, random_inputs

mid_level = pytest.importorskip("torchdistill.losses.mid_level")
metric = pytest.importorskip("pytorch_metric_learning.losses")

SAMPLES, CLASSES, WIDTHS = 8, 5, (6, 9)
TAP = ("tap", "output", "tap", "output")
PAIR = {"pair": {side: {"path": "tap", "io": "output"} for side in ("student", "teacher")}}
KERNEL = {"type": "gaussian", "gamma": 0.4, "max_p": 2}
EXACT = 1e-9


@dataclass
class Case:
    """One loss, ours and theirs.

    Args:
        ours: of the inputs.
        theirs: of the same.
        inputs: names in `drawn`.
        apart: the relative difference that is allowed, of value and gradient.
    """

    ours: Callable[..., Tensor]
    theirs: Callable[..., Tensor]
    inputs: tuple[str, ...]
    apart: float = EXACT


def drawn() -> dict[str, Tensor]:
    """Inputs of every kind, the student's first; all in float64."""
    random = torch.Generator().manual_seed(3)

    def draw(*shape: int) -> Tensor:
        return torch.randn(SAMPLES, *shape, generator=random, dtype=torch.float64)

    found = {}
    for who, width in zip("st", WIDTHS, strict=True):
        found |= {
            f"{who}_rows": draw(width), f"{who}_map": draw(width, 4, 4),
            f"{who}_logits": draw(CLASSES), f"{who}_same_rows": draw(7),
            f"{who}_same_map": draw(7, 5, 5),
        }  # fmt: skip
    variance = torch.rand(7, generator=random, dtype=torch.float64) + 0.5
    return found | {"variance": variance}


def asked(loss: nn.Module, *taps, targets: Tensor | None = None) -> Tensor:
    """A loss of torchdistill: of dictionaries of layers, the student's and the teacher's."""
    return loss(*({"tap": {"output": tap}} for tap in taps), targets)


TARGET = torch.arange(SAMPLES) % CLASSES


def our_kd(student: Tensor, teacher: Tensor) -> Tensor:
    labels = losses.cross_entropy_loss(student, TARGET)
    return 0.3 * labels + 0.7 * losses.kd_loss(student, teacher, 4.0)


def our_dist(student: Tensor, teacher: Tensor) -> Tensor:
    return losses.inter_class_loss(student, teacher, 2.0) + losses.intra_class_loss(
        student, teacher, 2.0
    )


def our_standard(student: Tensor, teacher: Tensor) -> Tensor:
    return losses.kd_loss(*(losses.standardise_logits(z, 1.0) for z in (student, teacher)), 2.0)


def their_standard(student: Tensor, teacher: Tensor) -> Tensor:
    loss = mid_level.LogitStdKDLoss(*TAP, temperature=2.0, alpha=0.0)
    return 4 * asked(loss, student, teacher)  # without labels it leaves T^2 out


def their_cc(student: Tensor, teacher: Tensor) -> Tensor:
    """Theirs is a norm, of embeddings as they come."""
    loss = mid_level.CCKDLoss("tap", "tap", KERNEL, "none")
    return asked(loss, F.normalize(student), F.normalize(teacher)) ** 2 / SAMPLES**2


def their_srd(student: Tensor, teacher: Tensor) -> Tensor:
    """Theirs is 2 log(sum), and leaves the normalisation to a wrapper of the model."""
    student, teacher = (
        F.batch_norm(one, None, None, training=True, eps=1e-4) for one in (student, teacher)
    )
    loss = mid_level.SRDLoss(*TAP, *("logits", "output") * 2, exponent=4.0)
    same = {"logits": {"output": torch.zeros(1, 2, dtype=torch.float64)}}  # no divergence
    both = ({"tap": {"output": one}, **same} for one in (student, teacher))
    return (loss(*both) / 2).exp().log1p()


def their_sp(student: Tensor, teacher: Tensor) -> Tensor:
    """Theirs brings a row to the absolute sum 1 (`normalize` with p = 1); the paper to length 1."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(mid_level, "normalize", lambda rows, p: F.normalize(rows))
        return asked(mid_level.SPKDLoss("tap", "tap", "batchmean"), student, teacher)


def their_vid(mean: Tensor, variance: Tensor, teacher: Tensor) -> Tensor:
    return asked(mid_level.VIDLoss(PAIR), (mean, variance.view(1, -1, 1, 1)), teacher)


def their_review(student: Tensor, teacher: Tensor) -> Tensor:
    return asked(mid_level.HierarchicalContextLoss(*TAP), (student, None), teacher)


def their_rkd(distance: float, angle: float, student: Tensor, teacher: Tensor) -> Tensor:
    return asked(mid_level.RKDLoss("tap", "tap", distance, angle, "mean"), student, teacher)


CASES = {
    "kd": Case(our_kd, lambda s, t: asked(
        mid_level.KDLoss(*TAP, temperature=4.0, alpha=0.3), s, t, targets=TARGET
    ), ("s_logits", "t_logits")),
    "standardise_logits": Case(our_standard, their_standard, ("s_logits", "t_logits"), 1e-6),
    "dist": Case(our_dist, lambda s, t: asked(
        mid_level.DISTLoss(*TAP, tau=2.0), s, t
    ), ("s_logits", "t_logits"), 1e-6),
    "rkd_distance": Case(
        losses.rkd_distance_loss, partial(their_rkd, 1.0, 0.0), ("s_rows", "t_rows")
    ),
    "rkd_angle": Case(
        losses.rkd_angle_loss, partial(their_rkd, 0.0, 1.0), ("s_rows", "t_rows")
    ),
    "at": Case(losses.attention_loss, lambda s, t: asked(mid_level.ATLoss(PAIR), s, t),
               ("s_map", "t_map")),
    "sp": Case(losses.similarity_loss, their_sp, ("s_map", "t_map")),
    "pkt": Case(losses.pkt_loss, lambda s, t: asked(mid_level.PKTLoss(*TAP), s, t),
                ("s_rows", "t_rows"), 1e-5),
    "cc": Case(partial(losses.correlation_congruence_loss, gamma=0.4), their_cc,
               ("s_rows", "t_rows")),
    "srd": Case(losses.log_power_loss, their_srd, ("s_same_rows", "t_same_rows")),
    "vid": Case(losses.variational_loss, their_vid, ("s_same_map", "variance", "t_same_map")),
    "review_kd": Case(hierarchical_loss, their_review, ("s_same_map", "t_same_map")),
}  # fmt: skip


def alike(ours: Tensor, theirs: Tensor, leaves: list[Tensor], apart: float = EXACT) -> None:
    """Value and whole gradient of two losses."""
    assert ours.item() == pytest.approx(theirs.item(), rel=apart)
    grad = partial(torch.autograd.grad, inputs=leaves)
    for got, wanted in zip(grad(ours), grad(theirs), strict=True):
        assert (got - wanted).norm() <= apart * wanted.norm()
        assert wanted.norm() > 0


@pytest.mark.parametrize("name", CASES)
def test_torchdistills_loss(name):
    case, numbers = CASES[name], drawn()
    *learns, taught = (numbers[key] for key in case.inputs)
    for leaf in learns:
        leaf.requires_grad_()
    alike(case.ours(*learns, taught), case.theirs(*learns, taught), learns, case.apart)


def ranked(seed: int) -> SimpleNamespace:
    """A lesson on four views in float64 whose student learns."""
    x = random_inputs(seed)
    for tensor in (x.s_pool, x.s_logits):
        tensor.requires_grad_()
    return x


@pytest.mark.parametrize("seed", range(3))
def test_torchdistills_sskd_with_all_its_terms(seed):
    x = ranked(seed)
    loss = mid_level.SSKDLoss(
        "logits", "logits", "head", "head", kl_temp=4.0, ss_temp=0.5, tf_temp=4.0, ss_ratio=0.75,
        tf_ratio=1.0, loss_weights=[0.1, 0.9, 10.0, 2.7],
    )  # fmt: skip
    theirs = loss(*(
        {"logits": {"output": getattr(x, f"{who}_logits")},
         "head": {"output": project(x, who, getattr(x, f"{who}_pool"))}}
        for who in "st"
    ), x.target)  # fmt: skip
    alike(total_loss(build_method("sskd").terms(lesson(x))), theirs, [x.s_pool, x.s_logits])


def test_torchdistills_contrast_with_a_bank():
    """CRD's, of one positive each; theirs with our expected normaliser and without its 1e-7."""
    random = torch.Generator().manual_seed(0)
    images, width, negatives, temperature = 30, 16, 6, 0.5
    anchors = torch.randn(SAMPLES, width, generator=random, dtype=torch.float64).requires_grad_()
    rows = torch.arange(SAMPLES)
    others = SAMPLES + torch.randint(images - SAMPLES, (SAMPLES, negatives), generator=random)
    crd = mid_level.CRDLoss("", "", "", width, images, negatives, images, temperature).double()
    bank = F.normalize(crd.memory_v2)
    crd.memory_v2.copy_(bank)
    crd.params[2] = images * math.exp(1 / (2 * width * temperature**2))
    mixed = torch.cat((rows[:, None], others), dim=1)
    out, _ = crd.contrast_memory(F.normalize(anchors), bank[:SAMPLES], rows, mixed)
    ours = bank_contrast_loss(F.normalize(anchors), bank, rows[:, None], others, temperature)
    alike(ours, crd.compute_contrast_loss(out).squeeze(), [anchors], 1e-5)


def chosen() -> Iterator[Tensor]:
    """Embeddings that learn: of six samples, their partners, and a bank of ten."""
    random = torch.Generator().manual_seed(1)
    for rows in (6, 6, 10):
        yield torch.randn(rows, 7, generator=random, dtype=torch.float64).requires_grad_()


def test_metric_learnings_contrast_of_views():
    """Which upright image does a turned view belong to: NT-Xent at temperature 1."""
    random = torch.Generator().manual_seed(0)
    views = torch.randn(5, 4, 7, generator=random, dtype=torch.float64).requires_grad_()
    ours = losses.view_contrast_loss(losses.view_similarity(views))
    own = torch.arange(5)
    theirs = metric.NTXentLoss(temperature=1.0)(
        views[:, 1:].flatten(0, 1), own.repeat_interleave(3), ref_emb=views[:, 0], ref_labels=own
    )
    alike(ours, theirs, [views])


def test_metric_learnings_contrast_of_made_images():
    """AdaDFKD's relation with the whole bank as negatives: NT-Xent, one anchor at a time."""
    anchors, partners, bank = chosen()
    bank = F.normalize(bank.detach())
    ours = relation_loss(anchors, partners, bank, 0.2, 1.0, 0.0)
    loss = metric.NTXentLoss(temperature=0.2)
    labels = torch.tensor([0] + [1] * len(bank))
    theirs = torch.stack([
        loss(anchors[i : i + 1], labels[:1], ref_emb=torch.cat((partners[i : i + 1], bank)),
             ref_labels=labels)
        for i in range(len(anchors))
    ]).mean()  # fmt: skip
    alike(ours, theirs, [anchors, partners])
