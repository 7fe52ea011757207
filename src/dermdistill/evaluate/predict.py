"""Images in, probabilities out: the one road that every part of every run is scored on."""

import numpy as np
import torch
from jaxtyping import Float
from lightning_fabric import Fabric
from torch import Tensor

from dermdistill.data.dataset import Part
from dermdistill.data.views import upright_view
from dermdistill.evaluate.predictions import Predictions
from dermdistill.models import Backbone

PREDICT_BATCH = 64  # images at once; large enough to fill two cores, small enough for a phone's GPU


def predict_logits(
    network: Backbone, part: Part, fabric: Fabric
) -> Float[Tensor, "images classes"]:
    """Logits of every image of a part, upright and unvaried, fp32 on the CPU.

    Leaves the network in the mode it was in.
    """
    return predict_taps(network, part, fabric)[1]


@torch.no_grad()
def predict_taps(
    network: Backbone, part: Part, fabric: Fabric
) -> tuple[Float[Tensor, "images width"], Float[Tensor, "images classes"]]:
    """Embedding and logits of every image of a part, as `predict_logits` has them."""
    was_training = network.training
    network.eval()
    batches = []
    for chosen in np.array_split(np.arange(len(part)), max(1, -(-len(part) // PREDICT_BATCH))):
        images = upright_view(part.pixels(chosen).to(fabric.device, non_blocking=True))
        with fabric.autocast():
            asked = network.given(part.about(chosen))
            taps = asked(images.contiguous(memory_format=torch.channels_last))
        batches.append((taps.embedding.float().cpu(), taps.logits.float().cpu()))
    network.train(was_training)
    embeddings, logits = (torch.cat(each) for each in zip(*batches, strict=True))
    return embeddings, logits


def as_predictions(
    logits: Float[Tensor, "images classes"], part: Part, classes: tuple[str, ...]
) -> Predictions:
    """Softmax probabilities of a part's logits, with the truth."""
    probabilities = torch.softmax(logits.double(), dim=1).numpy()
    return Predictions(part.ids, classes, probabilities, part.labels)
