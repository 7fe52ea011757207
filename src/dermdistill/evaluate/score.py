"""A trained network's figures and files on the held-out parts."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning_fabric import Fabric
from torch.utils.flop_counter import FlopCounterMode

from dermdistill.config import EvaluationConfig
from dermdistill.data.dataset import Dataset, Part
from dermdistill.data.table import Table
from dermdistill.evaluate.groups import save_groups
from dermdistill.evaluate.metrics import classification_metrics
from dermdistill.evaluate.predict import as_predictions, predict_logits
from dermdistill.models import Backbone
from dermdistill.types import Metadata

HELD_OUT = ("validation", "test")
FLOPS_PER_MULTIPLY_ADD = 2
MEGABYTE = 1_000_000


def score(
    network: Backbone,
    data: Dataset,
    folder: Path,
    fabric: Fabric,
    settings: EvaluationConfig | None = None,
) -> dict[str, Any]:
    """Metrics on validation and test, and what the network costs; writes predictions as CSV.

    Files: `predictions-PART.csv` in ISIC's submission form, `truth-PART.csv` beside it, and
    `groups-PART.csv` with each image's lesion, patient, age, sex and site.

    Args:
        network: the network to judge.
        data: the parts.
        folder: the run directory.
        fabric: device and number format to predict with.
        settings: what is asked of the predictions.

    Returns:
        One dict of metrics a part, and "cost".
    """
    network = network.to(fabric.device, memory_format=torch.channels_last)
    metrics = {
        name: score_part(network, getattr(data, name), name, data.table, folder, fabric, settings)
        for name in HELD_OUT
    }
    return metrics | {"cost": cost(network, data.store.px)}


def score_part(
    network: Backbone,
    part: Part,
    name: str,
    table: Table,
    folder: Path,
    fabric: Fabric,
    settings: EvaluationConfig | None = None,
) -> dict[str, Any]:
    """Metrics on one part; writes its three CSV files. Arguments as `score`.

    Args:
        part: the images.
        name: of the part, in the files' names.
        table: what is known of the images.
    """
    predictions = as_predictions(predict_logits(network, part, fabric), part, table.classes)
    predictions.save(folder / f"predictions-{name}.csv")
    predictions.save_truth(folder / f"truth-{name}.csv")
    facts = table.frame.iloc[table.rows(part.ids)]
    save_groups(folder / f"groups-{name}.csv", part.ids, facts)
    figures = classification_metrics(predictions, settings)
    if network.encoder is not None:
        asked = part.about(np.arange(len(part)))
        network.encoder.warn(asked, f"the {name} part")
        figures["metadata"] = network.encoder.summary(asked)
    return figures


@torch.no_grad()
def cost(network: Backbone, input_px: int) -> dict[str, Any]:
    """Parameters, multiply-adds of one image (convolutions and matrices), weights in MB."""
    network.eval()
    image = next(network.parameters()).new_zeros(1, 3, input_px, input_px)
    with FlopCounterMode(display=False) as counter:
        network.given(Metadata.missing(1))(image)
    tensors = [*network.parameters(), *network.buffers()]
    return {
        "parameters": sum(p.numel() for p in network.parameters()),
        "multiply_adds": counter.get_total_flops() // FLOPS_PER_MULTIPLY_ADD,
        "size_mb": sum(t.numel() * t.element_size() for t in tensors) / MEGABYTE,
        "input_px": input_px,
    }
