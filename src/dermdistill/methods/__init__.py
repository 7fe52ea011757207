"""Every method under its name; a new one is a file here and a line in METHODS."""

from typing import Any

from dermdistill.errors import unknown_name
from dermdistill.methods.base import Lesson, Method, configure
from dermdistill.methods.d_kd import DKD
from dermdistill.methods.dist import DIST
from dermdistill.methods.dkd import DecoupledKD
from dermdistill.methods.fitnet import FitNet
from dermdistill.methods.kd import KD
from dermdistill.methods.rkd import RKD
from dermdistill.methods.ssd_kd import SSDKD
from dermdistill.methods.sskd import SSKD
from dermdistill.methods.supervised import Supervised

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
