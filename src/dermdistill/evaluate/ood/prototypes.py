"""The score that every export carries: fitted when a run is scored, kept beside its weights."""

from pathlib import Path
from typing import Any

import numpy as np
from lightning_fabric import Fabric
from safetensors.numpy import load_file, save

from dermdistill.data.dataset import Dataset, Part
from dermdistill.errors import RunError
from dermdistill.evaluate.ood.scores import Fitted, fit_prototypes, prototype_score
from dermdistill.evaluate.predict import predict_taps
from dermdistill.models import Backbone
from dermdistill.run import atomic_write

FILE = "prototypes.safetensors"  # in the run directory
KEPT = 0.95  # share of validation images that pass the threshold
FIT_IMAGES = 4000  # of the training part at most: more make the clusters no better


def write_prototypes(
    network: Backbone, data: Dataset, folder: Path, fabric: Fabric, seed: int
) -> dict[str, Any]:
    """Fit the score on training images and its threshold on validation images; write `FILE`.

    Args:
        network: the trained network, on the device.
        data: the parts.
        folder: the run directory.
        fabric: device and number format to ask the network with.
        seed: of the choice of training images, and of the clusters.

    Returns:
        score, threshold, kept_ratio, fitted_on: what decision.json says of it.
    """
    train, validation = data.train.some(FIT_IMAGES, seed), data.validation
    fitted = fit_prototypes(_embeddings(network, train, fabric), seed)
    passing = prototype_score(fitted, _embeddings(network, validation, fabric), np.empty(0))
    with atomic_write(folder / FILE) as temporary:
        temporary.write_bytes(save(fitted))
    return {
        "score": "prototypes",
        "threshold": float(np.quantile(passing, KEPT)),
        "kept_ratio": KEPT,
        "fitted_on": f"{len(train)} training images, the threshold on {len(validation)} "
        "validation images",
    }


def load_prototypes(run: Path) -> Fitted:
    """What `write_prototypes` left in a run directory.

    Raises:
        RunError: the file is missing or broken.
    """
    try:
        return load_file(run / FILE)
    except Exception as error:  # safetensors has no common base for its errors
        raise RunError(f"{run / FILE} cannot be read ({error}); `dermdistill evaluate {run}` "
                       "writes it again") from error  # fmt: skip


def _embeddings(network: Backbone, part: Part, fabric: Fabric) -> np.ndarray:
    return predict_taps(network, part, fabric)[0].numpy()
