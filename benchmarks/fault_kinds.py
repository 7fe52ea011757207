"""The faults of benchmarks/faults.py: what is done to a training, and what it must answer."""

import json
import os
import random
import re
import shutil
import signal
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import yaml

EPOCHS, BATCH, PX, SAVE_EVERY = 3, 16, 32, 2
STEPS = 12
CHILD_LIMIT_S, POLL_S = 600, 0.01
KILLED, USER_ERROR, TERMINATED = -signal.SIGKILL, 2, 143


@dataclass
class Trial:
    """One fault: its own output folder, its random numbers, and what was found wrong."""

    folder: Path
    images: Path
    store: Path
    rng: random.Random
    problems: list[str] = field(default_factory=list)
    message: str = ""

    @property
    def command(self) -> list[str]:
        """The command that trains; always the same one."""
        fit = {"epochs": EPOCHS, "batch_size": BATCH, "optimiser": "adamw", "lr": 2e-3,
               "schedule": "cosine", "early_stop_epochs": 0, "save_every_steps": SAVE_EVERY,
               "ema_decay": 0.9, "sampler_power": 0.5}  # fmt: skip
        config = {"output": str(self.folder / "runs"), "device": "cpu",
                  "data": {"folder": str(self.images), "px": PX, "store": str(self.store),
                           "folds": 3, "workers": 1},
                  "teacher": {"network": {"name": "test_resnet", "weights": "none"},
                              "fit": fit}}  # fmt: skip
        path = self.folder / "config.yaml"
        path.write_text(yaml.safe_dump(config))
        return ["teach", "--config", str(path)]

    @property
    def run(self) -> Path:
        """The run directory."""
        return next((self.folder / "runs").glob("teacher-*"))

    def expect(self, holds: bool, problem: str) -> None:
        """Note a problem where something does not hold."""
        if not holds:
            self.problems.append(problem)

    def call(self, *words: str, prepare: Callable[[], None] = lambda: None) -> int:
        """A command in a forked process; its exit code, negative for a signal."""
        return self.wait(self.start(*words, prepare=prepare))

    def start(self, *words: str, prepare: Callable[[], None] = lambda: None) -> int:
        """Fork a process that runs a command with what `prepare` put in its way."""
        log = self.folder / f"log-{time.monotonic_ns()}"
        child = os.fork()
        if child:
            self.log = log
            return child
        code = 70  # whatever happens, the child ends here and unwinds nothing of the parent's
        try:
            with open(log, "w") as file:
                os.dup2(file.fileno(), 1)
                os.dup2(file.fileno(), 2)
            code = self._answer(words, prepare)
        finally:
            os._exit(code)

    @staticmethod
    def _answer(words: tuple[str, ...], prepare: Callable[[], None]) -> int:
        from dermdistill.cli import main

        try:
            prepare()
            return main(list(words))
        except BaseException:
            traceback.print_exc()
            return 70
        finally:
            sys.stdout.flush()
            sys.stderr.flush()

    def wait(self, child: int) -> int:
        """Wait for a process; keep what it said."""
        waited = 0.0  # not the clock's: a machine may stop this process and the child alike
        while (done := os.waitpid(child, os.WNOHANG))[0] == 0:
            if waited > CHILD_LIMIT_S:
                self.problems.append(f"no end after {CHILD_LIMIT_S} s")
                os.kill(child, signal.SIGKILL)
                done = os.waitpid(child, 0)
                break
            time.sleep(POLL_S)
            waited += POLL_S
        self.message = self.log.read_text()
        self.expect("Traceback" not in self.message, f"a trace: {self.message[-300:]}")
        return os.waitstatus_to_exitcode(done[1])

    def told(self, code: int, wanted: int, *patterns: str) -> None:
        """The exit code is right and the message says what happened and what to do."""
        self.expect(code == wanted, f"exit code {code}, not {wanted}: {self.message[-300:]}")
        for pattern in patterns:
            self.expect(re.search(pattern, self.message) is not None,
                        f"nothing of {pattern!r} in: {self.message[-400:]}")  # fmt: skip

    def saved_step(self) -> int:
        """The step of the newest checkpoint, 0 if there is none."""
        from dermdistill.train.checkpoint import load_checkpoint

        state = load_checkpoint(self.run)
        return state["progress"]["step"] if state else 0

    def recover(self) -> None:
        """The same command, to the end."""
        code = self.call(*self.command)
        self.expect(code == 0, f"not recovered ({code}): {self.message[-300:]}")


def in_step(step: int, act: Callable[[], None]) -> None:
    """Do something in the middle of a training step, counted from 1."""
    from dermdistill.train.loop import Trainer

    real = Trainer._batch

    def batch(self, part, chosen, augmentation):
        if augmentation is not None and self.progress.step == step - 1:
            act()
        return real(self, part, chosen, augmentation)

    Trainer._batch = batch


def die(code: signal.Signals = signal.SIGKILL) -> None:
    os.kill(os.getpid(), code)


def killed(trial: Trial) -> None:
    """SIGKILL in the middle of a step."""
    step = trial.rng.randint(1, STEPS)
    code = trial.call(*trial.command, prepare=lambda: in_step(step, die))
    trial.expect(code == KILLED, f"exit code {code}")
    trial.expect(step - 1 - trial.saved_step() < SAVE_EVERY, "too many steps lost")


def killed_while_saving(trial: Trial) -> None:
    """SIGKILL with half a file written, or between two renames."""
    number, half = trial.rng.randint(1, 8), trial.rng.random() < 0.5

    def prepare() -> None:
        import dermdistill.run as run

        real, left = os.replace, number

        def replace(source, target):
            nonlocal left
            left -= 1
            if left == 0:
                if half and str(source).endswith(".tmp"):
                    os.truncate(source, os.path.getsize(source) // 2)
                else:
                    real(source, target)
                die()
            real(source, target)

        run.os.replace = replace

    code = trial.call(*trial.command, prepare=prepare)
    trial.expect(code == KILLED, f"exit code {code}")


def terminated(trial: Trial) -> None:
    """SIGTERM in the middle of a step."""
    step = trial.rng.randint(1, STEPS)
    code = trial.call(*trial.command, prepare=lambda: in_step(step, lambda: die(signal.SIGTERM)))
    trial.told(code, TERMINATED, rf"SIGTERM after step {step} of {STEPS}", "same command")
    trial.expect(trial.saved_step() == step, f"step {trial.saved_step()} saved, not {step}")


def disk_full(trial: Trial) -> None:
    """No file may grow any more from a step on."""
    step, room = trial.rng.randint(1, STEPS - 1), trial.rng.choice([3_000, 20_000, 100_000])

    def fill() -> None:
        import resource

        resource.setrlimit(resource.RLIMIT_FSIZE, (room, room))

    # The log is a file too, but a message is shorter than every limit.
    code = trial.call(*trial.command, prepare=lambda: in_step(step, fill))
    trial.told(code, USER_ERROR, "cannot write", "[Ff]ree the disk", "same command")
    trial.expect(step - 1 - trial.saved_step() < SAVE_EVERY, "too many steps lost")


def checkpoint_broken(trial: Trial) -> None:
    """The last checkpoint is cut, emptied, or has one bit flipped."""
    step = trial.rng.randint(2 * SAVE_EVERY + 1, STEPS)  # two were saved before it
    trial.call(*trial.command, prepare=lambda: in_step(step, die))
    path = trial.run / "checkpoint.pt"
    content = bytearray(path.read_bytes())
    how, at = trial.rng.choice(["bit", "cut", "empty"]), trial.rng.randrange(len(content))
    if how == "bit":  # in the half where the numbers lie
        at = len(content) // 4 + at // 2
        content[at] ^= 1 << trial.rng.randrange(8)
    path.write_bytes({"bit": content, "cut": content[:at], "empty": b""}[how])
    code = trial.call(*trial.command)
    if how != "bit" or code or "warning" in trial.message:  # a bit may have hit the padding
        trial.told(code, 0, "no readable checkpoint", "continues from the one before")


def checkpoint_foreign(trial: Trial) -> None:
    """The checkpoint is whole, but of another training."""
    import torch

    from dermdistill.train.checkpoint import delete_checkpoints

    trial.call(*trial.command, prepare=lambda: in_step(trial.rng.randint(4, STEPS), die))
    path = trial.run / "checkpoint.pt"
    state = torch.load(path, weights_only=True)
    part = trial.rng.choice(["learner", "optimiser", "schedule", "progress", "sums"])
    state[part] = trial.rng.choice([None, {"foreign": torch.zeros(1)}])
    if part == "sums" and state[part] is not None:
        state.pop(part)
    torch.save(state, path)
    code = trial.call(*trial.command)
    trial.told(code, USER_ERROR, "no state of this training", "delete the checkpoints")
    delete_checkpoints(trial.run)


def store_changed(trial: Trial) -> None:
    """A pixel changes while the store is in use, or before it is used again."""
    trial.store = Path(shutil.copytree(trial.store, trial.folder / "store"))
    images, step = trial.store / "images.npy", trial.rng.randint(2, STEPS)
    row = trial.rng.randrange(100)

    def flip() -> None:
        stored = np.load(images, mmap_mode="r+")
        stored[row, 0, 0, 0] ^= 255
        stored.flush()

    if trial.rng.random() < 0.5:
        code = trial.call(*trial.command, prepare=lambda: in_step(step, flip))
    else:
        trial.call(*trial.command, prepare=lambda: in_step(step, die))
        flip()
        code = trial.call(*trial.command)
    trial.told(code, USER_ERROR, r"changed since it was packed \(1 images", "pack again")
    trial.expect(step - 1 - trial.saved_step() < SAVE_EVERY, "too many steps lost")
    flip()


def no_number(trial: Trial) -> None:
    """A weight becomes NaN."""
    step = trial.rng.randint(1, STEPS)

    def prepare() -> None:
        from dermdistill.train.loop import Trainer

        real = Trainer._terms

        def terms(self, batch):
            if self.learner.training and self.progress.step == step - 1:
                next(self.learner.student.parameters()).data.fill_(float("nan"))
            return real(self, batch)

        Trainer._terms = terms

    code = trial.call(*trial.command, prepare=prepare)
    trial.told(code, USER_ERROR, rf"cross_entropy became nan.*at step {step} of", r"images PHANTOM|"
               r"images [\w-]+, ", "last good state", r"Lower|lower")  # fmt: skip
    trial.expect(step - 1 - trial.saved_step() < SAVE_EVERY, "too many steps lost")


def worker_died(trial: Trial) -> None:
    """A decoding process is killed."""
    chunks = trial.rng.randint(1, 4)
    store = trial.folder / "packed"

    def small_chunks() -> None:
        from dermdistill.data import pack

        pack.CHUNK = 8

    def prepare() -> None:
        import multiprocessing

        from dermdistill.data import pack

        real = pack._results
        small_chunks()

        def results(tasks, workers):
            for number, result in enumerate(real(tasks, workers), start=1):
                if number == chunks:
                    multiprocessing.active_children()[0].kill()
                yield result

        pack._results = results

    words = ["data", "pack", str(trial.images), str(store), "--px", str(PX), "--workers"]
    code = trial.call(*words, "2", prepare=prepare)
    if code:  # else the other worker had done all before it was missed
        trial.told(code, USER_ERROR, "a worker process died", "workers=1")
        trial.expect(not store.exists(), "half a store")
    code = trial.call(*words, "1", prepare=small_chunks)
    trial.expect(code == 0, f"not recovered: {trial.message[-300:]}")
    digests = [json.loads((s / "store.json").read_text())["digest"] for s in (store, trial.store)]
    trial.expect(digests[0] == digests[1], "another store than without the fault")


def two_at_once(trial: Trial) -> None:
    """The command is given a second time while the first still trains."""
    step, go, there = trial.rng.randint(1, STEPS), trial.folder / "go", trial.folder / "there"

    def pause() -> None:
        there.touch()
        while not go.exists():
            time.sleep(POLL_S)

    first = trial.start(*trial.command, prepare=lambda: in_step(step, pause))
    log = trial.log
    while not there.exists():
        time.sleep(POLL_S)
    code = trial.call(*trial.command)
    trial.told(code, USER_ERROR, rf"process {first} on .* is at work in", "wait", "same command")
    go.touch()
    trial.log = log
    code = trial.wait(first)
    trial.expect(code == 0, f"the first was disturbed: {trial.message[-300:]}")


def weights_broken(trial: Trial) -> None:
    """A finished run's weights have one bit flipped."""
    trial.recover()
    path = trial.run / "best.safetensors"
    content = bytearray(path.read_bytes())
    at = trial.rng.randrange(len(content) // 2, len(content))  # among the numbers
    content[at] ^= 1 << trial.rng.randrange(8)
    path.write_bytes(content)
    code = trial.call("evaluate", str(trial.run))
    trial.told(
        code, USER_ERROR, "best.safetensors changed since it was written", "[Tt]rain the run"
    )
    (trial.run / "metrics.json").unlink()  # which makes the command train it again
    path.unlink()


KINDS = (killed, killed_while_saving, terminated, disk_full, checkpoint_broken, checkpoint_foreign,
         store_changed, no_number, worker_died, two_at_once, weights_broken)  # fmt: skip
