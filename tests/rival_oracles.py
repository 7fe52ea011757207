"""The rivals' whole losses at their defaults, from the loops of loop_oracles_*.py."""

from collections.abc import Callable
from types import SimpleNamespace

import torch
from torch import Tensor

from loop_oracles_features import (
    attention,
    correlation_congruence,
    log_power,
    normalised_l1,
    pkt,
    selectivity,
    similarity,
    variational,
)
from loop_oracles_logits import (
    batch_correlation,
    class_correlation,
    confidence_kd,
    enhanced_best,
    enhanced_cross_entropy,
    group_kd,
    inter_class,
    intra_class,
    kd,
    masked_kd,
    nontarget_kd,
    product,
    softmax,
    target_kd,
    within_group_kd,
)


def weighted_ce(x: SimpleNamespace, target: Tensor) -> Tensor:
    own = [-torch.log(softmax(list(row))[y]) for row, y in zip(x.s_logits, target, strict=True)]
    weights = [x.weight[y] for y in target]
    return sum(w * value for w, value in zip(weights, own, strict=True)) / sum(weights)


def linear(rows: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    return torch.stack([
        torch.stack([product(list(row), list(w)) for w in weight]) + (0 if bias is None else bias)
        for row in rows
    ])  # fmt: skip


def conv1x1(maps: Tensor, weight: Tensor) -> Tensor:
    return torch.stack([
        torch.stack([sum(w[c] * one[c] for c in range(len(one))) for w in weight]) for one in maps
    ])  # fmt: skip


def dkd(x: SimpleNamespace, y: Tensor) -> Tensor:
    target = target_kd(x.s_logits, x.t_logits, y, 4.0)
    return weighted_ce(x, y) + target + 8 * nontarget_kd(x.s_logits, x.t_logits, y, 4.0)


def dist(x: SimpleNamespace, y: Tensor) -> Tensor:
    inter = inter_class(x.s_logits, x.t_logits, 1.0)
    return weighted_ce(x, y) + inter + intra_class(x.s_logits, x.t_logits, 1.0)


def rld(x: SimpleNamespace, y: Tensor) -> Tensor:
    confidence = confidence_kd(x.s_logits, x.t_logits, y, 1.0)
    return weighted_ce(x, y) + confidence + 8 * masked_kd(x.s_logits, x.t_logits, y, 4.0)


def ofa(x: SimpleNamespace, y: Tensor) -> Tensor:
    published = enhanced_cross_entropy(x.s_logits, x.t_logits, y, 1.5, 1.0)
    return weighted_ce(x, y) + published - enhanced_best(x.t_logits, y, 1.5, 1.0)


def mlkd(x: SimpleNamespace, y: Tensor) -> Tensor:
    levels = sum(
        level(x.s_logits, x.t_logits, temperature)
        for level in (kd, batch_correlation, class_correlation)
        for temperature in (2, 3, 4, 5, 6)
    )
    return 0.1 * weighted_ce(x, y) + 0.9 * levels


def ltkd(x: SimpleNamespace, y: Tensor) -> Tensor:
    rare_last = sorted(range(len(x.weight)), key=lambda c: float(x.weight[c]))
    classes = [rare_last[:1], rare_last[1:3], rare_last[3:]]  # thirds of four classes
    group = group_kd(x.s_logits, x.t_logits, classes, 4.0)
    within = within_group_kd(x.s_logits, x.t_logits, classes, 4.0)
    return weighted_ce(x, y) + group + within


def srd(x: SimpleNamespace, y: Tensor) -> Tensor:
    projected = linear(x.s_pool, x.projector_w, x.projector_b)
    features = 2 * log_power(projected, x.t_pool)
    return weighted_ce(x, y) + features + kd(x.s_logits, x.t_logits, 1.0)


def vkd(x: SimpleNamespace, y: Tensor) -> Tensor:
    projected = linear(x.s_pool, x.projector_w, x.projector_b)
    features = normalised_l1(projected, x.t_pool)
    return weighted_ce(x, y) + features + kd(x.s_logits, x.t_logits, 1.0)


def vid(x: SimpleNamespace, y: Tensor) -> Tensor:
    expected = conv1x1(x.s_map, x.predictor_w)
    return weighted_ce(x, y) + variational(expected, x.predictor_v, x.t_map)


RIVALS: dict[str, Callable[[SimpleNamespace, Tensor], Tensor]] = {
    "dkd": dkd,
    "dist": dist,
    "at": lambda x, y: weighted_ce(x, y) + 1000 * attention(x.s_map, x.t_map),
    "sp": lambda x, y: weighted_ce(x, y) + 3000 * similarity(x.s_map, x.t_map),
    "pkt": lambda x, y: weighted_ce(x, y) + 30000 * pkt(x.s_pool, x.t_pool),
    "cc": lambda x, y: weighted_ce(x, y) + 100 * correlation_congruence(x.s_pool, x.t_pool, 0.4),
    "nst": lambda x, y: weighted_ce(x, y) + 50 * selectivity(x.s_map, x.t_map),
    "mlkd": mlkd,
    "rld": rld,
    "ofa": ofa,
    "ltkd": ltkd,
    "srd": srd,
    "vkd": vkd,
    "vid": vid,
}
