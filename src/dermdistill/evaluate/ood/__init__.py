"""Whether an image is anything like the training images: fitted, measured on strangers, stored.

Written into `RUN/ood/`: `ood.json` (which score, its threshold, how well each tells strangers
apart), `fitted.safetensors` (what the scores know, as plain arrays) and `scores.csv` (every
image's values).
"""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.numpy import save
from sklearn.metrics import roc_auc_score

from dermdistill.data.dataset import Part
from dermdistill.data.masks import read_masks
from dermdistill.errors import ConfigError
from dermdistill.evaluate.ood.prototypes import KEPT
from dermdistill.evaluate.ood.scores import SCORES, Fitted, fit_scores
from dermdistill.evaluate.ood.strangers import noise_images, read_kinds, skin_patches
from dermdistill.evaluate.opened import OpenedRun, open_run
from dermdistill.evaluate.predict import predict_taps
from dermdistill.run import RESEARCH_NOTICE, atomic_write, write_csv, write_json

FOLDER, SUMMARY, FITTED, VALUES = "ood", "ood.json", "fitted.safetensors", "scores.csv"
DEFAULT = "prototypes"  # the best on strangers of every kind: docs/log.md, 2026-11-25
LESIONS = "lesions"


def ood_run(
    run: Path,
    others: str | None = None,
    masks: str | None = None,
    images: int = 400,
    fit_images: int = 0,
    progress: bool = True,
) -> dict[str, Any]:
    """Fit the scores on a run's training part and measure them; write `RUN/ood/`.

    Lesions are images of the test part; the threshold comes from the validation part.

    Args:
        run: a finished run of a network.
        others: a folder with a subfolder of pictures for each kind of stranger.
        masks: lesion outlines of the test images, so that patches of skin hold none.
        images: of the test part, drawn by the run's seed; 0 takes all. As many of noise.
        fit_images: of the training part, likewise.
        progress: show a bar while images are decoded, if they are not yet.

    Returns:
        What `ood.json` holds.

    Raises:
        ConfigError: a negative number of images.
        RunError, DataError: the run, its images, the masks or the strangers cannot be used.
    """
    if images < 0 or fit_images < 0:
        raise ConfigError(f"images is {images}, fit_images {fit_images}: both must be 0 or more")
    opened = open_run(run, progress)
    seed, data = opened.config.seed, opened.data
    fitted_on, lesions = data.train.some(fit_images, seed), data.test.some(images, seed)
    embeddings, _ = _taps(opened, fitted_on)
    fitted = fit_scores(embeddings, fitted_on.labels, seed)
    sets = {LESIONS: lesions} | _strangers(opened, lesions, others, masks)
    values = {kind: _values(fitted, opened, part) for kind, part in sets.items()}
    passing = _values(fitted, opened, data.validation.some(images, seed))
    summary = {
        "notice": RESEARCH_NOTICE,
        "default": DEFAULT,
        "fitted_on": len(fitted_on),
        "kept": KEPT,
        "scores": {name: {
            "threshold": float(np.quantile(passing[name], KEPT)),
            "strangers": _told_apart(name, values, float(np.quantile(passing[name], KEPT))),
        } for name in SCORES},
    }  # fmt: skip
    _write(run / FOLDER, fitted, sets, values)
    write_json(run / FOLDER / SUMMARY, summary)
    return summary


def _taps(opened: OpenedRun, part: Part) -> tuple[np.ndarray, np.ndarray]:
    embeddings, logits = predict_taps(opened.network, part, opened.fabric)
    return embeddings.numpy(), logits.double().numpy()


def _values(fitted: Fitted, opened: OpenedRun, part: Part) -> dict[str, np.ndarray]:
    taps = _taps(opened, part)
    return {name: score(fitted, *taps) for name, score in SCORES.items()}


def _strangers(
    opened: OpenedRun, lesions: Part, others: str | None, masks: str | None
) -> dict[str, Part]:
    store, pixels = opened.data.store, lesions.pixels(np.arange(len(lesions))).numpy()
    outlines = None
    if masks is not None:
        outlines, present = read_masks(masks, lesions.ids, store.px, store.crop)
        outlines[~present] = True  # an image without an outline may hold a lesion anywhere
    kinds = {
        "noise": noise_images(store.px, len(lesions), opened.config.seed),
        "skin": skin_patches(pixels, outlines),
    }
    if others is not None:
        kinds |= read_kinds(others, store.px, store.crop)
    return {
        kind: Part.of_pixels(torch.from_numpy(images), kind)
        for kind, images in kinds.items() if len(images)
    }  # fmt: skip


def _told_apart(
    name: str, values: dict[str, dict[str, np.ndarray]], threshold: float
) -> dict[str, dict[str, Any]]:
    """For each kind of stranger: how many, AUROC, and the share that is noticed."""
    lesions = values[LESIONS][name]
    found = {}
    for kind, scores in values.items():
        if kind != LESIONS:
            truth = np.repeat([0, 1], [len(lesions), len(scores[name])])
            found[kind] = {
                "images": len(scores[name]),
                "auroc": float(roc_auc_score(truth, np.concatenate([lesions, scores[name]]))),
                "noticed": float((scores[name] > threshold).mean()),
            }
    found[LESIONS] = {"images": len(lesions), "noticed": float((lesions > threshold).mean())}
    return found


def _write(
    folder: Path, fitted: Fitted, sets: dict[str, Part], values: dict[str, dict[str, np.ndarray]]
) -> None:
    with atomic_write(folder / FITTED) as temporary:
        temporary.write_bytes(save(fitted))
    rows = [
        [name, kind, *(float(values[kind][score][row]) for score in SCORES)]
        for kind, part in sets.items()
        for row, name in enumerate(part.ids)
    ]
    write_csv(folder / VALUES, ["image", "kind", *SCORES], rows)
