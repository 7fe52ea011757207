"""How fast one process makes batches of views, beside how fast a step consumes them.

    python benchmarks/data_path.py [--images 8 32] [--rounds 5] [--threads 2] [--clock wall]

Images of 224 px are read from the store, turned and varied by this package's trainer, and learnt
from by its SSD-KD step (ResNet-50 to MobileNetV2, bf16), in turns in one process; medians after a
first round. Bars: making a batch of four views costs less than a tenth of its step, so it feeds at
least 5 times what the step consumes; exit 1 otherwise.
"""

import argparse
import statistics
import sys

import numpy as np

from dermdistill.config import ViewsConfig
from dermdistill.data.views import QUARTER_TURNS, Augmentation, make_views
from dermdistill.runtime import seed_step
from step_setting import Setting, build
from turns import CLOCKS, each_batch, options_of

MOST_SHARE, LEAST_FEED = 0.1, 5.0


def compare(setting: Setting, options: argparse.Namespace) -> bool:
    """Print one batch size's figures; whether the bars are met."""
    clock = CLOCKS[options.clock]
    step, part = build(setting, "ours", "ssd_kd", "bf16"), setting.dataset().train
    augmentation, rows = Augmentation(ViewsConfig()), np.arange(setting.images)
    times: dict[str, list[float]] = {"read": [], "views": [], "step": []}
    for number in range(options.rounds + 1):
        seed_step(setting.seed, "round", number)
        moments = [clock()]
        pixels = part.pixels(rows)
        moments.append(clock())
        make_views(pixels, QUARTER_TURNS, augmentation)
        moments.append(clock())
        step.learn()
        moments.append(clock())
        for name, before, after in zip(times, moments, moments[1:], strict=False):
            times[name].append(after - before)
    median = {name: statistics.median(values[1:]) for name, values in times.items()}
    made = median["read"] + median["views"]
    share = made / median["step"]
    print(f"{setting.images} images in 4 views: read {median['read'] * 1e3:.1f} ms, turned and "
          f"varied {median['views'] * 1e3:.0f} ms, learnt {median['step'] * 1e3:.0f} ms; "
          f"{setting.images / made:.0f} images/s made, {setting.images / median['step']:.1f} "
          f"consumed")  # fmt: skip
    print(f"  {share:.1%} of the step (bar {MOST_SHARE:.0%}), {1 / share:.1f} times what it "
          f"consumes (bar {LEAST_FEED:g})", flush=True)  # fmt: skip
    return share <= MOST_SHARE and 1 / share >= LEAST_FEED


def main() -> int:
    return each_batch(options_of(__doc__, [8, 32], 5).parse_args(), compare)


if __name__ == "__main__":
    sys.exit(main())
