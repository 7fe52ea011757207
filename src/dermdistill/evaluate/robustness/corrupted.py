"""Networks on corrupted images: one row of figures for each corruption, severity and network."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from dermdistill.data.dataset import Part
from dermdistill.display import Display
from dermdistill.evaluate.metrics import classification_metrics
from dermdistill.evaluate.opened import OpenedRun
from dermdistill.evaluate.predict import as_predictions, predict_logits
from dermdistill.evaluate.robustness.corruptions import SEVERITIES, corrupt
from dermdistill.evaluate.robustness.summary import CLEAN
from dermdistill.models import Backbone

FIGURES = ("accuracy", "balanced_accuracy", "macro_auc")
CORRUPTION_COLUMNS = ("network", "corruption", "severity", "images", *FIGURES)


def corrupted(
    opened: OpenedRun,
    networks: dict[str, Backbone],
    part: Part,
    corruptions: Sequence[str],
    folder: Path,
    progress: bool,
) -> list[dict[str, Any]]:
    """Figures of every network on clean and corrupted images; writes their predictions.

    All networks see the same corrupted pixels.
    """
    conditions = [(CLEAN, 0)] + [(name, level) for name in corruptions for level in SEVERITIES]
    display = Display("corruptions", len(conditions), 0, progress)
    rows = []
    for name, severity in conditions:
        seen = part
        if severity:
            pixels = part.pixels(np.arange(len(part)))
            seen = part.showing(corrupt(pixels, part.ids, name, severity, opened.config.seed))
        for who, network in networks.items():
            logits = predict_logits(network, seen, opened.fabric)
            predictions = as_predictions(logits, seen, opened.data.classes)
            predictions.save(folder / "predictions" / f"{who}-{name}-{severity}.csv")
            figures = classification_metrics(predictions)
            rows.append({"network": who, "corruption": name, "severity": severity,
                         "images": len(part)} | {key: figures[key] for key in FIGURES})  # fmt: skip
        display.step({f"{name} {severity}": rows[-1]["balanced_accuracy"]})
    predictions.save_truth(folder / "truth.csv")
    display.close()
    return rows
