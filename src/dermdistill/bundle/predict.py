"""Image files in, ranked diagnoses out, by any model of a bundle."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from dermdistill.bundle.reader import Bundle
from dermdistill.bundle.runtimes import open_runtime
from dermdistill.errors import DataError
from dermdistill.evaluate.predictions import UNKNOWN, Predictions

CHUNK = 64  # images decoded at once: 10 MB at 224 px
SHOWN_CLASSES = 3


class Doubts(NamedTuple):
    """What thresholds say of answers, a bool an image; all False where a bundle has none."""

    unsure: np.ndarray  # the largest probability is too small
    unlike: np.ndarray  # the image is unlike the training images


def predict_files(
    path: str | os.PathLike, images: Sequence[str], format_name: str = "onnx", threads: int = 1
) -> tuple[Predictions, Doubts]:
    """Probabilities of image files.

    Args:
        path: a bundle.
        images: image files; their names without ending are the ids.
        format_name: the model that answers.
        threads: how many it may use.

    Returns:
        The predictions without truth, and what the bundle's thresholds say against them.

    Raises:
        BundleError: the bundle is refused.
        ToolchainError: what runs the model is not installed.
        DataError: no images, two of one name, or one that cannot be decoded.
    """
    if not images:
        raise DataError("no images are given; name some files")
    bundle = Bundle(path)
    runtime = open_runtime(bundle, format_name, threads)
    rows = []
    for at in range(0, len(images), CHUNK):
        pixels = np.stack([bundle.preprocess(name) for name in images[at : at + CHUNK]])
        rows.append(runtime.predict(pixels))
    probabilities = np.concatenate([row.probabilities for row in rows]).astype(np.float64)
    predictions = Predictions(
        [Path(name).stem for name in images], tuple(bundle.manifest.classes), probabilities,
        np.full(len(images), UNKNOWN),
    )  # fmt: skip
    abstention, ood = bundle.manifest.abstention, bundle.manifest.ood
    least = abstention.least_probability if abstention else 0.0
    unlike = np.zeros(len(images), bool)
    if ood:
        unlike = np.concatenate([row.ood_score[:, 0] for row in rows]) > ood.threshold
    return predictions, Doubts(probabilities.max(axis=1) < least, unlike)


def ranked(predictions: Predictions, doubts: Doubts) -> list[str]:
    """Each image's most probable classes in words."""
    lines = []
    for row, unsure, unlike in zip(predictions.probabilities, *doubts, strict=True):
        order = np.argsort(-row, kind="stable")[:SHOWN_CLASSES]
        words = "  ".join(f"{predictions.classes[k]} {row[k]:.3f}" for k in order)
        words = f"not sure ({words})" if unsure else words
        lines.append(f"unlike the training images: {words}" if unlike else words)
    return lines
