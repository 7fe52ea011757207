"""What all runtimes share: batches of the size and number type that a model takes."""

from abc import ABC, abstractmethod
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, UInt8

from dermdistill.bundle.manifest import Model


class Answers(NamedTuple):
    """A model's answers to a stack of images.

    Attributes:
        probabilities: calibrated, in [0, 1], rows sum to 1.
        logits: before temperature and softmax.
        cam: class maps whose mean is the logit; None where the network has no exact ones.
        ood_score: how unlike the training images, 0 to 2; None where nothing was fitted.
    """

    probabilities: Float[np.ndarray, "images classes"]
    logits: Float[np.ndarray, "images classes"]
    cam: Float[np.ndarray, "images classes rows cols"] | None
    ood_score: Float[np.ndarray, "images one"] | None


class Runtime(ABC):
    """One model, loaded.

    Args:
        model: its description.
        files: its files' contents, by name.
        threads: how many the runtime may use.
    """

    def __init__(self, model: Model, files: dict[str, bytes], threads: int):
        self.model = model
        self.load(files, threads)

    @abstractmethod
    def load(self, files: dict[str, bytes], threads: int) -> None:
        """Make the model ready."""

    @abstractmethod
    def run(self, pixels: np.ndarray) -> dict[str, np.ndarray]:
        """One batch in the model's own number type and layout -> its outputs by their names."""

    def predict(self, pixels: UInt8[np.ndarray, "images px px 3"]) -> Answers:
        """The answers to images that `Bundle.preprocess` made."""
        step = len(pixels) if self.model.input.batch == 0 else 1
        batches = [self._answer(pixels[at : at + step]) for at in range(0, len(pixels), step or 1)]
        columns = list(zip(*batches, strict=True))
        return Answers(*(None if column[0] is None else np.concatenate(column)
                         for column in columns))  # fmt: skip

    def prepare(self, pixels: UInt8[np.ndarray, "images px px 3"]) -> np.ndarray:
        """The same images in the number type and layout that the model takes."""
        if self.model.input.layout == "NCHW":
            pixels = pixels.transpose(0, 3, 1, 2)
        return np.ascontiguousarray(pixels, dtype=self.model.input.type)

    def _answer(self, pixels: np.ndarray) -> Answers:
        found, names = self.run(self.prepare(pixels)), self.model.outputs
        return Answers(*(found[names[one]] if one in names else None for one in Answers._fields))
