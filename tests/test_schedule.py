"""Learning rates and class weights, against their plain formulas."""

import copy
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from dermdistill.config import Config, FitConfig, StudentConfig
from dermdistill.errors import ConfigError
from dermdistill.train.schedule import Schedule, build_optimiser, class_weights

LR = 0.1


def scheduled(steps_per_epoch=5, **options):
    fit = FitConfig(**{"lr": LR, "momentum": 0.0, "weight_decay": 0.0} | options)
    optimiser = build_optimiser([nn.Parameter(torch.zeros(1))], fit)
    return optimiser, Schedule(optimiser, fit, steps_per_epoch, fit.watch)


def rates(optimiser, schedule, steps):
    """The rate that each step is taken at."""
    taken = []
    for _ in range(steps):
        taken.append(optimiser.param_groups[0]["lr"])
        optimiser.step()
        schedule.step()
    return taken


def cosine(step, warmup, total):
    """A line up to the peak, then half a cosine down towards 0."""
    if step < warmup:
        return LR * (step + 1) / (warmup + 1)
    return LR * (1 + math.cos(math.pi * (step - warmup) / (total - warmup))) / 2


@settings(max_examples=30, deadline=None)
@given(
    epochs=st.integers(1, 6),
    per_epoch=st.integers(1, 7),
    warmup_epochs=st.sampled_from([0.0, 0.5, 1.0, 2.0]),
    max_steps=st.sampled_from([0, 3, 1000]),
)
def test_cosine(epochs, per_epoch, warmup_epochs, max_steps):
    optimiser, schedule = scheduled(
        per_epoch, schedule="cosine", epochs=epochs, warmup_epochs=warmup_epochs,
        max_steps=max_steps,
    )  # fmt: skip
    total = min(epochs * per_epoch, max_steps or math.inf)
    assert schedule.total == total
    warmup = round(warmup_epochs * per_epoch)
    found = rates(optimiser, schedule, total)
    assert found == pytest.approx([cosine(i, warmup, total) for i in range(total)])
    assert min(found) > 0  # no step is wasted
    assert found.index(max(found)) == min(warmup, total - 1)


def test_cosine_ends_at_nothing():
    optimiser, schedule = scheduled(schedule="cosine", epochs=2)
    rates(optimiser, schedule, 10)
    assert optimiser.param_groups[0]["lr"] == pytest.approx(0, abs=1e-12)


def test_steps():
    optimiser, schedule = scheduled(4, schedule="steps", epochs=6, milestones=[2, 5], lr_factor=0.1)
    found = rates(optimiser, schedule, 24)
    assert found == pytest.approx([LR] * 8 + [LR * 0.1] * 12 + [LR * 0.01] * 4)


def test_constant():
    optimiser, schedule = scheduled(4, schedule="constant", epochs=3, warmup_epochs=0.5)
    assert rates(optimiser, schedule, 12) == pytest.approx([LR / 3, 2 * LR / 3] + [LR] * 10)


@pytest.mark.parametrize(("watch", "sign"), [("loss", 1), ("balanced_accuracy", -1)])
def test_plateau(watch, sign):
    optimiser, schedule = scheduled(
        3, schedule="plateau", watch=watch, patience_epochs=2, lr_factor=0.1, min_lr=0.002
    )
    found = []
    # Better, better, then nothing: after more than two epochs without progress the rate falls.
    for figure in [0.9, 0.5, 0.6, 0.6, 0.6, 0.6, 0.6, 0.6, 0.4, 0.6, 0.6, 0.6, 0.6, 0.6, 0.6, 0.6]:
        rates(optimiser, schedule, 3)
        schedule.epoch(sign * figure)
        found.append(optimiser.param_groups[0]["lr"])
    assert found == pytest.approx([LR] * 4 + [LR / 10] * 3 + [0.002] * 9)


def test_plateau_has_no_warm_up():
    with pytest.raises(ConfigError, match=r"student\.fit\.warmup_epochs is 1\.0.*plateau"):
        Config(student=StudentConfig(fit=FitConfig(schedule="plateau", warmup_epochs=1.0)))


@pytest.mark.parametrize("options", [
    {"schedule": "cosine", "epochs": 4, "warmup_epochs": 1.0},
    {"schedule": "steps", "epochs": 4, "milestones": [1, 3]},
    {"schedule": "constant", "epochs": 4},
    {"schedule": "plateau", "epochs": 4, "patience_epochs": 0},
], ids=lambda options: options["schedule"])  # fmt: skip
@pytest.mark.parametrize("done", [1, 4, 5, 9])
def test_a_restored_schedule_continues(options, done):
    def run(optimiser, schedule, first, last):
        taken = []
        for step in range(first, last):
            taken += rates(optimiser, schedule, 1)
            if step % 5 == 4:
                schedule.epoch(0.5)
        return taken

    whole = run(*scheduled(**options), 0, 20)
    optimiser, schedule = scheduled(**options)
    run(optimiser, schedule, 0, done)
    state = copy.deepcopy((optimiser.state_dict(), schedule.state_dict()))
    assert all(isinstance(v, int | float | str | bool | list | None) for v in state[1].values())
    again, continued = scheduled(**options)
    again.load_state_dict(state[0])
    continued.load_state_dict(state[1])
    assert run(again, continued, done, 20) == whole[done:]


@pytest.mark.parametrize("kind", ["cosine", "plateau"])
def test_a_foreign_state_is_refused(kind):
    _, schedule = scheduled(schedule=kind)
    before = schedule.state_dict()
    for foreign in ({}, {"foreign": 1}, before | {"foreign": 1}):
        with pytest.raises(KeyError, match="a schedule of"):
            schedule.load_state_dict(foreign)
    assert schedule.state_dict() == before


@pytest.mark.parametrize(("name", "kind"), [("sgd", torch.optim.SGD), ("adamw", torch.optim.AdamW)])
def test_optimiser_takes_what_is_trained(name, kind):
    trained, frozen = nn.Linear(2, 2), nn.Linear(2, 2).requires_grad_(False)
    fit = FitConfig(optimiser=name, lr=0.2, momentum=0.8, weight_decay=0.3)
    optimiser = build_optimiser([*trained.parameters(), *frozen.parameters()], fit)
    assert type(optimiser) is kind
    (group,) = optimiser.param_groups
    assert {id(p) for p in group["params"]} == {id(p) for p in trained.parameters()}
    assert (group["lr"], group["weight_decay"]) == (0.2, 0.3)
    assert group.get("momentum", 0.8) == 0.8


@settings(max_examples=100, deadline=None)
@given(
    counts=st.lists(st.integers(0, 20_000), min_size=1, max_size=9).filter(any),
    power=st.sampled_from([0.0, 0.25, 0.5, 1.0]),
)
def test_class_weights(counts, power):
    found = class_weights(torch.tensor(counts), power)
    for count, weight in zip(counts, found.tolist(), strict=True):
        if not count:
            assert weight == 0
            continue
        exact = (sum(counts) / count) ** power
        # Half a digit of rounding, and float32's.
        assert abs(weight - exact) <= 0.0005 + 1e-6 * exact
        assert weight * 1000 == pytest.approx(round(weight * 1000), rel=1e-6)


def test_class_weights_of_isic_2019():
    """The weights of the whole training set, computed by hand from its published counts."""
    counts = [4522, 12875, 3323, 867, 2624, 239, 253, 628]
    wanted = [5.602, 1.967, 7.623, 29.217, 9.654, 105.987, 100.123, 40.336]
    assert class_weights(torch.tensor(counts), 1.0).tolist() == pytest.approx(wanted)
    assert class_weights(torch.tensor(counts), 0.0).tolist() == [1.0] * 8
