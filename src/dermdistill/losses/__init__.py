"""Losses: pure functions, student first, no state and no weight; finite on every input."""

from collections.abc import Callable

from torch import Tensor

from dermdistill.losses.decoupled import nontarget_kd_loss, target_kd_loss
from dermdistill.losses.features import feature_mse_loss
from dermdistill.losses.logits import cross_entropy_loss, kd_loss, standardise_logits
from dermdistill.losses.relations import channel_gram_loss, rkd_angle_loss, rkd_distance_loss
from dermdistill.losses.similarities import inter_class_loss, intra_class_loss, pearson_distance
from dermdistill.losses.views import (
    kept_rows,
    own_images,
    trusted_kd_loss,
    view_contrast_loss,
    view_kd_loss,
    view_similarity,
)

LOSSES: dict[str, Callable[..., Tensor]] = {
    "cross_entropy": cross_entropy_loss,
    "kd": kd_loss,
    "feature_mse": feature_mse_loss,
    "rkd_distance": rkd_distance_loss,
    "rkd_angle": rkd_angle_loss,
    "channel_gram": channel_gram_loss,
    "view_contrast": view_contrast_loss,
    "view_kd": view_kd_loss,
    "trusted_kd": trusted_kd_loss,
    "target_kd": target_kd_loss,
    "nontarget_kd": nontarget_kd_loss,
    "inter_class": inter_class_loss,
    "intra_class": intra_class_loss,
}

__all__ = [
    "LOSSES",
    "channel_gram_loss",
    "cross_entropy_loss",
    "feature_mse_loss",
    "inter_class_loss",
    "intra_class_loss",
    "kd_loss",
    "kept_rows",
    "nontarget_kd_loss",
    "own_images",
    "pearson_distance",
    "rkd_angle_loss",
    "rkd_distance_loss",
    "standardise_logits",
    "target_kd_loss",
    "trusted_kd_loss",
    "view_contrast_loss",
    "view_kd_loss",
    "view_similarity",
]
