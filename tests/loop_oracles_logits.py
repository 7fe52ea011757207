"""Losses on logits, sample by sample and class by class.

Plain loops from the papers' equations, on float64 scalars; torch keeps the books for the gradients.
Nothing is vectorised, and nothing is taken from the package.
"""

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


def product(a: list[Tensor], b: list[Tensor]) -> Tensor:
    return sum(u * v for u, v in zip(a, b, strict=True))


def length(a: list[Tensor]) -> Tensor:
    return torch.sqrt(product(a, a))


def table(rows: list[list[Tensor]]) -> list[list[Tensor]]:
    return [[product(a, b) for b in rows] for a in rows]


def squared_difference(a: list[list[Tensor]], b: list[list[Tensor]]) -> Tensor:
    return sum((u - v) ** 2 for p, q in zip(a, b, strict=True) for u, v in zip(p, q, strict=True))


def probabilities(logits: Tensor, temperature: float) -> list[list[Tensor]]:
    return [softmax(list(row), temperature) for row in logits]


def pairs(student: Tensor, teacher: Tensor, temperature: float) -> list[tuple[list, list]]:
    return list(
        zip(probabilities(student, temperature), probabilities(teacher, temperature), strict=True)
    )


def kd(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    rows = pairs(student, teacher, temperature)
    return temperature**2 * mean([divergence(t, s) for s, t in rows])


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


def confidence_kd(student: Tensor, teacher: Tensor, target: Tensor, temperature: float) -> Tensor:
    values = []
    for (s, t), y in zip(pairs(student, teacher, temperature), target, strict=True):
        top = max(t, key=Tensor.item)
        values.append(divergence([top, 1 - top], [s[y], 1 - s[y]]))
    return temperature**2 * mean(values)


def masked_kd(student: Tensor, teacher: Tensor, target: Tensor, temperature: float) -> Tensor:
    values = []
    for s_row, t_row, y in zip(student, teacher, target, strict=True):
        below = [c for c in range(len(t_row)) if t_row[c] < t_row[y]]
        t = softmax([t_row[c] for c in below], temperature) if below else []
        s = softmax([s_row[c] for c in below], temperature) if below else []
        values.append(divergence(t, s) if below else student.new_zeros(()))
    return temperature**2 * mean(values)


def groups_of(classes: list[list[int]], probability: list[Tensor]) -> list[Tensor]:
    return [sum(probability[c] for c in group) for group in classes]


def group_kd(
    student: Tensor, teacher: Tensor, classes: list[list[int]], temperature: float
) -> Tensor:
    rows = pairs(student, teacher, temperature)
    shares = [groups_of(classes, t) for _, t in rows]
    sums = [sum(share[g] for share in shares) for g in range(len(classes))]
    even = mean(sums)
    values = []
    for (s, _), share in zip(rows, shares, strict=True):
        scaled = [p * even / total for p, total in zip(share, sums, strict=True)]
        balanced = [p / sum(scaled) for p in scaled]
        values.append(divergence(balanced, groups_of(classes, s)))
    return temperature**2 * mean(values)


def within_group_kd(
    student: Tensor, teacher: Tensor, classes: list[list[int]], temperature: float
) -> Tensor:
    total = student.new_zeros(())
    for s, t in pairs(student, teacher, temperature):
        for group in classes:
            s_all, t_all = sum(s[c] for c in group), sum(t[c] for c in group)
            total = total + divergence([t[c] / t_all for c in group], [s[c] / s_all for c in group])
    return temperature**2 * total / len(student)


def enhanced_cross_entropy(
    student: Tensor, teacher: Tensor, target: Tensor, power: float, temperature: float
) -> Tensor:
    """As published: a cross entropy, which is above 0 also where it is at its best."""
    values = []
    for (s, t), y in zip(pairs(student, teacher, temperature), target, strict=True):
        true = [1.0 if c == y else 0.0 for c in range(len(t))]
        wanted = [(p + one) ** power - one for p, one in zip(t, true, strict=True)]
        values.append(sum(-w * torch.log(q) for w, q in zip(wanted, s, strict=True)))
    return temperature**2 * mean(values)


def enhanced_best(teacher: Tensor, target: Tensor, power: float, temperature: float) -> Tensor:
    """The least that the cross entropy can be, whatever the student."""
    values = []
    for t, y in zip(probabilities(teacher, temperature), target, strict=True):
        wanted = [(p + 1) ** power - 1 if c == y else p**power for c, p in enumerate(t)]
        values.append(sum(-w * torch.log(w / sum(wanted)) for w in wanted))
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


def columns(rows: list[list[Tensor]]) -> list[list[Tensor]]:
    return [list(column) for column in zip(*rows, strict=True)]


def batch_correlation(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    s, t = probabilities(student, temperature), probabilities(teacher, temperature)
    return squared_difference(table(s), table(t)) / len(s)


def class_correlation(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    s, t = probabilities(student, temperature), probabilities(teacher, temperature)
    return squared_difference(table(columns(s)), table(columns(t))) / len(s[0])


def z_scores(logits: Tensor) -> Tensor:
    rows = []
    for row in logits:
        middle = mean(list(row))
        spread = sum((value - middle) ** 2 for value in row) / (len(row) - 1)
        rows.append(torch.stack([(value - middle) / torch.sqrt(spread) for value in row]))
    return torch.stack(rows)
