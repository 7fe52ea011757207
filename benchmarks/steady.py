"""Whether a training is as fast and as small at step 5,000 as at step 50, and flat to the end.

    python benchmarks/steady.py [--steps 10000]

The trainer of `dermdistill distill`, its history, checkpoints and validations included, on
synthetic images of 32 px and networks so small that what grows with steps would show: SSD-KD, one
thread, in fp32. When it comes to step 4,950 a second process begins the same training, and for 100
steps the two take turns, so that both are timed on the machine as it is then. The time of a step is
the median of processor times, memory what a process holds. Bars: time and memory at step 5,000
within 3 % of those at step 50, and memory after the last step within 3 % of that at step 5,000;
exit 1 otherwise.
"""

import argparse
import multiprocessing
import statistics
import sys
import tempfile
import time
from multiprocessing.connection import Connection
from multiprocessing.synchronize import Semaphore
from pathlib import Path
from typing import NamedTuple

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


class Turns(NamedTuple):
    """Steps that a trainer does by turns with another.

    Attributes:
        first: of `AROUND` such steps.
        own, other: whose turn it is.
    """

    first: int
    own: Semaphore
    other: Semaphore


class Watched(Trainer):
    """A trainer that notes every step's processor time and what the process holds after it."""

    def _step(self, chosen: np.ndarray) -> None:
        step, turns = self.progress.step, self.turns
        by_turns = turns.first <= step < turns.first + AROUND
        if by_turns:
            turns.own.acquire()
        started = time.process_time()
        super()._step(chosen)
        self.seconds[step] = time.process_time() - started
        self.mb[step] = psutil.Process().memory_info().rss / 2**20
        if by_turns:
            turns.other.release()


def train(folder: Path, steps: int, turns: Turns, notes: Connection) -> None:
    """A training of so many steps, and at its end what was noted."""
    torch.set_num_threads(1)
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
    trainer.seconds, trainer.mb, trainer.turns = np.zeros(steps), np.zeros(steps), turns
    trainer.run()
    notes.send((trainer.seconds, trainer.mb))


def side_by_side(folder: Path, steps: int, late: int) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """What a training noted, and one that began when it came to step `late`."""
    make = multiprocessing.get_context("spawn")
    old, new = make.Semaphore(1), make.Semaphore(0)
    plans = {"old": (steps, Turns(late, old, new)), "new": (AROUND, Turns(0, new, old))}
    processes, ends = [], {}
    for name, plan in plans.items():
        ends[name], notes = make.Pipe(duplex=False)
        processes.append(make.Process(target=train, args=(folder / name, *plan, notes)))
        processes[-1].start()
        notes.close()
    noted = {name: end.recv() for name, end in ends.items()}
    for process in processes:
        process.join()
    return noted


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--steps", type=int, default=10_000)
    steps = parser.parse_args().steps
    print(description())
    late = min(LATE, steps - AROUND)
    with tempfile.TemporaryDirectory() as name:
        noted = side_by_side(Path(name), steps, late - AROUND // 2)
    (late_s, late_mb), (early_s, early_mb) = noted["old"], noted["new"]
    at_early, at_late, last = early_mb[EARLY], late_mb[late], late_mb[-1]
    early = statistics.median(early_s)
    later = statistics.median(late_s[late - AROUND // 2 : late + AROUND // 2])
    slower, grown, still = later / early - 1, at_late / at_early - 1, last / at_late - 1
    print(f"a step: {early * 1e3:.2f} ms around step {EARLY}, {later * 1e3:.2f} ms around step "
          f"{late}: {slower:+.1%}")  # fmt: skip
    print(f"memory: {at_early:.0f} MB at step {EARLY}, {at_late:.0f} at {late} ({grown:+.1%}), "
          f"{last:.0f} at {steps} ({still:+.1%})")  # fmt: skip
    met = max(abs(slower), abs(grown), abs(still)) <= MOST_DRIFT
    print(f"{'met' if met else 'SHORT'} (bars: {MOST_DRIFT:.0%} each)")
    return 0 if met else 1


if __name__ == "__main__":
    sys.exit(main())
