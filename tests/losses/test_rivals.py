"""The rivals' losses against plain loops, and what their papers say must hold of them."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import loop_oracles_features
import loop_oracles_logits
from dermdistill import losses
from dermdistill.errors import ConfigError
from dermdistill.methods.ltkd import frequency_groups
from dermdistill.models import VariationalHead, orthogonal_projector

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
@pytest.mark.parametrize("name", ["target_kd", "nontarget_kd", "confidence_kd", "masked_kd"])
def test_parts_of_kd(name, temperature):
    student, teacher, target = numbers(0, 6, 4), numbers(1, 6, 4), targets(2, 6, 4)
    expected = getattr(loop_oracles_logits, name)(student, teacher, target, temperature)
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


@few
@given(seeds, sizes, temperatures)
def test_refined_distillation_of_a_right_teacher_is_the_decoupled_one(seed, classes, temperature):
    student, teacher = numbers(seed, 2, 4, classes)
    arguments = student, teacher, teacher.argmax(1), temperature
    for refined, decoupled in (("confidence_kd", "target_kd"), ("masked_kd", "nontarget_kd")):
        expected = losses.LOSSES[decoupled](*arguments).item()
        found = losses.LOSSES[refined](*arguments).item()
        assert found == pytest.approx(expected, rel=1e-9, abs=1e-12)


def test_nothing_is_learnt_of_what_the_teacher_ranks_above_the_true_class():
    student, teacher = torch.zeros(1, 4).requires_grad_(), torch.tensor([[3.0, 2.0, 1.0, 0.0]])
    losses.masked_kd_loss(student, teacher, torch.tensor([1]), 4.0).backward()
    assert student.grad[0, :2].tolist() == [0, 0]
    assert (student.grad[0, 2:] != 0).all()
    lowest = losses.masked_kd_loss(student, teacher, torch.tensor([3]), 4.0)
    assert lowest.item() == 0


CLASSES = [[0, 3], [1], [2, 4]]
GROUPS = torch.tensor([0, 1, 2, 0, 2])


@pytest.mark.parametrize("temperature", [0.5, 4.0])
@pytest.mark.parametrize("name", ["group_kd", "within_group_kd"])
def test_groups_of_classes(name, temperature):
    student, teacher = numbers(0, 6, 5), numbers(1, 6, 5)
    expected = getattr(loop_oracles_logits, name)(student, teacher, CLASSES, temperature)
    found = losses.LOSSES[name](student, teacher, GROUPS, temperature)
    assert found.item() == pytest.approx(expected.item(), rel=1e-11)


def even_groups(logits: Tensor) -> Tensor:
    """Logits whose groups all have probability 1/3."""
    shares = torch.stack([logits[:, g == GROUPS].logsumexp(1) for g in range(3)], dim=1)
    return logits - shares[:, GROUPS]


@few
@given(seeds)
def test_kd_of_an_unbiased_teacher_is_the_groups_and_a_third_of_their_insides(seed):
    student, teacher = numbers(seed, 4, 5), even_groups(numbers(seed + 1, 4, 5))
    parts = losses.group_kd_loss(student, teacher, GROUPS, 1.0).item()
    parts += losses.within_group_kd_loss(student, teacher, GROUPS, 1.0).item() / 3
    assert parts == pytest.approx(losses.kd_loss(student, teacher, 1.0).item(), rel=1e-9)


@few
@given(seeds, st.floats(-5, 5))
def test_a_teachers_preference_for_a_group_is_taken_out(seed, preference):
    student, teacher = even_groups(numbers(seed, 1, 5)), numbers(seed + 1, 1, 5)
    biased = teacher + preference * (GROUPS == 0)
    # One sample is its own batch, so that its groups are rebalanced to a third each.
    assert losses.group_kd_loss(student, biased, GROUPS, 1.0).item() == pytest.approx(0, abs=1e-12)


def test_classes_are_grouped_by_thirds_from_frequent_to_rare():
    weights = torch.tensor([3.0, 1.0, 50.0, 2.0, 0.0, 4.0, 7.0, 20.0])  # the fifth has no image
    assert frequency_groups(weights).tolist() == [0, 0, 2, 0, 2, 1, 1, 2]
    assert frequency_groups(torch.tensor([5.0, 1.0])).tolist() == [2, 0]
    hundred = frequency_groups(torch.arange(1.0, 101))
    assert torch.bincount(hundred).tolist() == [33, 34, 33]
    with pytest.raises(ConfigError, match="class_weight_power"):
        frequency_groups(torch.ones(4))


@pytest.mark.parametrize(("power", "temperature"), [(1.5, 1.0), (2.0, 4.0), (0.5, 1.0)])
def test_enhanced_kd_is_the_published_cross_entropy_less_its_least_value(power, temperature):
    student, teacher, target = numbers(0, 6, 4), numbers(1, 6, 4), targets(2, 6, 4)
    arguments = teacher, target, power, temperature
    expected = loop_oracles_logits.enhanced_cross_entropy(student, *arguments)
    expected -= loop_oracles_logits.enhanced_best(*arguments)
    found = losses.enhanced_kd_loss(student, *arguments)
    assert found.item() == pytest.approx(expected.item(), rel=1e-10)


@few
@given(seeds, sizes, temperatures)
def test_enhanced_kd_of_power_1_is_kd(seed, classes, temperature):
    student, teacher, target = *numbers(seed, 2, 5, classes), targets(seed, 5, classes)
    found = losses.enhanced_kd_loss(student, teacher, target, 1.0, temperature).item()
    assert found == pytest.approx(losses.kd_loss(student, teacher, temperature).item(), rel=1e-9)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 4.0])
@pytest.mark.parametrize(
    "name", ["inter_class", "intra_class", "batch_correlation", "class_correlation"]
)
def test_correlations(name, temperature):
    student, teacher = numbers(0, 6, 4), numbers(1, 6, 4)
    expected = getattr(loop_oracles_logits, name)(student, teacher, temperature)
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
    torch.testing.assert_close(standard, loop_oracles_logits.z_scores(logits))
    torch.testing.assert_close(losses.standardise_logits(scale * logits + offset, 1.0), standard)


@few
@given(seeds, sizes, sizes, st.floats(0.05, 1))
def test_the_ratio_leads_from_the_logits_to_their_z_scores(seed, samples, classes, ratio):
    logits = numbers(seed, samples, classes)
    assert losses.standardise_logits(logits, 0.0) is logits
    deviation = logits.std(1, keepdim=True)
    found = losses.standardise_logits(logits, ratio)
    torch.testing.assert_close(found.log_softmax(1), (logits / deviation**ratio).log_softmax(1))


@pytest.mark.parametrize("name", ["attention", "selectivity", "similarity"])
def test_maps_of_different_widths(name):
    student, teacher = numbers(0, 3, 4, 2, 3), numbers(1, 3, 5, 2, 3)
    expected = getattr(loop_oracles_features, name)(student, teacher)
    assert losses.LOSSES[name](student, teacher).item() == pytest.approx(expected.item(), rel=1e-11)


@pytest.mark.parametrize("name", ["attention", "selectivity"])
def test_the_larger_map_is_averaged_to_the_smaller_ones_size(name):
    small, large = numbers(0, 3, 4, 2, 2), numbers(1, 3, 5, 4, 4)
    average = large.unflatten(3, (2, 2)).unflatten(2, (2, 2)).mean((3, 5))
    loss = losses.LOSSES[name]
    assert loss(small, large).item() == pytest.approx(loss(small, average).item(), rel=1e-12)
    assert loss(large, small).item() == pytest.approx(loss(average, small).item(), rel=1e-12)


@few
@given(seeds, scales)
def test_attention_and_selectivity_ignore_the_channels_order_number_and_scale(seed, scale):
    maps = numbers(seed, 3, 4, 2, 3)
    doubled = scale * torch.cat((maps.flip(1), maps), dim=1)
    for loss in (losses.attention_loss, losses.selectivity_loss):
        assert loss(doubled, maps).item() == pytest.approx(0, abs=1e-12)


@few
@given(seeds, sizes, scales)
def test_similarities_ignore_scale_and_rotation(seed, width, scale):
    student, teacher = numbers(seed, 2, 5, width)
    turned = scale * teacher @ torch.linalg.qr(numbers(seed + 1, width, width)).Q
    assert losses.pkt_loss(turned, teacher).item() == pytest.approx(0, abs=1e-12)
    found = losses.correlation_congruence_loss(turned, teacher, 0.4).item()
    assert found == pytest.approx(0, abs=1e-12)
    as_maps = (rows[:, :, None, None] for rows in (turned, teacher))
    assert losses.similarity_loss(*as_maps).item() == pytest.approx(0, abs=1e-12)
    assert losses.pkt_loss(student, teacher) > 0


@pytest.mark.parametrize("gamma", [0.1, 0.4, 2.0])
def test_correlation_congruence(gamma):
    student, teacher = numbers(0, 5, 3), numbers(1, 5, 4)
    expected = loop_oracles_features.correlation_congruence(student, teacher, gamma).item()
    found = losses.correlation_congruence_loss(student, teacher, gamma).item()
    assert found == pytest.approx(expected, rel=1e-11)


def test_the_likelihood_is_a_gaussians():
    mean, variance, teacher = numbers(0, 2, 3, 2, 2), numbers(1, 3).exp(), numbers(2, 2, 3, 2, 2)
    normal = torch.distributions.Normal(mean, variance.sqrt().view(1, -1, 1, 1))
    constant = torch.log(torch.tensor(2 * torch.pi, dtype=torch.float64)) / 2
    expected = -normal.log_prob(teacher).mean() - constant
    found = losses.variational_loss(mean, variance, teacher)
    assert found.item() == pytest.approx(expected.item(), rel=1e-12)


def test_no_variance_is_counted_as_less_than_the_least():
    maps, teacher = numbers(0, 2, 3, 2, 2), numbers(1, 2, 3, 2, 2)
    variance = torch.tensor([0.0, 1e-9, 1e-5], dtype=torch.float64).requires_grad_()
    loss = losses.variational_loss(maps, variance, teacher)
    loss.backward()
    assert loss.item() == losses.variational_loss(maps, torch.full((3,), 1e-5), teacher).item()
    assert variance.grad.isfinite().all()


def test_the_variational_head_starts_at_its_variance():
    mean, variance = VariationalHead(4, 6)(torch.randn(2, 4, 3, 3))
    assert mean.shape == (2, 6, 3, 3)
    torch.testing.assert_close(variance, torch.full((6,), 5.0))


@few
@given(seeds, scales, st.floats(-10, 10))
def test_srd_ignores_offsets_and_nearly_scales(seed, scale, offset):
    student, teacher = numbers(seed, 2, 6, 3)
    expected = losses.log_power_loss(student, teacher).item()
    assert losses.log_power_loss(student + offset, teacher).item() == pytest.approx(expected)
    # Up to the least variance that batch norm divides by.
    assert losses.log_power_loss(100 * teacher, 100 * teacher * (1 + scale)).item() < 1e-9


@pytest.mark.parametrize(("student", "teacher"), [(4, 7), (7, 4), (5, 5)])
def test_the_projector_stays_orthogonal_while_it_learns(student, teacher):
    projector = orthogonal_projector(student, teacher).double()
    before = projector.weight.detach().clone()
    optimiser = torch.optim.SGD(projector.parameters(), lr=0.5)
    for step in range(3):
        optimiser.zero_grad()
        loss = losses.normalised_l1_loss(
            projector(numbers(step, 9, student)), numbers(9, 9, teacher)
        )
        loss.backward()
        optimiser.step()
    weight = projector.weight.detach()
    assert (weight - before).abs().max() > 1e-3
    product = weight.T @ weight if teacher >= student else weight @ weight.T
    # To float32, in which the start is drawn.
    torch.testing.assert_close(product, torch.eye(len(product)).double(), rtol=0, atol=1e-6)
