"""Image files in, ranked diagnoses out, by any model of a bundle."""

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from dermdistill.bundle.reader import Bundle
from dermdistill.bundle.runtimes import open_runtime
from dermdistill.errors import DataError
from dermdistill.evaluate.predictions import UNKNOWN, Predictions

CHUNK = 64  # images decoded at once: 10 MB at 224 px
SHOWN_CLASSES = 3


def predict_files(
    path: str | os.PathLike, images: Sequence[str], format_name: str = "onnx", threads: int = 1
) -> tuple[Predictions, np.ndarray]:
    """Probabilities of image files.

    Args:
        path: a bundle.
        images: image files; their names without ending are the ids.
        format_name: the model that answers.
        threads: how many it may use.

    Returns:
        The predictions without truth; and a bool an image, True where the bundle's threshold
        says "not sure".

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
        rows.append(runtime.predict(pixels).probabilities)
    probabilities = np.concatenate(rows).astype(np.float64)
    predictions = Predictions(
        [Path(name).stem for name in images], tuple(bundle.manifest.classes), probabilities,
        np.full(len(images), UNKNOWN),
    )  # fmt: skip
    abstention = bundle.manifest.abstention
    least = abstention.least_probability if abstention else 0.0
    return predictions, probabilities.max(axis=1) < least


def ranked(predictions: Predictions, unsure: np.ndarray) -> list[str]:
    """Each image's most probable classes in words."""
    lines = []
    for row, doubtful in zip(predictions.probabilities, unsure, strict=True):
        order = np.argsort(-row, kind="stable")[:SHOWN_CLASSES]
        words = "  ".join(f"{predictions.classes[k]} {row[k]:.3f}" for k in order)
        lines.append(f"not sure ({words})" if doubtful else words)
    return lines
