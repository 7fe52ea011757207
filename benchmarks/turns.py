"""Processes that hold one form of a step each, and do it in turns."""

import argparse
import ctypes.util
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import psutil
import torch

from dermdistill.train.checkpoint import save_weights
from machine import description, peak_mb, reset_peak
from step_setting import Setting, build, prepare

FORMS = {"published": "fp32", "ours": "bf16"}
ALLOCATOR = "tcmalloc_minimal"
CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}


def options_of(doc: str, images: int | list[int], rounds: int) -> argparse.ArgumentParser:
    """The options that every benchmark of a step has; `images` is one batch size or several."""
    parser = argparse.ArgumentParser(description=doc.partition("\n")[0])
    several = {"nargs": "+"} if isinstance(images, list) else {}
    parser.add_argument("--images", type=int, default=images, help="of a batch", **several)
    parser.add_argument("--px", type=int, default=224)
    parser.add_argument("--rounds", type=int, default=rounds)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--clock", choices=CLOCKS, default="wall")
    parser.add_argument("--allocator", default=ctypes.util.find_library(ALLOCATOR) or "",
                        help="what ours preloads: %(default)s; '' for the system's")  # fmt: skip
    return parser


def each_batch(
    options: argparse.Namespace, compare: Callable[[Setting, argparse.Namespace], bool],
    **setting: str,
) -> int:  # fmt: skip
    """Compare at every batch size that was asked for; the exit code: 1 if a bar is missed."""
    torch.set_num_threads(options.threads)
    print(setting_of(options))
    met = []
    for images in options.images:
        with tempfile.TemporaryDirectory() as name:
            made = Setting(Path(name), images, options.px, **setting)
            prepare(made)
            met.append(compare(made, options))
    print("met" if all(met) else "SHORT")
    return 0 if all(met) else 1


def setting_of(options: argparse.Namespace) -> str:
    """The machine, and how the forms are run on it."""
    allocator = options.allocator or "the system's allocator"
    return (
        f"{description()}, {options.threads} threads, {options.clock} time, ours with {allocator}"
    )


class Taker:
    """A process that holds one form and does a step whenever it is asked.

    Args:
        setting: what it works on.
        form, stage, precision: as of `build`.
        threads: that it computes in.
        allocator: the library that ours preloads.
    """

    def __init__(
        self, setting: Setting, form: str, stage: str, precision: str, threads: int, allocator: str
    ):
        told = asdict(setting) | {"folder": str(setting.folder)}
        command = [sys.executable, __file__]
        command += [json.dumps([told, form, stage, precision, threads])]
        plain = {"THP_MEM_ALLOC_ENABLE": "0", "LD_PRELOAD": ""}  # torch as it comes
        # The package's setting, and what docs/performance.md tells its users to set.
        own = {"THP_MEM_ALLOC_ENABLE": "1", "LD_PRELOAD": allocator, "TCMALLOC_RELEASE_RATE": "0"}
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
            env=os.environ | (own if form == "ours" else plain),
        )  # fmt: skip

    def step(self) -> dict[str, float]:
        """Loss, seconds by either clock, and the peak in MB so far."""
        print("step", file=self.process.stdin, flush=True)
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError(f"the process ended with {self.process.wait()}")
        return json.loads(line)

    def close(self) -> None:
        """End it."""
        self.process.stdin.close()
        self.process.wait()


def in_turns(setting: Setting, stage: str, options: argparse.Namespace) -> dict[str, list[dict]]:
    """Every form's steps, the first of which is the warm-up and starts from the same weights."""
    takers = {
        form: Taker(setting, form, stage, precision, options.threads, options.allocator)
        for form, precision in FORMS.items()
    }
    steps: dict[str, list[dict]] = {form: [] for form in FORMS}
    try:
        for _ in range(options.rounds + 1):
            for form, taker in takers.items():
                steps[form].append(taker.step())
    finally:
        for taker in takers.values():
            taker.close()
    return steps


def serve(told: dict, form: str, stage: str, precision: str, threads: int) -> None:
    """What such a process does: a step for every line that it reads; then it writes its weights."""
    torch.set_num_threads(threads)
    folder = Path(told["folder"])
    step = build(Setting(**told | {"folder": folder}), form, stage, precision)
    before = psutil.Process().memory_info().rss / 2**20
    reset_peak()
    for _ in sys.stdin:
        started = {name: clock() for name, clock in CLOCKS.items()}
        loss = step.learn()
        seconds = {name: clock() - started[name] for name, clock in CLOCKS.items()}
        print(json.dumps({"loss": loss, "mb": peak_mb() - before} | seconds), flush=True)
    save_weights(weights_after(folder, form, stage), step.trained.state_dict())


def weights_after(folder: Path, form: str, stage: str) -> Path:
    """Where a process leaves what it trained when it is closed."""
    return folder / f"{stage}-{form}.safetensors"


if __name__ == "__main__":
    serve(*json.loads(sys.argv[1]))
