"""Losses on maps and embeddings, number by number.

Plain loops from the papers' equations, on float64 scalars; torch keeps the books for the gradients.
Nothing is vectorised, and nothing is taken from the package.
"""

import math

import torch
from torch import Tensor

from loop_oracles_logits import divergence, length, mean, product, squared_difference, table


def flat_rows(maps: Tensor) -> list[list[Tensor]]:
    return [list(one.flatten()) for one in maps]


def similarity(student: Tensor, teacher: Tensor) -> Tensor:
    tables = []
    for maps in (student, teacher):
        rows = table(flat_rows(maps))
        tables.append([[value / length(row) for value in row] for row in rows])
    return squared_difference(*tables) / len(student) ** 2


def cosines(rows: Tensor) -> list[list[Tensor]]:
    vectors = [list(row) for row in rows]
    return [[product(a, b) / (length(a) * length(b)) for b in vectors] for a in vectors]


def pkt(student: Tensor, teacher: Tensor) -> Tensor:
    neighbours = []
    for rows in (student, teacher):
        kernel = [[(1 + value) / 2 + 1e-7 for value in row] for row in cosines(rows)]
        neighbours.append([[value / sum(row) for value in row] for row in kernel])
    values = [divergence(t, s) for s, t in zip(*neighbours, strict=True)]
    return sum(values) / len(student) ** 2


def correlation_congruence(student: Tensor, teacher: Tensor, gamma: float) -> Tensor:
    def kernel(cosine: Tensor) -> Tensor:
        power = 2 * gamma * cosine
        return math.exp(-2 * gamma) * (1 + power + power**2 / 2)

    tables = [[[kernel(c) for c in row] for row in cosines(rows)] for rows in (student, teacher)]
    return squared_difference(*tables) / len(student) ** 2


def attention(student: Tensor, teacher: Tensor) -> Tensor:
    total, places = student.new_zeros(()), student[0, 0].numel()
    for s_map, t_map in zip(student, teacher, strict=True):
        energies = []
        for maps in (s_map, t_map):
            channels = flat_rows(maps)
            energy = [sum(c[place] ** 2 for c in channels) for place in range(places)]
            energies.append([value / length(energy) for value in energy])
        total = total + squared_difference([energies[0]], [energies[1]])
    return total / (len(student) * places)


def kernel_mean(a: list[list[Tensor]], b: list[list[Tensor]]) -> Tensor:
    return mean([product(u, v) ** 2 for u in a for v in b])


def selectivity(student: Tensor, teacher: Tensor) -> Tensor:
    values = []
    for s_map, t_map in zip(student, teacher, strict=True):
        s, t = (
            [[value / length(c) for value in c] for c in flat_rows(maps)] for maps in (s_map, t_map)
        )
        values.append(kernel_mean(s, s) + kernel_mean(t, t) - 2 * kernel_mean(s, t))
    return mean(values)


def variational(expected: Tensor, variance: Tensor, teacher: Tensor) -> Tensor:
    values = []
    for m_map, t_map in zip(expected, teacher, strict=True):
        for m_channel, t_channel, v in zip(m_map, t_map, variance, strict=True):
            for m, t in zip(m_channel.flatten(), t_channel.flatten(), strict=True):
                values.append((t - m) ** 2 / (2 * v) + torch.log(v) / 2)
    return mean(values)


def log_power(student: Tensor, teacher: Tensor) -> Tensor:
    total = student.new_zeros(())
    for s_column, t_column in zip(student.T, teacher.T, strict=True):
        normal = []
        for column in (list(s_column), list(t_column)):
            middle = mean(column)
            variance = mean([(value - middle) ** 2 for value in column])
            normal.append([(value - middle) / torch.sqrt(variance + 1e-4) for value in column])
        total = total + sum((s - t) ** 4 for s, t in zip(*normal, strict=True))
    return torch.log(1 + total)


def normalised_l1(student: Tensor, teacher: Tensor) -> Tensor:
    values = []
    for s_row, t_row in zip(student, teacher, strict=True):
        middle = mean(list(t_row))
        variance = mean([(value - middle) ** 2 for value in t_row])
        for s, t in zip(s_row, t_row, strict=True):
            gap = torch.abs(s - (t - middle) / torch.sqrt(variance + 1e-5))
            values.append(gap**2 / 2 if gap < 1 else gap - 0.5)
    return mean(values)
