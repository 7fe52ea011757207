"""Every method under its name; a new one is a file here and a line in METHODS."""

from typing import Any

from dermdistill.errors import unknown_name
from dermdistill.methods.adadfkd import AdaDFKD
from dermdistill.methods.at import AttentionTransfer
from dermdistill.methods.base import Lesson, Method, configure
from dermdistill.methods.cc import CorrelationCongruence
from dermdistill.methods.crckd import CRCKD
from dermdistill.methods.d_kd import DKD
from dermdistill.methods.dist import DIST
from dermdistill.methods.dkd import DecoupledKD
from dermdistill.methods.dsp_kd import DSPKD
from dermdistill.methods.fitnet import FitNet
from dermdistill.methods.kd import KD
from dermdistill.methods.learning_styles import LearningStyles
from dermdistill.methods.ltkd import LTKD
from dermdistill.methods.mlkd import MLKD
from dermdistill.methods.mtms import MTMS
from dermdistill.methods.multi_kd import MultiKD
from dermdistill.methods.mutual import Mutual
from dermdistill.methods.nord import NoRD
from dermdistill.methods.nst import NeuronSelectivity
from dermdistill.methods.ofa import OFALogit
from dermdistill.methods.pkt import PKT
from dermdistill.methods.review_kd import ReviewKD
from dermdistill.methods.rkd import RKD
from dermdistill.methods.rld import RLD
from dermdistill.methods.simkd import SimKD
from dermdistill.methods.sp import SimilarityPreserving
from dermdistill.methods.srd import SRD
from dermdistill.methods.ssd_kd import SSDKD
from dermdistill.methods.sskd import SSKD
from dermdistill.methods.stalk import StAlK
from dermdistill.methods.supervised import Supervised
from dermdistill.methods.tss_kd import TSSKD
from dermdistill.methods.udcd import UDCD
from dermdistill.methods.vadakd import VAdaKD
from dermdistill.methods.vid import VID
from dermdistill.methods.vkd import VkD

METHODS: dict[str, type[Method]] = {
    "supervised": Supervised,
    "kd": KD,
    "fitnet": FitNet,
    "rkd": RKD,
    "d_kd": DKD,
    "sskd": SSKD,
    "ssd_kd": SSDKD,
    "crckd": CRCKD,
    "udcd": UDCD,
    "stalk": StAlK,
    "nord": NoRD,
    "tss_kd": TSSKD,
    "mtms": MTMS,
    "multi_kd": MultiKD,
    "dsp_kd": DSPKD,
    "vadakd": VAdaKD,
    "mutual": Mutual,
    "learning_styles": LearningStyles,
    "simkd": SimKD,
    "review_kd": ReviewKD,
    "dkd": DecoupledKD,
    "dist": DIST,
    "at": AttentionTransfer,
    "sp": SimilarityPreserving,
    "pkt": PKT,
    "mlkd": MLKD,
    "rld": RLD,
    "ofa": OFALogit,
    "srd": SRD,
    "vkd": VkD,
    "ltkd": LTKD,
    "cc": CorrelationCongruence,
    "vid": VID,
    "nst": NeuronSelectivity,
    "adadfkd": AdaDFKD,
}


def build_method(name: str, options: dict[str, Any] | None = None) -> Method:
    """A method by name, with some of its hyper-parameters set.

    Raises:
        ConfigError: no such method or hyper-parameter, or a value out of range.
    """
    if name not in METHODS:
        raise unknown_name("method", name, METHODS)
    return configure(name, METHODS[name], options or {})


__all__ = ["METHODS", "Lesson", "Method", "build_method"]
