"""Whether our depthwise gradients are worth having: one training step of a network, side by side.

    python benchmarks/depthwise.py [--network tf_efficientnet_lite2] [--px 128] [--batch 64]

Forward and backward in bf16 (autocast, channels_last) on the CPU, once with the gradients of
models/depthwise.py and once with torch's own, in turns. Bar: at least 1.3x faster.
"""

import argparse
import copy
import statistics
import sys
import time

import torch
from torch import nn

from dermdistill.config import NetworkConfig
from dermdistill.models import Backbone, build_backbone
from dermdistill.models.depthwise import FAST_CLASS

BAR = 1.3
ROUNDS = 5


def torchs_own(network: Backbone) -> Backbone:
    """A copy whose depthwise convolutions are torch's and timm's again."""
    network = copy.deepcopy(network)
    plain = {fast: slow for slow, fast in FAST_CLASS.items()}
    for module in network.modules():
        if type(module) in plain:
            module.__class__ = plain[type(module)]
    return network


def step_s(network: nn.Module, images: torch.Tensor) -> float:
    """Seconds of one forward and backward pass."""
    network.zero_grad(set_to_none=True)
    started = time.perf_counter()
    with torch.autocast("cpu", torch.bfloat16):
        loss = network(images).logits.logsumexp(1).mean()
    loss.backward()
    return time.perf_counter() - started


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--network", default="tf_efficientnet_lite2")
    parser.add_argument("--px", type=int, default=128)
    parser.add_argument("--batch", type=int, default=64)
    options = parser.parse_args()
    torch.manual_seed(0)
    ours = build_backbone(NetworkConfig(options.network, "none"), classes=8)
    ours = ours.to(memory_format=torch.channels_last).train()
    theirs = torchs_own(ours)
    images = torch.rand(options.batch, 3, options.px, options.px)
    images = images.contiguous(memory_format=torch.channels_last)
    times = {"torch": [], "ours": []}
    for _ in range(1 + ROUNDS):
        times["torch"].append(step_s(theirs, images))
        times["ours"].append(step_s(ours, images))
    medians = {name: statistics.median(values[1:]) for name, values in times.items()}
    for name, seconds in medians.items():
        print(f"{name:<6} {seconds:7.3f} s a step  {options.batch / seconds:7.1f} images/s")
    ratio = medians["torch"] / medians["ours"]
    passed = ratio >= BAR
    print(f"{'PASS' if passed else 'FAIL'}: {ratio:.2f}x faster, bar {BAR}x "
          f"({options.network}, {options.px} px, batch {options.batch})")  # fmt: skip
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main())
