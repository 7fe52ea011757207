"""One SSD-KD step, this package's against a plain eager one of the published formulation.

    python benchmarks/step.py [--images 8 32] [--rounds 5] [--threads 2] [--clock wall]

ResNet-50 teaches MobileNetV2 at 224 px, every image in four views: teacher, student, all terms,
gradient, optimiser. Ours is the trainer of `dermdistill distill` in bf16; the published step is
fp32 in torch's default layout with the large tensors (benchmarks/published.py). Each form has a
process of its own with the same files and threads; they take turns, and only one computes at a
time. Time is the median of the rounds after a first step, peak memory what the process holds at
most beyond libraries, weights and images. The floor is the arithmetic over the rate of a large
matrix product, measured here. Bars: 6 times faster, a third of the memory, the first step's loss
within 1 % in bf16 and 1e-4 in fp32; exit 1 where one is missed.
"""

import argparse
import statistics
import sys

import torch
from torch.utils.flop_counter import FlopCounterMode

from dermdistill.config import NetworkConfig
from dermdistill.models import build_backbone
from machine import rates
from step_setting import CLASSES, Setting
from turns import FORMS, Taker, each_batch, in_turns, options_of

LEAST_GAIN, MOST_MEMORY = 6.0, 1 / 3
VIEWS = 4
MOST_ERROR = {"bf16": 1e-2, "fp32": 1e-4}


def arithmetic(setting: Setting) -> float:
    """Operations of the two networks' convolutions and products in one step, in billions.

    A backward pass counts twice the forward one: torch's counter has too many operations for the
    gradients of grouped convolutions.
    """
    shown = torch.rand(1, 3, setting.px, setting.px)
    total = 0
    for name, passes in ((setting.teacher, 1), (setting.student, 3)):
        network = build_backbone(NetworkConfig(name, "none"), CLASSES).eval()
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            network(shown)
        total += passes * counter.get_total_flops()
    return total * setting.images * VIEWS / 1e9


def compare(setting: Setting, options: argparse.Namespace) -> bool:
    """Print one batch size's figures; whether all bars are met."""
    steps = in_turns(setting, "ssd_kd", options)
    single = Taker(setting, "ours", "ssd_kd", "fp32", options.threads, options.allocator)
    exact = single.step()["loss"]
    single.close()
    seconds = {f: statistics.median(s[options.clock] for s in steps[f][1:]) for f in FORMS}
    memory = {form: max(step["mb"] for step in steps[form]) for form in FORMS}
    published = steps["published"][0]["loss"]
    errors = {
        "bf16": abs(steps["ours"][0]["loss"] / published - 1),
        "fp32": abs(exact / published - 1),
    }
    gain, share = seconds["published"] / seconds["ours"], memory["ours"] / memory["published"]
    print(f"{setting.images} images in 4 views:")
    for form in FORMS:
        times = ", ".join(f"{step[options.clock]:.2f}" for step in steps[form])
        print(f"  {form:<9} {seconds[form]:7.2f} s ({times})   {memory[form]:7.0f} MB   "
              f"loss {steps[form][0]['loss']:.5f}")  # fmt: skip
    work, fastest = arithmetic(setting), rates(options.threads)
    floors = ", ".join(f"{work / rate:.2f} s in {name}" for name, rate in fastest.items())
    print(f"  floor: {work:.0f} GFLOP of the networks, {floors}; ours takes "
          f"{seconds['ours'] * fastest['bf16'] / work:.1f} times bf16's")  # fmt: skip
    print(f"  {gain:.2f} times faster (bar {LEAST_GAIN:g}), {share:.3f} of the memory (bar "
          f"{MOST_MEMORY:.3f}), loss off by {errors['bf16']:.1e} in bf16 (bar 1e-2) and "
          f"{errors['fp32']:.1e} in fp32 (bar 1e-4)", flush=True)  # fmt: skip
    exactly = all(errors[name] <= bar for name, bar in MOST_ERROR.items())
    return gain >= LEAST_GAIN and share <= MOST_MEMORY and exactly


def main() -> int:
    parser = options_of(__doc__, [8, 32], 5)
    parser.add_argument("--student-weights", default="none", help="a file; by default random ones")
    options = parser.parse_args()
    return each_batch(options, compare, student_weights=options.student_weights)


if __name__ == "__main__":
    sys.exit(main())
