"""The rivals' losses in plain loops, from their papers' equations, on float64 scalars of torch.

Torch keeps the books for the gradients; nothing here is vectorised, and nothing is taken from the
package.
"""

from collections.abc import Callable
from types import SimpleNamespace

import torch
from torch import Tensor


def mean(values: list[Tensor]) -> Tensor:
    return sum(values) / len(values)


def softmax(row: list[Tensor], temperature: float = 1.0) -> list[Tensor]:
    top = max(value.item() for value in row)
    powers = [torch.exp((value - top) / temperature) for value in row]
    return [power / sum(powers) for power in powers]


def divergence(p: list[Tensor], q: list[Tensor]) -> Tensor:
    """KL(p || q)."""
    return sum(a * torch.log(a / b) for a, b in zip(p, q, strict=True))


def weighted_ce(x: SimpleNamespace, target: Tensor) -> Tensor:
    own = [-torch.log(softmax(list(row))[y]) for row, y in zip(x.s_logits, target, strict=True)]
    weights = [x.weight[y] for y in target]
    return sum(w * value for w, value in zip(weights, own, strict=True)) / sum(weights)


def probabilities(logits: Tensor, temperature: float) -> list[list[Tensor]]:
    return [softmax(list(row), temperature) for row in logits]


def pairs(student: Tensor, teacher: Tensor, temperature: float) -> list[tuple[list, list]]:
    return list(
        zip(probabilities(student, temperature), probabilities(teacher, temperature), strict=True)
    )


def target_kd(student: Tensor, teacher: Tensor, target: Tensor, temperature: float) -> Tensor:
    values = []
    for (s, t), y in zip(pairs(student, teacher, temperature), target, strict=True):
        values.append(divergence([t[y], 1 - t[y]], [s[y], 1 - s[y]]))
    return temperature**2 * mean(values)


def nontarget_kd(student: Tensor, teacher: Tensor, target: Tensor, temperature: float) -> Tensor:
    values = []
    for (s, t), y in zip(pairs(student, teacher, temperature), target, strict=True):
        others = [c for c in range(len(s)) if c != y]
        values.append(
            divergence([t[c] / (1 - t[y]) for c in others], [s[c] / (1 - s[y]) for c in others])
        )
    return temperature**2 * mean(values)


def pearson(a: list[Tensor], b: list[Tensor]) -> Tensor:
    a_mean, b_mean = mean(a), mean(b)
    product = sum((u - a_mean) * (v - b_mean) for u, v in zip(a, b, strict=True))
    squares = sum((u - a_mean) ** 2 for u in a) * sum((v - b_mean) ** 2 for v in b)
    return product / torch.sqrt(squares)


def inter_class(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    rows = pairs(student, teacher, temperature)
    return temperature**2 * mean([1 - pearson(s, t) for s, t in rows])


def intra_class(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    rows = pairs(student, teacher, temperature)
    return temperature**2 * mean([
        1 - pearson([s[c] for s, _ in rows], [t[c] for _, t in rows])
        for c in range(student.shape[1])
    ])  # fmt: skip


def z_scores(logits: Tensor) -> Tensor:
    rows = []
    for row in logits:
        middle = mean(list(row))
        spread = sum((value - middle) ** 2 for value in row) / (len(row) - 1)
        rows.append(torch.stack([(value - middle) / torch.sqrt(spread) for value in row]))
    return torch.stack(rows)


def dkd(x: SimpleNamespace, y: Tensor) -> Tensor:
    target = target_kd(x.s_logits, x.t_logits, y, 4.0)
    return weighted_ce(x, y) + target + 8 * nontarget_kd(x.s_logits, x.t_logits, y, 4.0)


def dist(x: SimpleNamespace, y: Tensor) -> Tensor:
    inter = inter_class(x.s_logits, x.t_logits, 1.0)
    return weighted_ce(x, y) + inter + intra_class(x.s_logits, x.t_logits, 1.0)


RIVALS: dict[str, Callable[[SimpleNamespace, Tensor], Tensor]] = {
    "dkd": dkd,
    "dist": dist,
}
