"""Networks: timm backbones read through their taps, and what bridges two of them."""

from dermdistill.models.adapters import (
    ProjectionHead,
    VariationalHead,
    connector,
    orthogonal_projector,
)
from dermdistill.models.backbone import (
    Backbone,
    bridged,
    build_backbone,
    freeze,
    load_best,
    load_network,
    require_network,
)
from dermdistill.models.compiled import compile_frozen, compile_learning
from dermdistill.models.eight_bits import is_coarse
from dermdistill.models.folding import fold_norms, merge_branches
from dermdistill.models.fusion import MetaBlock, MetadataEncoder
from dermdistill.models.moments import norm_gaps, remembering_norms, with_norms
from dermdistill.models.pointwise import speed_up_pointwise
from dermdistill.models.pooling import noise_image, pools_by_mean
from dermdistill.models.pruning import require_pruner
from dermdistill.models.rounding import fit_to_8_bits, spread

__all__ = [
    "Backbone",
    "MetaBlock",
    "MetadataEncoder",
    "ProjectionHead",
    "VariationalHead",
    "bridged",
    "build_backbone",
    "compile_frozen",
    "compile_learning",
    "connector",
    "fit_to_8_bits",
    "fold_norms",
    "freeze",
    "is_coarse",
    "load_best",
    "load_network",
    "merge_branches",
    "noise_image",
    "norm_gaps",
    "orthogonal_projector",
    "pools_by_mean",
    "remembering_norms",
    "require_network",
    "require_pruner",
    "speed_up_pointwise",
    "spread",
    "with_norms",
]
