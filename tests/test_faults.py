"""What goes wrong on real machines: nothing is lost, and the message says what to do."""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import small
from dermdistill.cli import main
from dermdistill.data.store import IMAGES, Store
from dermdistill.distill import distill
from dermdistill.errors import ConfigError, DataError, RunError, TerminatedError
from dermdistill.models.weights import DIGEST, read_state
from dermdistill.run import BEST, HISTORY, LAST, lock
from dermdistill.stop import EXIT_TERMINATED, Stop, sigterm
from dermdistill.train import loop
from dermdistill.train.checkpoint import (
    CHECKPOINT,
    PREVIOUS,
    load_checkpoint,
    save_checkpoint,
    save_weights,
)

HOLD = """
import sys, time
from pathlib import Path
from dermdistill.run import lock
with lock(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(600)
"""


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    """A training that nothing disturbed."""
    folder = tmp_path_factory.mktemp("whole")
    trainer(folder).run()
    return folder


def trainer(folder: Path, **changes):
    return small.trainer(folder, small.fit(epochs=3, **changes.pop("fit", {})), **changes)


def same_bits(left: Path, right: Path) -> bool:
    return all((left / n).read_bytes() == (right / n).read_bytes() for n in (BEST, LAST, HISTORY))


class At:
    """Does something in the middle of the n-th step."""

    def __init__(self, step: int, action):
        self.left, self.action = step, action

    def __call__(self) -> None:
        self.left -= 1
        if self.left == 0:
            self.action()


def terminate() -> None:
    os.kill(os.getpid(), signal.SIGTERM)


STEPS_PER_EPOCH = 4  # of the synthetic images; asserted below


def test_sigterm_finishes_the_step_saves_it_and_says_so(whole, tmp_path):
    assert len(small.dataset().train) // small.BATCH == STEPS_PER_EPOCH
    for step in (1, 3, STEPS_PER_EPOCH, 3 * STEPS_PER_EPOCH):
        folder = tmp_path / str(step)
        folder.mkdir()
        with pytest.raises(TerminatedError, match=rf"after step {step} of 12.*same command"):
            trainer(folder, before_step=At(step, terminate)).run()
        assert load_checkpoint(folder)["progress"]["step"] == step
        trainer(folder).run()
        assert same_bits(folder, whole)


def test_sigterm_in_the_validation_ends_it_there_and_loses_nothing(whole, tmp_path, monkeypatch):
    real = loop.validation_figures

    def told(*arguments):
        terminate()
        pytest.fail(f"went on after SIGTERM: {real(*arguments)}")

    monkeypatch.setattr(loop, "validation_figures", told)
    with pytest.raises(TerminatedError, match=rf"after step {STEPS_PER_EPOCH} of 12"):
        trainer(tmp_path).run()
    monkeypatch.undo()
    trainer(tmp_path).run()
    assert same_bits(tmp_path, whole)


def test_sigterm_while_the_last_epoch_is_saved_is_not_forgotten(whole, tmp_path, monkeypatch):
    real = loop.save_checkpoint

    def told(folder, state):
        real(folder, state)
        if state["progress"]["finished"]:
            terminate()

    monkeypatch.setattr(loop, "save_checkpoint", told)
    with pytest.raises(TerminatedError, match="after step 12 of 12"):
        trainer(tmp_path).run()
    assert not (tmp_path / LAST).exists()
    monkeypatch.undo()
    trainer(tmp_path).run()
    assert same_bits(tmp_path, whole)


def test_sigterm_reaches_the_exit_code_of_the_command_line(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("dermdistill.data.readers.read_table", lambda *_: terminate())
    assert main(["data", "audit", str(tmp_path)]) == EXIT_TERMINATED == 143
    assert "same command continues" in capsys.readouterr().err
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL, "the handler must not stay"


def test_outside_the_main_thread_signals_are_left_alone():
    before, inside = signal.getsignal(signal.SIGTERM), []

    def work():
        with sigterm(Stop().ask):
            inside.append(signal.getsignal(signal.SIGTERM))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert inside == [before]


def test_a_broken_checkpoint_falls_back_to_the_one_before(whole, tmp_path):
    """Any damage, also one flipped bit of a weight, which torch's own reader does not see."""
    damages = {
        "empty": lambda b: b"",
        "half": lambda b: b[: len(b) // 2],
        "garbage": lambda b: b"x" * 100,
        "bit": lambda b: b[: len(b) // 2] + bytes([b[len(b) // 2] ^ 1]) + b[len(b) // 2 + 1 :],
    }
    for name, damage in damages.items():
        folder = tmp_path / name
        folder.mkdir()
        with pytest.raises(TerminatedError):
            trainer(folder, before_step=At(7, terminate)).run()
        path = folder / CHECKPOINT
        path.write_bytes(damage(path.read_bytes()))
        with pytest.warns(UserWarning, match=r"checkpoint\.pt is no readable.*the one before"):
            trainer(folder).run()
        assert same_bits(folder, whole), name


def test_a_kill_between_the_two_renames_leaves_the_one_before(tmp_path):
    for step in (1, 2):
        save_checkpoint(tmp_path, {"step": step})
    (tmp_path / CHECKPOINT).unlink()
    assert load_checkpoint(tmp_path) == {"step": 1}


def test_two_broken_checkpoints_are_named_with_the_way_out(tmp_path):
    for name in (CHECKPOINT, PREVIOUS):
        (tmp_path / name).write_bytes(b"broken")
    with pytest.raises(RunError, match=r"checkpoint\.pt.*checkpoint-previous\.pt.*delete"):
        load_checkpoint(tmp_path)
    assert (tmp_path / CHECKPOINT).read_bytes() == b"broken", "the user decides"


@pytest.mark.parametrize(
    "change",
    [
        lambda state: state.pop("learner"),
        lambda state: state.pop("progress"),
        lambda state: state["learner"].popitem(),
        lambda state: state["learner"].update(foreign=torch.zeros(1)),
        lambda state: state["learner"].update({next(iter(state["learner"])): torch.zeros(1)}),
        lambda state: state["progress"].update(foreign=1),
        lambda state: state.update(optimiser={}),
        lambda state: state["optimiser"]["param_groups"][0]["params"].pop(),
        lambda state: state.update(sums=None),
        lambda state: state.update(ema=None),
    ],
)
def test_a_whole_but_foreign_checkpoint_is_refused(tmp_path, change):
    fit = {"ema_decay": 0.9}
    with pytest.raises(TerminatedError):
        trainer(tmp_path, before_step=At(1, terminate), fit=fit).run()
    state = load_checkpoint(tmp_path)
    change(state)
    save_checkpoint(tmp_path, state)
    with pytest.raises(RunError, match=r"no state of this training.*delete the checkpoints"):
        trainer(tmp_path, fit=fit).run()


def test_a_loss_that_is_no_number_is_told_with_its_images_and_never_saved(tmp_path):
    """The teacher of one batch says NaN, in mid window, behind the last checkpoint."""
    lesson = At(7, lambda: lesson.poison())
    teacher = small.teacher()
    weights = dict(teacher.named_parameters())["network.fc.weight"]
    lesson.poison = lambda: weights.fill_(float("nan"))
    fallen = small.trainer(tmp_path, small.fit(epochs=3), "kd", before_step=lesson, teacher=teacher)
    shown, step = [], fallen._step

    def watched(chosen):
        shown.append([fallen.data.train.ids[i] for i in chosen])
        step(chosen)

    fallen._step = watched
    with pytest.raises(RunError) as caught:
        fallen.run()
    message = str(caught.value)
    assert message.startswith("kd became nan and the gradient's norm became nan at step 7 of")
    assert f"on the images {', '.join(shown[6])}." in message
    assert "last good state" in message
    assert "student.fit.lr" in message
    state = load_checkpoint(tmp_path)
    assert state["progress"]["step"] == 6
    assert all(v.isfinite().all() for v in state["learner"].values())


def test_a_gradient_that_is_no_number_is_told_though_every_term_is_one(tmp_path):
    fallen = trainer(tmp_path)
    parameter = next(fallen.learner.parameters())
    parameter.register_hook(lambda g: g * float("nan") if fallen.progress.step == 4 else g)
    with pytest.raises(RunError, match=r"^the gradient's norm became nan at step 5 of student"):
        fallen.run()
    assert load_checkpoint(tmp_path)["progress"]["step"] == 4


def test_batch_norm_that_ran_away_is_told_in_the_validation(tmp_path):
    fallen = trainer(tmp_path)
    name = next(n for n, _ in fallen.learner.student.named_buffers() if n.endswith("running_var"))
    fallen.learner.after_step = lambda _: fallen.learner.student.get_buffer(name).fill_(-1.0)
    with pytest.raises(RunError, match=r"validation's logits.*no finite numbers.*fit\.lr"):
        fallen.run()


@pytest.fixture
def own_store(tmp_path) -> Store:
    """A copy of the synthetic images' store that may be damaged."""
    return Store.open(shutil.copytree(small.dataset().store.folder, tmp_path / "store"))


def flip(store: Store, row: int) -> None:
    images = np.load(store.folder / IMAGES, mmap_mode="r+")
    images[row, 0, 0, 0] ^= 255
    images.flush()


def test_a_store_is_read_wholly_once_and_again_only_when_its_file_changed(own_store):
    read, real = [], Store._verify_files
    Store._verify_files = lambda self, files: (read.append(1), real(self, files))
    rows = np.array([3, 4])
    try:
        for _ in range(3):
            own_store.check(rows)
        assert len(read) == 1
        os.utime(own_store.folder / IMAGES, ns=(1, 1))
        for _ in range(3):
            own_store.check()
        assert len(read) == 2
        flip(own_store, 5)
        for _ in range(2):
            with pytest.raises(DataError, match=rf"changed.*{own_store.ids[5]}.*pack"):
                own_store.check()
    finally:
        Store._verify_files = real


def test_a_store_that_is_replaced_cut_or_gone_is_refused(own_store):
    own_store.check(np.arange(2))
    path = own_store.folder / IMAGES
    kept = path.read_bytes()
    path.unlink()
    with pytest.raises(DataError, match=r"cannot be read any more.*same command"):
        own_store.check()
    path.write_bytes(kept[:-100])
    with pytest.raises(DataError, match=r"cannot be used.*pack again"):
        own_store.check()
    path.write_bytes(kept)
    own_store.check()


def test_a_store_changed_under_a_run_stops_it_with_the_state_from_before(tmp_path, own_store):
    data = small.dataset()
    parts = {name: replace(getattr(data, name), store=own_store)
             for name in ("train", "validation", "test")}  # fmt: skip
    run = trainer(tmp_path, before_step=At(7, lambda: flip(own_store, 0)))
    run.data = replace(data, store=own_store, **parts)
    with pytest.raises(DataError, match="changed since it was packed"):
        run.run()
    assert load_checkpoint(tmp_path)["progress"]["step"] == 6


def test_a_run_directory_has_one_holder_until_that_ends_however_it_ends(tmp_path):
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE, text=True
    )
    assert holder.stdout.readline() == "held\n"
    said = rf"process {holder.pid} on .* is at work in .*run the same"
    with pytest.raises(RunError, match=said), lock(tmp_path):
        pass
    released = []

    def wait():
        with lock(tmp_path, wait=True):
            released.append(1)

    waiting = threading.Thread(target=wait)
    waiting.start()
    waiting.join(0.3)
    assert not released
    holder.kill()
    holder.wait()
    waiting.join()
    assert released
    with lock(tmp_path):
        pass


def test_a_second_process_is_refused_a_stage_that_another_trains(tmp_path):
    config = small.config(tmp_path, "supervised", student_fit=small.fit(epochs=1))
    run = distill(config, progress=False)
    (run / "metrics.json").unlink()
    with lock(run), pytest.raises(RunError, match="is at work in"):
        distill(config, progress=False)
    assert distill(config, progress=False) == run


def test_weights_that_changed_since_they_were_written_are_refused(tmp_path):
    path = tmp_path / BEST
    tensors = {"a": torch.arange(6.0).view(2, 3), "b": torch.tensor(7), "c": torch.zeros(0)}
    save_weights(path, tensors)
    read = read_state(path)
    assert all(torch.equal(read[name], value) for name, value in tensors.items())
    whole, accepted = path.read_bytes(), 0
    assert DIGEST.encode() in whole
    for position in range(len(whole)):
        path.write_bytes(whole[:position] + bytes([whole[position] ^ 1]) + whole[position + 1 :])
        with contextlib.suppress(ConfigError):
            read, accepted = read_state(path), accepted + 1
            assert all(torch.equal(read[name], value) for name, value in tensors.items())
    assert accepted <= len(DIGEST), "only a bit of the digest's own name may pass"


def test_a_full_disk_in_the_history_loses_no_checkpoint(tmp_path):
    """A file limit in a child process: as a full disk, but real and quick."""
    script = f"""
import resource, signal, sys
sys.path.insert(0, {str(Path(__file__).parent)!r})
import small
from pathlib import Path
from dermdistill.errors import RunError
from dermdistill.train.history import History
history = History(Path({str(tmp_path)!r}), 0, 0)
history.add({{"split": "train", "step": 1, "loss": 1.0}})
resource.setrlimit(resource.RLIMIT_FSIZE, (60, 60))
try:
    for step in range(9):
        history.add({{"split": "train", "step": step, "loss": 1.0}})
except RunError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True,
                          check=False)  # fmt: skip
    assert "cannot write the history" in done.stdout, done.stderr
    assert "Free the disk" in done.stdout


@pytest.mark.slow
def test_injected_faults_lose_nothing():
    """A seeded subset of the benchmark: each kind of fault twice."""
    benchmark = Path(__file__).parents[1] / "benchmarks" / "faults.py"
    done = subprocess.run([sys.executable, str(benchmark), "--faults", "22", "--seed", "1"],
                          capture_output=True, text=True, check=False)  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.strip().splitlines()[-1].startswith("met: 22 of 22"), done.stdout
