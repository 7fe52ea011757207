"""The pretext: a step that asks the teacher, against one that goes back through it.

    python benchmarks/pretext.py [--images 8] [--rounds 5] [--threads 2] [--clock wall]

The published first stage computes the gradient of the whole ResNet-50, in fp32 and at learning rate
0; ours asks the folded and compiled teacher in bf16 and trains the head on its answers. Both start
from the same head and see the same images in four views at 224 px, in a process of their own each,
in turns. The teacher has learnt the synthetic images for 40 steps: behind random weights all views
are alike. Time is the median of the rounds after the first. Bars: 10 times faster, and after all
rounds the heads differ by at most 5 % of the way that the published one went; exit 1 where one is
missed.
"""

import statistics
import sys
import tempfile
from pathlib import Path

import torch
from safetensors.torch import load_file

from step_setting import HEAD, Setting, prepare
from turns import FORMS, in_turns, options_of, setting_of, weights_after

LEAST_GAIN, MOST_APART = 10.0, 0.05
STAGE = "pretext"
TEACHER_STEPS = 40


def vector(path: Path) -> torch.Tensor:
    """All numbers of a head."""
    state = load_file(path)
    return torch.cat([state[name].flatten().double() for name in sorted(state) if "head" in name])


def main() -> int:
    options = options_of(__doc__, 8, 5).parse_args()
    print(setting_of(options))
    with tempfile.TemporaryDirectory() as name:
        setting = Setting(Path(name), options.images, options.px, teacher_steps=TEACHER_STEPS)
        prepare(setting)
        steps = in_turns(setting, STAGE, options)
        start = vector(setting.folder / HEAD)
        published, ours = (vector(weights_after(setting.folder, form, STAGE)) for form in FORMS)
    seconds = {f: statistics.median(s[options.clock] for s in steps[f][1:]) for f in FORMS}
    for form in FORMS:
        times = ", ".join(f"{step[options.clock]:.2f}" for step in steps[form])
        first, last = steps[form][0], steps[form][-1]
        print(f"{form:<9} {seconds[form]:6.2f} s ({times})   {last['mb']:6.0f} MB   loss "
              f"{first['loss']:.5f} to {last['loss']:.5f}")  # fmt: skip
    gain = seconds["published"] / seconds["ours"]
    apart = float((ours - published).norm() / (published - start).norm())
    met = gain >= LEAST_GAIN and apart <= MOST_APART
    print(f"{'met' if met else 'SHORT'}: {gain:.1f} times faster (bar {LEAST_GAIN:g}); after "
          f"{options.rounds + 1} steps the heads are {apart:.1%} of the way apart (bar "
          f"{MOST_APART:.0%})")  # fmt: skip
    return 0 if met else 1


if __name__ == "__main__":
    sys.exit(main())
