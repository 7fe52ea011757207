"""Which images a step shows: a function of seed and step alone."""

import numpy as np

from dermdistill.data.dataset import Part
from dermdistill.runtime import derived_seed


def epoch_order(
    part: Part, power: float, seed: int, epoch: int, shuffle_shards: int = 0
) -> np.ndarray:
    """Positions of a part in the order of one epoch, a function of seed and epoch alone.

    Args:
        part: whose images.
        power: 0 shows every image once; otherwise as many are drawn with replacement, each with
            chance (N / N_class) ** power.
        seed: the run's.
        epoch: counted from 0.
        shuffle_shards: go through the store's files in random order, so many at a time, and
            shuffle within these; 0 shuffles everything. Which images are shown is the same.
    """
    rng = np.random.default_rng(derived_seed(seed, "order", epoch))
    if power:
        chance = np.bincount(part.labels)[part.labels] ** -float(power)
        order = rng.choice(len(part), size=len(part), p=chance / chance.sum())
    else:
        order = rng.permutation(len(part))
    if not shuffle_shards:
        return order
    shard = part.store.shard_of[part.rows[order]]
    turn = rng.permutation(part.store.shard_of[-1] + 1) // shuffle_shards
    return order[np.argsort(turn[shard], kind="stable")]
