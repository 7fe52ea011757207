"""Networks on corrupted images: one row of figures for each corruption, severity and network."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from dermdistill.data.dataset import Part
from dermdistill.display import Display
from dermdistill.evaluate.intervals import bootstrap
from dermdistill.evaluate.metrics import classification_metrics
from dermdistill.evaluate.opened import OpenedRun
from dermdistill.evaluate.predict import as_predictions, predict_logits
from dermdistill.evaluate.robustness.corruptions import SEVERITIES, corrupt
from dermdistill.evaluate.robustness.summary import CLEAN, ERROR
from dermdistill.models import Backbone

FIGURES = ("accuracy", "balanced_accuracy", "macro_auc")
CORRUPTION_COLUMNS = ("network", "corruption", "severity", "images", *FIGURES, "low", "high")
DRAWS = 500  # of lesions, for each condition and network: ends to about a tenth of their width


def corrupted(
    opened: OpenedRun,
    networks: dict[str, Backbone],
    part: Part,
    corruptions: Sequence[str],
    folder: Path,
    progress: bool,
) -> tuple[list[dict[str, Any]], list[np.ndarray]]:
    """Figures of every network on clean and corrupted images; writes their predictions.

    All networks see the same corrupted pixels.

    Returns:
        A row a condition and network, `low` and `high` the ends of its balanced accuracy; and each
        row's draws of that figure, the same lesions in all.
    """
    settings = replace(opened.config.evaluation, draws=DRAWS)
    units = opened.units(part)
    conditions = [(CLEAN, 0)] + [(name, level) for name in corruptions for level in SEVERITIES]
    display = Display("corruptions", len(conditions), 0, progress)
    rows, draws = [], []
    for name, severity in conditions:
        seen = part
        if severity:
            pixels = part.pixels(np.arange(len(part)))
            seen = part.showing(corrupt(pixels, part.ids, name, severity, opened.config.seed))
        for who, network in networks.items():
            logits = predict_logits(network, seen, opened.fabric)
            predictions = as_predictions(logits, seen, opened.data.classes)
            predictions.save(folder / "predictions" / f"{who}-{name}-{severity}.csv")
            figures, made = classification_metrics(predictions), bootstrap(
                predictions, units, settings)  # fmt: skip
            ends = made.interval((ERROR,)) or (None, None)
            rows.append({"network": who, "corruption": name, "severity": severity,
                         "images": len(part), "low": ends[0], "high": ends[1]}
                        | {key: figures[key] for key in FIGURES})  # fmt: skip
            draws.append(made.draws[(ERROR,)])
        display.step({f"{name} {severity}": rows[-1]["balanced_accuracy"]})
    predictions.save_truth(folder / "truth.csv")
    display.close()
    return rows, draws
