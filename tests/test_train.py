"""The loop: what it learns, when it stops, what it keeps, and what it refuses."""

import json
import math
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import small
from dermdistill.errors import RunError
from dermdistill.run import BEST, HISTORY, LAST
from dermdistill.train import loop
from dermdistill.train.checkpoint import CHECKPOINT, load_checkpoint
from dermdistill.train.order import epoch_order
from dermdistill.train.schedule import Schedule, build_optimiser, class_weights


def weights(module: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in module.state_dict().items()}


@pytest.fixture(scope="module")
def learnt(tmp_path_factory) -> Path:
    """A training of some epochs that watches the balanced accuracy."""
    folder = tmp_path_factory.mktemp("learnt")
    settings = small.fit(epochs=12, lr=5e-3, watch="balanced_accuracy", sampler_power=0.5)
    small.trainer(folder, settings).run()
    return folder


def test_the_training_loss_falls(learnt):
    losses = [line["loss"] for line in small.history(learnt, "train")]
    assert np.mean(losses[-3:]) < 0.9 * np.mean(losses[:3])


def test_history_lines_are_json_with_the_promised_keys(learnt):
    lines = [json.loads(line) for line in (learnt / HISTORY).read_text().splitlines()]
    train = [line for line in lines if line["split"] == "train"]
    validation = [line for line in lines if line["split"] == "validation"]
    assert len(train) + len(validation) == len(lines)
    for line in train:
        assert {"stage", "epoch", "step", "loss", "terms", "lr"} <= set(line)
        assert line["loss"] == pytest.approx(line["terms"]["cross_entropy"])
    assert [line["epoch"] for line in validation] == list(range(12))
    for line in validation:
        assert {"stage", "step", "loss", "accuracy", "balanced_accuracy"} <= set(line)
    assert {line["epoch"] for line in train} == set(range(12)), "every epoch has a line"


def test_the_best_epoch_is_the_first_best_of_the_watched_figure(tmp_path):
    for watch, best in (("balanced_accuracy", np.argmax), ("loss", np.argmin)):
        folder = tmp_path / watch
        folder.mkdir()
        progress = small.trainer(folder, small.fit(epochs=5, lr=1e-2, watch=watch)).run()
        figures = [line[watch] for line in small.history(folder, "validation")]
        assert progress.best_epoch == best(figures)
        turn = 1 if watch == "loss" else -1
        assert progress.best_figure == turn * figures[progress.best_epoch]


def test_best_is_what_the_best_epoch_validated_and_last_what_the_last_did(tmp_path):
    trainer = small.trainer(tmp_path, small.fit(epochs=4, lr=0.1, watch="balanced_accuracy"))
    progress = trainer.run()
    figures = [line["loss"] for line in small.history(tmp_path, "validation")]
    assert progress.best_epoch < 3, "the case is empty if the last epoch is the best"
    for name, epoch in ((BEST, progress.best_epoch), (LAST, 3)):
        trainer.judged.load_state_dict(load_file(tmp_path / name))
        assert trainer._validate()["loss"] == pytest.approx(figures[epoch], rel=1e-5)


def test_tensorboard_has_the_history(learnt):
    events = EventAccumulator(str(learnt / "tensorboard")).Reload()
    assert {"train/loss", "train/cross_entropy", "train/lr", "validation/loss",
            "validation/balanced_accuracy"} <= set(events.Tags()["scalars"])  # fmt: skip
    shown = [event.value for event in events.Scalars("validation/loss")]
    kept = [line["loss"] for line in small.history(learnt, "validation")]
    assert shown == pytest.approx(kept, rel=1e-6)


def test_early_stop_ends_after_so_many_epochs_without_progress(tmp_path):
    settings = small.fit(epochs=30, lr=0.3, optimiser="sgd", early_stop_epochs=2)
    progress = small.trainer(tmp_path, settings).run()
    assert progress.epoch < 30
    assert progress.epoch - 1 - progress.best_epoch == 2


def test_max_steps_ends_in_the_middle_of_an_epoch_with_a_validated_student(tmp_path):
    progress = small.trainer(tmp_path, small.fit(epochs=9, max_steps=5)).run()
    steps_per_epoch = len(small.dataset().train) // small.BATCH
    assert 5 % steps_per_epoch, "the case is empty if an epoch ends there"
    assert progress.step == 5
    assert small.history(tmp_path, "train")[-1]["step"] == 5
    assert small.history(tmp_path, "validation")[-1]["step"] == 5
    assert (tmp_path / BEST).exists()
    assert (tmp_path / LAST).exists()


def test_a_batch_larger_than_the_data_is_the_data(tmp_path):
    trainer = small.trainer(tmp_path, small.fit(epochs=1, batch_size=10_000))
    assert trainer.steps_per_epoch == 1
    assert trainer.run().step == 1


def test_a_diverging_loss_is_named_with_its_stage(tmp_path):
    with pytest.raises(RunError, match=r"cross_entropy.*student.*student\.fit\.lr.*1e\+20"):
        small.trainer(tmp_path, small.fit(epochs=3, optimiser="sgd", lr=1e20)).run()


def test_the_moving_average_is_what_is_judged_and_kept(tmp_path):
    trainer = small.trainer(tmp_path, small.fit(epochs=1, ema_decay=0.9, lr=1e-2))
    average = {k: v.double() for k, v in weights(trainer.learner.student).items()}
    step = trainer._step

    def watched(chosen):
        step(chosen)
        for name, value in trainer.learner.student.state_dict().items():
            average[name] = 0.9 * average[name] + 0.1 * value.double()

    trainer._step = watched
    trainer.run()
    kept = load_file(tmp_path / LAST)
    for name, value in kept.items():
        if value.is_floating_point():
            assert torch.allclose(value.double(), average[name], atol=1e-5), name
    weight = next(name for name in kept if name.endswith("conv_dw.weight"))
    assert not torch.equal(kept[weight], trainer.learner.student.state_dict()[weight])


def test_clipping_holds_the_whole_gradient_adapters_included(tmp_path):
    """One SGD step at rate 1 moves all trained weights together by the clipped norm exactly."""
    clip = 0.01
    settings = small.fit(
        optimiser="sgd", lr=1.0, momentum=0.0, weight_decay=0.0, schedule="constant",
        clip_norm=clip, max_steps=1,
    )  # fmt: skip
    trainer = small.trainer(tmp_path, settings, "ssd_kd", teacher=small.teacher())
    before = {n: p.detach().clone() for n, p in trainer.learner.named_parameters()}
    trainer.run()
    moved = {n: (p.detach() - before[n]).double() for n, p in trainer.learner.named_parameters()}
    norm = math.sqrt(sum(float(m.square().sum()) for m in moved.values()))
    assert norm == pytest.approx(clip, rel=1e-2)
    assert any(m.any() for n, m in moved.items() if n.startswith("adapters"))
    assert any(m.any() for n, m in moved.items() if n.startswith("student"))


def test_a_training_leaves_teacher_and_pretext_bit_identical(tmp_path):
    teacher = small.teacher()
    trainer = small.trainer(tmp_path, small.fit(epochs=1), "ssd_kd", teacher=teacher)
    pretext = trainer.learner._unregistered[0]
    before = weights(teacher), weights(pretext)
    trainer.run()
    for module, values in zip((teacher, pretext), before, strict=True):
        assert all(torch.equal(v, values[k]) for k, v in module.state_dict().items())
    inside = {id(p) for p in trainer.learner.parameters()}
    assert not inside & {id(p) for p in (*teacher.parameters(), *pretext.parameters())}


def test_a_plateau_on_a_figure_that_grows_waits_for_it_to_grow():
    settings = small.fit(schedule="plateau", patience_epochs=0, lr=1.0, lr_factor=0.5)
    for watch, better in (("loss", -1), ("balanced_accuracy", 1)):
        optimiser = build_optimiser([torch.nn.Parameter(torch.zeros(1))], settings)
        schedule = Schedule(optimiser, settings, 4, watch)
        for epoch in range(3):
            schedule.epoch(0.5 + 0.1 * better * epoch)
        assert optimiser.param_groups[0]["lr"] == 1.0
        schedule.epoch(0.5)
        assert optimiser.param_groups[0]["lr"] == 0.5


def test_schedules_against_their_formulas():
    settings = small.fit(schedule="cosine", epochs=10, warmup_epochs=2.0, lr=3.0)
    optimiser = build_optimiser([torch.nn.Parameter(torch.zeros(1))], settings)
    schedule = Schedule(optimiser, settings, 5, "loss")
    rates = []
    for _ in range(50):
        rates.append(optimiser.param_groups[0]["lr"])
        optimiser.step()
        schedule.step()
    assert rates[:10] == pytest.approx([3 * (i + 1) / 11 for i in range(10)])
    assert rates[10:] == pytest.approx(
        [1.5 * (1 + math.cos(math.pi * i / 40)) for i in range(40)]
    )  # fmt: skip
    settings = small.fit(schedule="steps", milestones=[1, 3], lr_factor=0.1, lr=1.0, epochs=4)
    optimiser = build_optimiser([torch.nn.Parameter(torch.zeros(1))], settings)
    schedule = Schedule(optimiser, settings, 2, "loss")
    rates = []
    for _ in range(8):
        rates.append(optimiser.param_groups[0]["lr"])
        optimiser.step()
        schedule.step()
    assert rates == pytest.approx([1, 1, 0.1, 0.1, 0.1, 0.1, 0.01, 0.01])


def test_class_weights_by_hand():
    counts = torch.tensor([600, 300, 100, 0])
    assert class_weights(counts, 1.0).tolist() == pytest.approx([1.667, 3.333, 10.0, 0.0])
    assert class_weights(counts, 0.0).tolist() == [1.0, 1.0, 1.0, 0.0]
    assert class_weights(counts, 0.5).tolist() == pytest.approx([1.291, 1.826, 3.162, 0.0])


def test_an_epoch_without_sampling_shows_every_image_once():
    part = small.dataset().train
    order = epoch_order(part, 0.0, 1, 0)
    assert sorted(order) == list(range(len(part)))
    assert np.array_equal(order, epoch_order(part, 0.0, 1, 0))
    for seed, epoch in ((1, 1), (2, 0)):
        assert not np.array_equal(order, epoch_order(part, 0.0, seed, epoch))


def test_sampling_at_power_one_draws_the_classes_evenly():
    part = small.dataset().train
    drawn = np.concatenate([part.labels[epoch_order(part, 1.0, 1, e)] for e in range(200)])
    present = np.unique(part.labels)
    shares = np.bincount(drawn, minlength=len(present))[present] / len(drawn)
    spread = math.sqrt(1 / len(present) / len(drawn))  # of a share, as a binomial has it
    assert np.abs(shares - 1 / len(present)).max() < 5 * spread


class Hostile:
    """Writes a file when it is unpickled."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


@pytest.mark.parametrize("writer", [torch.save, lambda o, p: p.write_bytes(pickle.dumps(o))])
def test_a_hostile_checkpoint_is_refused_and_not_executed(tmp_path, writer):
    trap = tmp_path / "executed"
    pickle.loads(pickle.dumps(Hostile(trap)))
    assert trap.exists(), "the payload must work, or its refusal proves nothing"
    trap.unlink()
    writer({"learner": {}, "progress": Hostile(trap)}, tmp_path / CHECKPOINT)
    with pytest.raises(RunError, match=r"checkpoint\.pt"):
        load_checkpoint(tmp_path)
    assert not trap.exists()


def test_history_is_means_over_the_steps_since_the_last_line(tmp_path, monkeypatch):
    monkeypatch.setattr(loop, "HISTORY_STEPS", 2)
    trainer = small.trainer(tmp_path, small.fit(epochs=2))
    step, losses = trainer._step, []

    def watched(chosen):
        before = trainer.sums.get("loss", torch.zeros(2))
        step(chosen)
        losses.append(float((trainer.sums["loss"] - before)[0]))

    trainer._step = watched
    trainer.run()
    lines = small.history(tmp_path, "train")
    first = 0
    for line in lines:
        assert line["loss"] == pytest.approx(np.mean(losses[first : line["step"]]), rel=1e-4)
        first = line["step"]
    assert first == len(losses)
