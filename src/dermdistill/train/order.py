"""Which images a step shows: a function of seed and step alone."""

import numpy as np

from dermdistill.data.dataset import Part
from dermdistill.runtime import derived_seed


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
