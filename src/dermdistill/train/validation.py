"""The figures that judge an epoch."""

import torch
from jaxtyping import Float
from lightning_fabric import Fabric
from torch import Tensor

from dermdistill.data.dataset import Part
from dermdistill.errors import RunError
from dermdistill.evaluate.metrics import classification_metrics
from dermdistill.evaluate.predict import as_predictions, predict_logits
from dermdistill.losses import cross_entropy_loss
from dermdistill.models import Backbone


def validation_figures(
    network: Backbone,
    part: Part,
    classes: tuple[str, ...],
    class_weights: Float[Tensor, " classes"],
    fabric: Fabric,
) -> dict[str, float]:
    """Weighted cross entropy, accuracies and macro AUC (where it exists) of a network on a part.

    Raises:
        RunError: some logits are no numbers; names their images.
    """
    logits = predict_logits(network, part, fabric)
    lost = (~logits.isfinite().all(dim=1)).nonzero()[:, 0].tolist()
    if lost:
        named = ", ".join(part.ids[row] for row in lost[:3])
        raise RunError(
            f"the validation's logits of {len(lost)} of {len(part)} images are no finite numbers "
            f"({named}), though the training's losses are: batch norm's statistics have run away. "
            "Lower fit.lr, set clip_norm, or try precision fp32"
        )
    loss = cross_entropy_loss(logits, torch.from_numpy(part.labels), class_weights.cpu())
    metrics = classification_metrics(as_predictions(logits, part, classes))
    return {
        "loss": float(loss),
        "accuracy": metrics["accuracy"],
        "balanced_accuracy": metrics["balanced_accuracy"],
        **({"macro_auc": metrics["macro_auc"]} if metrics["macro_auc"] is not None else {}),
    }
