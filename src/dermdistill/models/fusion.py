"""What is known of a patient beside the image: as numbers, and how a network takes it in.

Source: Pacheco and Krohling, An Attention-Based Mechanism to Combine Images and Metadata in Deep
Learning Models Applied to Skin Cancer Classification, IEEE JBHI 25(9), 2021.
"""

import warnings
from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from dermdistill.errors import DataError
from dermdistill.types import Metadata

YEARS = 100  # ages are divided by it: a constant, so that no other data set means another scale


@dataclass(frozen=True)
class MetadataEncoder:
    """Age, sex and site as numbers; the same numbers wherever the network goes.

    Age is one number and a mark for "not known" (the number is then 0, the mark says that it means
    nothing); sex and site have a mark for each name and one for "not known". Nothing is guessed.

    Args:
        sexes: names that training knew, in order.
        sites: likewise.
    """

    sexes: tuple[str, ...]
    sites: tuple[str, ...]

    @classmethod
    def of(cls, training: Metadata) -> "MetadataEncoder":
        """The encoder of a training part's names.

        Raises:
            DataError: nothing at all is known there.
        """
        sexes, sites = _names(training.sex), _names(training.site)
        if not sexes and not sites and np.isnan(training.age).all():
            raise DataError(
                "a network shall read metadata, and no training image has an age, a sex or a site; "
                "add them to the table (docs/metadata.md), or set network.metadata to none"
            )
        return cls(sexes, sites)

    @classmethod
    def from_dict(cls, values: dict[str, list[str]]) -> "MetadataEncoder":
        """The encoder that a run's provenance names."""
        return cls(tuple(values["sexes"]), tuple(values["sites"]))

    def to_dict(self) -> dict[str, list[str]]:
        """Plain values, for a run's provenance."""
        return {name: list(names) for name, names in asdict(self).items()}

    @property
    def width(self) -> int:
        """How many numbers describe a patient."""
        return 2 + (len(self.sexes) + 1) + (len(self.sites) + 1)

    def __call__(self, metadata: Metadata) -> Float[Tensor, "images width"]:
        """The numbers, each in [0, 1] (an age above 100 years is more); no NaN."""
        unknown = np.isnan(metadata.age)
        age = np.stack([np.where(unknown, 0, metadata.age) / YEARS, unknown], axis=1)
        hot = [age, _hot(metadata.sex, self.sexes), _hot(metadata.site, self.sites)]
        return torch.from_numpy(np.concatenate(hot, axis=1).astype(np.float32))

    def summary(self, metadata: Metadata) -> dict[str, Any]:
        """How many images lack a fact, and the names that training did not know, counted."""
        named = {"sex": (metadata.sex, self.sexes), "site": (metadata.site, self.sites)}
        missing = {"age": int(np.isnan(metadata.age).sum())}
        missing |= {fact: sum(name is None for name in names) for fact, (names, _) in named.items()}
        strange = {
            fact: dict(Counter(n for n in names if n is not None and n not in known).most_common())
            for fact, (names, known) in named.items()
        }
        return {"missing": missing, "unknown_names": strange}

    def warn(self, metadata: Metadata, whose: str) -> None:
        """Warn if names come up that training did not know; they count as not known."""
        for fact, names in self.summary(metadata)["unknown_names"].items():
            if names:
                told = ", ".join(f"{name} ({count})" for name, count in names.items())
                warnings.warn(
                    f"{whose}: {sum(names.values())} of {len(metadata.age)} images have a {fact} "
                    f"that the network's training did not know: {told}; it counts as not known",
                    stacklevel=3,
                )


def _names(values: Iterable[str | None]) -> tuple[str, ...]:
    return tuple(sorted({name for name in values if name is not None}))


def _hot(values: np.ndarray, names: tuple[str, ...]) -> np.ndarray:
    """A column a name and a last one for whatever is none of them, [images, names + 1]."""
    column = {name: place for place, name in enumerate(names)}
    return np.eye(len(names) + 1)[[column.get(value, len(names)) for value in values]]


class MetaBlock(nn.Module):
    """A gate that metadata set on every channel of a map: sigmoid(tanh(V f(U)) + g(U)).

    f and g are linear with batch norm. The published networks gate pooled features, 32 at a time
    by one pair of numbers; here each channel has its own pair, at every place of the map, as the
    equation has it.

    Args:
        channels: of the map.
        width: of the metadata.

    Source: equation of T_b(V, U) in the paper; batch norm as in its official code.
    """

    def __init__(self, channels: int, width: int):
        super().__init__()
        self.scale = nn.Sequential(nn.Linear(width, channels), nn.BatchNorm1d(channels))
        self.shift = nn.Sequential(nn.Linear(width, channels), nn.BatchNorm1d(channels))

    def forward(
        self,
        features: Float[Tensor, "samples ..."],
        metadata: Float[Tensor, "samples width"],
        channel_dim: int,
    ) -> Float[Tensor, "samples ..."]:
        """The gated map, in (0, 1) and in its own layout.

        Args:
            features: the map; `channel_dim` says where its channels are.
            metadata: one row a sample.
            channel_dim: 1, or -1 for tokens and channels-last maps.
        """
        shape = [len(features)] + [1] * (features.ndim - 1)
        shape[channel_dim] = -1
        scale, shift = self.scale(metadata).view(shape), self.shift(metadata).view(shape)
        return torch.sigmoid(torch.tanh(features * scale) + shift)
