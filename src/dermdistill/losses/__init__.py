"""Losses: pure functions, student first, no state and no weight; finite on every input."""

from collections.abc import Callable

from torch import Tensor

from dermdistill.losses.decoupled import (
    confidence_kd_loss,
    group_kd_loss,
    masked_kd_loss,
    nontarget_kd_loss,
    target_kd_loss,
    within_group_kd_loss,
)
from dermdistill.losses.features import (
    attention_loss,
    feature_mse_loss,
    log_power_loss,
    normalised_l1_loss,
    same_size,
    selectivity_loss,
    variational_loss,
)
from dermdistill.losses.logits import (
    cross_entropy_loss,
    enhanced_kd_loss,
    kd_loss,
    softened_divergences,
    standardise_logits,
)
from dermdistill.losses.relations import channel_gram_loss, rkd_angle_loss, rkd_distance_loss
from dermdistill.losses.similarities import (
    batch_correlation_loss,
    class_correlation_loss,
    correlation_congruence_loss,
    inter_class_loss,
    intra_class_loss,
    pearson_distance,
    pkt_loss,
    similarity_loss,
)
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
    "confidence_kd": confidence_kd_loss,
    "masked_kd": masked_kd_loss,
    "group_kd": group_kd_loss,
    "within_group_kd": within_group_kd_loss,
    "enhanced_kd": enhanced_kd_loss,
    "inter_class": inter_class_loss,
    "intra_class": intra_class_loss,
    "batch_correlation": batch_correlation_loss,
    "class_correlation": class_correlation_loss,
    "similarity": similarity_loss,
    "pkt": pkt_loss,
    "correlation_congruence": correlation_congruence_loss,
    "attention": attention_loss,
    "selectivity": selectivity_loss,
    "variational": variational_loss,
    "log_power": log_power_loss,
    "normalised_l1": normalised_l1_loss,
}

__all__ = [
    "LOSSES",
    "attention_loss",
    "batch_correlation_loss",
    "channel_gram_loss",
    "class_correlation_loss",
    "confidence_kd_loss",
    "correlation_congruence_loss",
    "cross_entropy_loss",
    "enhanced_kd_loss",
    "feature_mse_loss",
    "group_kd_loss",
    "inter_class_loss",
    "intra_class_loss",
    "kd_loss",
    "kept_rows",
    "log_power_loss",
    "masked_kd_loss",
    "nontarget_kd_loss",
    "normalised_l1_loss",
    "own_images",
    "pearson_distance",
    "pkt_loss",
    "rkd_angle_loss",
    "rkd_distance_loss",
    "same_size",
    "selectivity_loss",
    "similarity_loss",
    "softened_divergences",
    "standardise_logits",
    "target_kd_loss",
    "trusted_kd_loss",
    "variational_loss",
    "view_contrast_loss",
    "view_kd_loss",
    "view_similarity",
    "within_group_kd_loss",
]
