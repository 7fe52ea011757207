"""Whether a training is as fast and as small at step 5,000 as at step 50, and flat to the end.

    python benchmarks/steady.py [--steps 10000]

The trainer of `dermdistill distill`, its history, checkpoints and validations included, on
synthetic images of 32 px and networks so small that what grows with steps would show: SSD-KD, one
thread, in fp32. The time of a step is processor time, so that other work on the machine hardly
matters: medians of 100 steps around step 50 and around step 5,000. Memory is what the process
holds. Bars: time and memory at step 5,000 within 3 % of those at step 50, and memory after the last
step within 3 % of that at step 5,000; exit 1 otherwise.
"""

import argparse
import statistics
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import psutil
import torch

from dermdistill.config import DataConfig, FitConfig, NetworkConfig, ViewsConfig
from dermdistill.data.dataset import open_dataset
from dermdistill.data.phantom import synthesise
from dermdistill.methods import build_method
from dermdistill.models import build_backbone, freeze
from dermdistill.runtime import seed_step, start_fabric
from dermdistill.train import Learner, Trainer
from dermdistill.types import Batch, Taps
from machine import description

MOST_DRIFT = 0.03
EARLY, LATE, AROUND = 50, 5_000, 100  # steps
IMAGES, PX, BATCH, CLASSES = 128, 32, 2, 8


class Watched(Trainer):
    """A trainer that notes every step's processor time and what the process holds after it."""

    def _step(self, chosen: np.ndarray) -> None:
        started = time.process_time()
        super()._step(chosen)
        self.seconds[self.progress.step] = time.process_time() - started
        self.mb[self.progress.step] = psutil.Process().memory_info().rss / 2**20


def train(folder: Path, steps: int) -> Watched:
    """A training of so many steps."""
    synthesise(folder / "images", IMAGES, 48, seed=7, workers=1)
    data = open_dataset(DataConfig(str(folder / "images"), px=PX, workers=1), folder, False)
    fabric = start_fabric("fp32", "cpu")
    seed_step(0, "init")
    teacher, student = (
        build_backbone(NetworkConfig(name, "none"), CLASSES)
        for name in ("test_resnet", "test_efficientnet")
    )
    method, widths = build_method("ssd_kd"), freeze(teacher).widths(PX)
    head = torch.nn.ModuleDict(method.pretext().adapters(None, widths))
    labels = torch.from_numpy(data.train.labels)
    learner = Learner(
        method, student, [], [widths], PX, labels, torch.ones(CLASSES), freeze(head)
    )  # fmt: skip

    def teach(batch: Batch) -> tuple[Taps, ...]:
        with torch.no_grad():
            return (teacher(batch.for_teacher()),)

    fit = FitConfig(epochs=steps, batch_size=BATCH, schedule="constant", early_stop_epochs=0,
                    max_steps=steps)  # fmt: skip
    trainer = Watched(
        learner=learner, teach=teach, data=data, config=fit, views=ViewsConfig(), seed=0,
        fabric=fabric, folder=folder, stage="student", shown=False,
    )  # fmt: skip
    # Made before the first step, so that taking notes takes no memory.
    trainer.seconds, trainer.mb = np.zeros(steps), np.zeros(steps)
    trainer.run()
    return trainer


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--steps", type=int, default=10_000)
    steps = parser.parse_args().steps
    torch.set_num_threads(1)
    print(description())
    with tempfile.TemporaryDirectory() as name:
        trainer = train(Path(name), steps)
    late = min(LATE, steps - AROUND)
    early_s, late_s = (
        statistics.median(trainer.seconds[middle - AROUND // 2 : middle + AROUND // 2])
        for middle in (EARLY + 1, late)
    )
    at_early, at_late, last = trainer.mb[EARLY], trainer.mb[late], trainer.mb[-1]
    slower, grown, still = late_s / early_s - 1, at_late / at_early - 1, last / at_late - 1
    print(f"a step: {early_s * 1e3:.2f} ms around step {EARLY}, {late_s * 1e3:.2f} ms around step "
          f"{late}: {slower:+.1%}")  # fmt: skip
    print(f"memory: {at_early:.0f} MB at step {EARLY}, {at_late:.0f} at {late} ({grown:+.1%}), "
          f"{last:.0f} at {steps} ({still:+.1%})")  # fmt: skip
    met = max(abs(slower), abs(grown), abs(still)) <= MOST_DRIFT
    print(f"{'met' if met else 'SHORT'} (bars: {MOST_DRIFT:.0%} each)")
    return 0 if met else 1


if __name__ == "__main__":
    sys.exit(main())
