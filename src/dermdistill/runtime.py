"""The device a run computes on, and the seeds that its random numbers start from."""

import hashlib
import logging

import torch
from lightning_fabric import Fabric

PRECISIONS = {"bf16": "bf16-mixed", "fp32": "32-true"}


def start_fabric(precision: str, device: str) -> Fabric:
    """One device and one number format for everything that a command computes.

    Args:
        precision: "bf16" (autocast) or "fp32".
        device: "auto", "cpu", "cuda" or "mps".
    """
    logging.getLogger("lightning_fabric.utilities.rank_zero").setLevel(logging.WARNING)
    return Fabric(accelerator=device, devices=1, precision=PRECISIONS[precision])


def derived_seed(seed: int, *purpose: str | int) -> int:
    """A seed in [0, 2^63) for one purpose at one moment ("step", epoch, step).

    Random numbers are a function of the seed and the moment, never of what ran before: so a
    resumed run draws what an uninterrupted one would have drawn.
    """
    text = ":".join(map(str, (seed, *purpose)))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def seed_step(seed: int, *moment: str | int) -> None:
    """Seed torch's generators (all devices) for one moment of a run."""
    torch.manual_seed(derived_seed(seed, *moment))
