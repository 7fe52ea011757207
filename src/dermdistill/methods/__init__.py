"""Every method under its name; a new one is a file here and a line in METHODS."""

from typing import Any

from dermdistill.errors import unknown_name
from dermdistill.methods.at import AttentionTransfer
from dermdistill.methods.base import Lesson, Method, configure
from dermdistill.methods.cc import CorrelationCongruence
from dermdistill.methods.d_kd import DKD
from dermdistill.methods.dist import DIST
from dermdistill.methods.dkd import DecoupledKD
from dermdistill.methods.fitnet import FitNet
from dermdistill.methods.kd import KD
from dermdistill.methods.ltkd import LTKD
from dermdistill.methods.mlkd import MLKD
from dermdistill.methods.nst import NeuronSelectivity
from dermdistill.methods.ofa import OFALogit
from dermdistill.methods.pkt import PKT
from dermdistill.methods.rkd import RKD
from dermdistill.methods.rld import RLD
from dermdistill.methods.sp import SimilarityPreserving
from dermdistill.methods.srd import SRD
from dermdistill.methods.ssd_kd import SSDKD
from dermdistill.methods.sskd import SSKD
from dermdistill.methods.supervised import Supervised
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
