"""Whether a distillation killed at any moment ends in the bits of one that never was.

    python benchmarks/resume.py [--kills 20] [--seed 0] [--precision fp32] [--threads 1]

Real processes, real SIGKILL: `python -m dermdistill distill` runs teacher, pretext and student on
synthetic images once without interruption. Then, in a fresh output folder each time, it is killed
at a random moment of a stage (the stages take turns), and the same command is given again. Bar:
weights (best and last), history and test figures of every stage are the same bytes, every time.
"""

import argparse
import concurrent.futures
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import yaml

from dermdistill.data.phantom import synthesise
from dermdistill.run import BEST, HISTORY, LAST, METRICS, digest_file, digest_of, read_json

STAGES = ("teacher", "pretext", "student")
IMAGES, PX, BATCH = 128, 32, 8
SAVE_EVERY_STEPS = 3
AT_ONCE = 2  # kills measured side by side
POLL_S = 0.01
CHILD_LIMIT_S = 900  # a child that takes longer hangs


def write_config(folder: Path, output: Path, precision: str) -> Path:
    """A distillation of seconds that uses what resuming could lose: draws, averages, plateaus."""
    fit = {"batch_size": BATCH, "optimiser": "adamw", "lr": 2e-3, "early_stop_epochs": 0,
           "save_every_steps": SAVE_EVERY_STEPS, "sampler_power": 0.5, "ema_decay": 0.9,
           "clip_norm": 5.0}  # fmt: skip
    config = {
        "output": str(output), "device": "cpu", "precision": precision,
        "data": {"folder": str(folder / "images"), "px": PX, "store": str(folder / "store"),
                 "folds": 3, "workers": 1},
        "teacher": {"network": {"name": "test_resnet", "weights": "none"},
                    "fit": fit | {"epochs": 4, "schedule": "cosine"}},
        "pretext": {"fit": fit | {"epochs": 3, "schedule": "steps", "milestones": [1]}},
        "student": {"network": {"name": "test_efficientnet", "weights": "none"},
                    "method": "ssd_kd",
                    "fit": fit | {"epochs": 4, "schedule": "plateau", "patience_epochs": 0}},
    }  # fmt: skip
    path = output.with_suffix(".yaml")
    path.write_text(yaml.safe_dump(config))
    return path


def stage_folder(output: Path, stage: str) -> Path | None:
    """A stage's run directory, if it has one yet."""
    return next(iter(output.glob(f"{stage}-*")), None)


def is_finished(output: Path, stage: str) -> bool:
    """Whether a stage is trained and scored."""
    folder = stage_folder(output, stage)
    return folder is not None and (folder / METRICS).exists()


class Child:
    """The command as a process of its own."""

    def __init__(self, config: Path):
        self.log = open(config.with_suffix(".log"), "ab")  # noqa: SIM115  closed with the child
        self.process = subprocess.Popen(
            [sys.executable, "-m", "dermdistill", "distill", "--config", str(config)],
            stdout=self.log, stderr=self.log,
        )  # fmt: skip
        self.started = time.monotonic()

    def wait(self, done) -> bool:
        """Wait until something is so (True) or the process has ended (False)."""
        while not done():
            if self.process.poll() is not None:
                return done()
            if time.monotonic() - self.started > CHILD_LIMIT_S:
                raise TimeoutError(f"no end after {CHILD_LIMIT_S} s; see {self.log.name}")
            time.sleep(POLL_S)
        return True

    def kill(self) -> None:
        """SIGKILL: no handler, no clean-up."""
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()
        self.log.close()


def finish(config: Path, output: Path) -> dict[str, float]:
    """Run the command until the student is scored; return each stage's seconds.

    Export and report come after what is compared, so the process is ended there.
    """
    child, seconds = Child(config), {}
    for stage in STAGES:
        child.wait(lambda stage=stage: stage_folder(output, stage) is not None)
        started = time.monotonic()
        if not child.wait(lambda stage=stage: is_finished(output, stage)):
            child.kill()
            raise RuntimeError(f"the {stage} did not finish:\n{Path(child.log.name).read_text()}")
        seconds[stage] = time.monotonic() - started
    child.kill()
    return seconds


def kill_in(stage: str, delay_s: float, config: Path, output: Path) -> str | None:
    """Start the command, kill it so long after a stage began; name the stage that was hit."""
    child = Child(config)
    child.wait(lambda: stage_folder(output, stage) is not None)
    moment = time.monotonic() + delay_s
    child.wait(lambda: time.monotonic() >= moment or is_finished(output, STAGES[-1]))
    child.kill()
    return next((name for name in STAGES if not is_finished(output, name)), None)


def results(output: Path) -> dict[str, str]:
    """Digest of everything that an interruption must not change, by stage and file."""
    found = {}
    for stage in STAGES:
        folder = stage_folder(output, stage)
        for name in (BEST, LAST, HISTORY):
            found[f"{stage}/{name}"] = digest_file(folder / name)
        metrics = read_json(folder / METRICS)
        metrics.pop("wall_s")  # seconds are no result
        found[f"{stage}/{METRICS}"] = digest_of(metrics)
    return found


def trial(
    number: int, folder: Path, stage: str, share: float, seconds: dict[str, float], precision: str
) -> dict:
    """One kill at a share of a stage's time, and what the continued run came to."""
    output = folder / f"kill-{number}"
    config, delay = write_config(folder, output, precision), share * seconds[stage]
    while (hit := kill_in(stage, delay, config, output)) is None:
        shutil.rmtree(output)  # it was quicker than the reference and had ended: sooner, then
        delay /= 2
    folder_hit = stage_folder(output, hit)
    lines = (folder_hit / HISTORY).read_bytes().count(b"\n") if folder_hit and (
        folder_hit / HISTORY).exists() else 0  # fmt: skip
    finish(config, output)
    return {"hit": hit, "delay_s": delay, "lines": lines, "results": results(output)}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=20, help="how many")
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    parser.add_argument("--precision", choices=["fp32", "bf16"], default="fp32")
    parser.add_argument("--threads", type=int, default=1, help="that a process computes in")
    arguments = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = str(arguments.threads)  # of the processes that it starts
    rng = random.Random(arguments.seed)
    plan = [(STAGES[n % len(STAGES)], rng.random()) for n in range(arguments.kills)]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        synthesise(folder / "images", IMAGES, 48, seed=7)
        whole = folder / "whole"
        seconds = finish(write_config(folder, whole, arguments.precision), whole)
        print("uninterrupted: " + ", ".join(f"{s} {t:.1f} s" for s, t in seconds.items()))
        expected = results(whole)
        with concurrent.futures.ThreadPoolExecutor(AT_ONCE) as pool:
            trials = pool.map(
                lambda item: trial(item[0], folder, *item[1], seconds, arguments.precision),
                enumerate(plan, start=1),
            )
            same, hits = 0, Counter()
            for number, outcome in enumerate(trials, start=1):
                other = [k for k, v in expected.items() if outcome["results"][k] != v]
                same, hits[outcome["hit"]] = same + (not other), hits[outcome["hit"]] + 1
                print(f"kill {number:>2} in the {outcome['hit']:<7} {outcome['delay_s']:5.2f} s, "
                      f"history {outcome['lines']:>2} lines: "
                      + (f"DIFFERENT {', '.join(other)}" if other else "the same bits"),
                      flush=True)  # fmt: skip
    counted = ", ".join(f"{hits[stage]} in the {stage}" for stage in STAGES)
    missed = [stage for stage in STAGES if not hits[stage] and arguments.kills >= len(STAGES)]
    good = same == arguments.kills and not missed
    print(f"{'met' if good else 'SHORT'}: {same} of {arguments.kills} killed runs ended in the "
          f"bits of the uninterrupted one ({counted})")  # fmt: skip
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
