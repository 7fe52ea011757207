"""What the methods' oracles share: the field's basic terms, one sample and one class at a time."""

from torch import Tensor


def softmax(row: Tensor | list[Tensor]) -> list[Tensor]:
    powers = [value.exp() for value in row]
    return [power / sum(powers) for power in powers]


def divergence(of: Tensor, under: Tensor) -> Tensor:
    """KL(softmax(of) || softmax(under)) of one sample."""
    return sum(p * (p / q).log() for p, q in zip(softmax(of), softmax(under), strict=True))


def kd(student: Tensor, teacher: Tensor, temperature: float = 1.0) -> Tensor:
    """T^2 KL, mean over samples."""
    rows = list(zip(student / temperature, teacher / temperature, strict=True))
    return temperature**2 * sum(divergence(t, s) for s, t in rows) / len(rows)


def cross_entropy(logits: Tensor, target: Tensor, weights: Tensor) -> Tensor:
    """Weighted by class, divided by the weights' sum."""
    terms = [-weights[y] * softmax(row)[y].log() for row, y in zip(logits, target, strict=True)]
    return sum(terms) / sum(weights[y] for y in target)


def mse(first: Tensor, second: Tensor) -> Tensor:
    pairs = list(zip(first.flatten(), second.flatten(), strict=True))
    return sum((a - b) ** 2 for a, b in pairs) / len(pairs)
