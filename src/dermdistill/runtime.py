"""The device a run computes on, and the seeds that its random numbers start from."""

import atexit
import hashlib
import logging
import os
from datetime import timedelta

import torch
from lightning_fabric import Fabric
from lightning_fabric.strategies import DDPStrategy

PRECISIONS = {"bf16": "bf16-mixed", "fp32": "32-true"}
# The first process validates and scores alone while the others wait. That a process died is told
# by torchrun, long before this.
PATIENCE = timedelta(days=1)


def start_fabric(precision: str, device: str) -> Fabric:
    """The device and the number format of everything that a command computes.

    One device; where torchrun started the command several times, this process's one of them.

    Args:
        precision: "bf16" (autocast) or "fp32".
        device: "auto", "cpu", "cuda" or "mps".
    """
    logging.getLogger("lightning_fabric.utilities.rank_zero").setLevel(logging.WARNING)
    settings = {"accelerator": device, "precision": PRECISIONS[precision]}
    if not under_torchrun():
        return Fabric(devices=1, **settings)
    processes, here = int(os.environ["WORLD_SIZE"]), int(os.environ["LOCAL_WORLD_SIZE"])
    strategy = DDPStrategy(
        # gloo beside nccl, so that small things on the processor are told without the device.
        process_group_backend="cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo",
        timeout=PATIENCE,
        broadcast_buffers=False,  # batch norm and memories are the same everywhere by themselves
        find_unused_parameters=True,  # a ramp may leave a term, and so an adapter, out at first
    )
    fabric = Fabric(devices=here, num_nodes=processes // here, strategy=strategy, **settings)
    fabric.launch()
    # Left to the interpreter's end, gloo's threads abort a process that has done all its work.
    atexit.register(torch.distributed.destroy_process_group)
    return fabric


def in_bf16(fabric: Fabric) -> bool:
    """Whether networks compute in bf16 (autocast); else in fp32."""
    return fabric.strategy.precision.precision == PRECISIONS["bf16"]


def layout(fabric: Fabric) -> torch.memory_format:
    """How networks and images lie in memory: channels last, but not in fp32 on the CPU.

    There torch sums a batch norm's statistics in sequence over all places, and a student in fp32
    would be 5 to 50 times less exact than in the other layout (docs/log.md).
    """
    exact_on_cpu = fabric.device.type == "cpu" and not in_bf16(fabric)
    return torch.contiguous_format if exact_on_cpu else torch.channels_last


def under_torchrun() -> bool:
    """Whether torchrun started this process, maybe as one of many."""
    return "TORCHELASTIC_RUN_ID" in os.environ


def is_first_process() -> bool:
    """Whether this process writes files and speaks; where there is but one, it is."""
    return not under_torchrun() or os.environ["RANK"] == "0"


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
