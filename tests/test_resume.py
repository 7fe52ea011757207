"""A training that is stopped anywhere ends in the same bits as one that is not."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

import small
from dermdistill.methods import METHODS
from dermdistill.run import BEST, HISTORY, LAST
from dermdistill.train import Trainer
from dermdistill.train.checkpoint import CHECKPOINT

BENCHMARK = Path(__file__).parents[1] / "benchmarks" / "resume.py"
EPOCHS = 3


class StoppedError(Exception):
    """What a kill looks like from inside one process."""


class StopAt:
    """Raises in the middle of the n-th step from now."""

    def __init__(self, step: int):
        self.left = step

    def __call__(self) -> None:
        self.left -= 1
        if self.left == 0:
            raise StoppedError


def through(folder: Path, stops: tuple[int, ...], make: Callable[..., Trainer]) -> Path:
    """Train in a new folder, stopped in the middle of so many steps of each process, to the end.

    Args:
        folder: the run directory.
        stops: steps, one for each process that is stopped.
        make: a process's trainer, from `init` and `before_step`.
    """
    folder.mkdir()
    init = 3
    for stop in stops:
        with pytest.raises(StoppedError):
            make(init=init, before_step=StopAt(stop)).run()
        if (folder / CHECKPOINT).exists():
            init += 1  # other first weights: everything must come from the checkpoint
            torch.manual_seed(init)
    make(init=init).run()
    return folder


def run(folder: Path, case: dict, stops: tuple[int, ...] = ()) -> Path:
    """Train, stopped in the middle of so many steps of each process, then to the end."""
    teacher = small.teacher() if METHODS[case["method"]].teacher == "frozen" else None
    settings = small.fit(epochs=EPOCHS, ema_decay=0.9, save_every_steps=2, **case["fit"])
    return through(
        folder, stops,
        lambda **how: small.trainer(
            folder, settings, case["method"], teacher=teacher, fused=case.get("fused", False), **how
        ),
    )  # fmt: skip


CASES = {
    "supervised, cosine, sampled": {
        "method": "supervised",
        "fit": {"schedule": "cosine", "warmup_epochs": 0.5, "sampler_power": 0.5},
    },
    "supervised, plateau": {
        "method": "supervised",
        "fit": {"schedule": "plateau", "patience_epochs": 0, "optimiser": "sgd", "lr": 0.05,
                "lr_factor": 0.5, "watch": "balanced_accuracy"},
    },
    "ssd_kd, cosine, clipped": {
        "method": "ssd_kd",
        "fit": {"schedule": "cosine", "clip_norm": 1.0, "sampler_power": 0.5},
    },
    "ssd_kd, plateau": {
        "method": "ssd_kd",
        "fit": {"schedule": "plateau", "patience_epochs": 0, "lr_factor": 0.5},
    },
    "crckd: moving average, bank, ramp, images drawn twice": {
        "method": "crckd", "fit": {"sampler_power": 1.0},
    },
    "vadakd: boosting weights": {"method": "vadakd", "fit": {"sampler_power": 1.0}},
    "ssd_kd: norms by kernels, in bf16": {"method": "ssd_kd", "fit": {}, "fused": True},
    "mutual: a peer": {"method": "mutual", "fit": {}},
    "tss_kd: itself, views of its own": {"method": "tss_kd", "fit": {}},
}  # fmt: skip


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_stopped_and_continued_ends_in_the_same_bits(tmp_path, case):
    steps = EPOCHS * (len(small.dataset().train) // small.BATCH)
    whole = run(tmp_path / "whole", case)
    # Before the first checkpoint, in mid epoch just behind one and again soon after, at the end.
    for number, stops in enumerate([(1,), (4, 3), (steps,)]):
        again = run(tmp_path / f"stopped-{number}", case, stops)
        for name in (BEST, LAST, HISTORY):
            assert (again / name).read_bytes() == (whole / name).read_bytes(), (stops, name)


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_twenty_kills_end_in_the_same_bits():
    done = subprocess.run(
        [sys.executable, str(BENCHMARK)], capture_output=True, text=True, check=False
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.strip().splitlines()[-1].startswith("met: 20 of 20"), done.stdout
