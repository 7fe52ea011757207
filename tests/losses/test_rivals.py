"""The rivals' losses against plain loops, and what their papers say must hold of them."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import rival_oracles as oracles
from dermdistill import losses

few = settings(max_examples=25, deadline=None)
seeds = st.integers(0, 2**31)
sizes = st.integers(2, 9)
scales = st.floats(1e-2, 1e2)
temperatures = st.floats(0.5, 20)


def numbers(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def targets(seed: int, samples: int, classes: int) -> Tensor:
    return torch.randint(0, classes, (samples,), generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("temperature", [0.5, 1.0, 5.0])
@pytest.mark.parametrize("name", ["target_kd", "nontarget_kd"])
def test_parts_of_kd(name, temperature):
    student, teacher, target = numbers(0, 6, 4), numbers(1, 6, 4), targets(2, 6, 4)
    expected = getattr(oracles, name)(student, teacher, target, temperature)
    found = losses.LOSSES[name](student, teacher, target, temperature)
    assert found.item() == pytest.approx(expected.item(), rel=1e-11)


@few
@given(seeds, sizes, temperatures)
def test_kd_is_the_target_part_and_the_others_by_their_share(seed, classes, temperature):
    student, teacher = numbers(seed, 2, 1, classes)
    target = targets(seed, 1, classes)
    others = 1 - (teacher / temperature).softmax(1)[0, target].item()
    parts = losses.target_kd_loss(student, teacher, target, temperature).item()
    parts += others * losses.nontarget_kd_loss(student, teacher, target, temperature).item()
    whole = losses.kd_loss(student, teacher, temperature).item()
    assert parts == pytest.approx(whole, rel=1e-9, abs=1e-12)


def test_two_classes_have_no_other_classes():
    student, teacher = numbers(0, 2, 5, 2)
    student.requires_grad_()
    loss = losses.nontarget_kd_loss(student, teacher, targets(1, 5, 2), 4.0)
    loss.backward()
    assert loss.item() == 0
    assert student.grad.abs().max() == 0


@pytest.mark.parametrize("temperature", [0.5, 1.0, 4.0])
@pytest.mark.parametrize("name", ["inter_class", "intra_class"])
def test_correlations(name, temperature):
    student, teacher = numbers(0, 6, 4), numbers(1, 6, 4)
    expected = getattr(oracles, name)(student, teacher, temperature)
    found = losses.LOSSES[name](student, teacher, temperature)
    assert found.item() == pytest.approx(expected.item(), rel=1e-11)


@few
@given(seeds, sizes, sizes, scales, st.floats(-10, 10))
def test_pearson_ignores_scale_and_offset(seed, rows, width, scale, offset):
    student, teacher = numbers(seed, 2, rows, width)
    expected = losses.pearson_distance(student, teacher).item()
    moved = losses.pearson_distance(scale * student + offset, teacher).item()
    assert moved == pytest.approx(expected, abs=1e-9)
    assert losses.pearson_distance(scale * teacher + offset, teacher).item() < 1e-12
    assert losses.pearson_distance(-scale * teacher, teacher).item() == pytest.approx(2)
    assert 0 <= expected <= 2


@few
@given(seeds, sizes, sizes, scales, st.floats(-10, 10))
def test_z_scores_ignore_scale_and_offset(seed, samples, classes, scale, offset):
    logits = numbers(seed, samples, classes)
    standard = losses.standardise_logits(logits, 1.0)
    torch.testing.assert_close(standard, oracles.z_scores(logits))
    torch.testing.assert_close(losses.standardise_logits(scale * logits + offset, 1.0), standard)


@few
@given(seeds, sizes, sizes, st.floats(0.05, 1))
def test_the_ratio_leads_from_the_logits_to_their_z_scores(seed, samples, classes, ratio):
    logits = numbers(seed, samples, classes)
    assert losses.standardise_logits(logits, 0.0) is logits
    deviation = logits.std(1, keepdim=True)
    found = losses.standardise_logits(logits, ratio)
    torch.testing.assert_close(found.log_softmax(1), (logits / deviation**ratio).log_softmax(1))
