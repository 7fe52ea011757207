"""What must hold of the losses whatever the numbers: invariances, bounds, gradients."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.autograd import gradcheck

from dermdistill import losses

few = settings(max_examples=25, deadline=None)
seeds = st.integers(0, 2**31)
sizes = st.integers(2, 9)
scales = st.floats(1e-3, 1e3)
temperatures = st.floats(0.1, 20)


def numbers(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def orthogonal(seed: int, width: int) -> Tensor:
    return torch.linalg.qr(numbers(seed, width, width)).Q


@few
@given(seeds, sizes, sizes, temperatures)
def test_kd_is_0_at_equality_and_else_above(seed, samples, classes, temperature):
    student, teacher = numbers(seed, 2, samples, classes)
    assert losses.kd_loss(teacher, teacher, temperature).item() == 0
    # A constant a sample changes no probability.
    shifted = teacher + numbers(seed + 1, samples, 1)
    assert losses.kd_loss(shifted, teacher, temperature).item() == pytest.approx(0, abs=1e-11)
    assert losses.kd_loss(student, teacher, temperature).item() > 0


@few
@given(seeds, sizes, sizes, scales)
def test_rkd_distance_ignores_scale_rotation_and_translation(seed, samples, width, scale):
    student, teacher = numbers(seed, 2, samples, width)
    moved = scale * student @ orthogonal(seed, width) + numbers(seed + 1, width)
    expected = losses.rkd_distance_loss(student, teacher).item()
    assert losses.rkd_distance_loss(moved, teacher).item() == pytest.approx(expected, abs=1e-9)
    assert losses.rkd_distance_loss(teacher, moved).item() == pytest.approx(expected, abs=1e-9)
    assert losses.rkd_distance_loss(moved, student).item() == pytest.approx(0, abs=1e-12)


@few
@given(seeds, sizes, sizes, scales)
def test_rkd_angle_ignores_scale_rotation_and_translation(seed, samples, width, scale):
    student, teacher = numbers(seed, 2, samples, width)
    moved = scale * student @ orthogonal(seed, width) + numbers(seed + 1, width)
    expected = losses.rkd_angle_loss(student, teacher).item()
    assert losses.rkd_angle_loss(moved, teacher).item() == pytest.approx(expected, abs=1e-9)
    assert losses.rkd_angle_loss(moved, student).item() == pytest.approx(0, abs=1e-12)
    assert 0 <= expected <= 1.5


@few
@given(seeds, sizes, sizes)
def test_rkd_ignores_the_order_of_samples(seed, samples, width):
    student, teacher = numbers(seed, 2, samples, width)
    order = torch.randperm(samples, generator=torch.Generator().manual_seed(seed))
    for loss in (losses.rkd_distance_loss, losses.rkd_angle_loss):
        found = loss(student[order], teacher[order]).item()
        assert found == pytest.approx(loss(student, teacher).item(), rel=1e-9)


@few
@given(seeds, sizes, sizes, scales)
def test_gram_ignores_where_in_the_image_and_is_of_second_degree(seed, samples, channels, scale):
    student, teacher = numbers(seed, 2, samples, channels, 2, 3)
    order = torch.randperm(6, generator=torch.Generator().manual_seed(seed))
    s_moved, t_moved = (x.flatten(2)[..., order].view_as(x) for x in (student, teacher))
    expected = losses.channel_gram_loss(student, teacher).item()
    assert losses.channel_gram_loss(s_moved, t_moved).item() == pytest.approx(expected, rel=1e-9)
    # Each map's own Gram matrix knows no place, so one side may move alone.
    assert losses.channel_gram_loss(s_moved, teacher).item() == pytest.approx(expected, rel=1e-9)
    scaled = losses.channel_gram_loss(scale * student, scale * teacher).item()
    assert scaled == pytest.approx(scale**2 * expected, rel=1e-9)
    assert losses.channel_gram_loss(teacher, student).item() == pytest.approx(expected, rel=1e-9)


@few
@given(seeds, sizes, sizes, scales)
def test_view_similarity_is_bounded_and_ignores_lengths(seed, images, width, scale):
    embeddings = numbers(seed, images, 4, width)
    similarity = losses.view_similarity(embeddings)
    assert similarity.abs().max() <= 1 + 1e-12
    torch.testing.assert_close(losses.view_similarity(scale * embeddings), similarity)
    # Equal views are found: a rotated view that equals its upright one has cosine 1 with it.
    same = embeddings[:, :1].expand(-1, 4, -1)
    own = losses.own_images(similarity)[:, None]
    torch.testing.assert_close(
        losses.view_similarity(same).gather(1, own), torch.ones(3 * images, 1).double()
    )


@few
@given(seeds, sizes, sizes, st.floats(0, 1))
def test_every_right_row_is_kept(seed, samples, classes, keep_ratio):
    scores = numbers(seed, samples, classes)
    target = torch.randint(0, classes, (samples,), generator=torch.Generator().manual_seed(seed))
    kept = losses.kept_rows(scores, target, keep_ratio)
    right = (scores.argmax(1) == target).nonzero().flatten()
    assert set(right.tolist()) <= set(kept.tolist())
    assert len(kept) == len(right) + int((samples - len(right)) * keep_ratio)
    assert losses.kept_rows(scores, target, 1.0).tolist() == list(range(samples))


OWN = torch.tensor([0, 0, 0, 1, 1, 1, 2, 2, 2])
GRADCHECKS = {
    "cross_entropy": lambda x: losses.cross_entropy_loss(x, OWN, torch.tensor([1.0, 2.0, 0.5])),
    "kd": lambda x: losses.kd_loss(x, numbers(1, 9, 3), 4.0),
    "feature_mse": lambda x: losses.feature_mse_loss(x.reshape(3, 3, 3, 1), numbers(1, 3, 3, 3, 1)),
    "rkd_distance": lambda x: losses.rkd_distance_loss(x, numbers(1, 9, 5)),
    "rkd_angle": lambda x: losses.rkd_angle_loss(x, numbers(1, 9, 5)),
    "channel_gram": lambda x: losses.channel_gram_loss(
        x.reshape(3, 3, 3, 1), numbers(1, 3, 3, 3, 1)
    ),
    "view_contrast": losses.view_contrast_loss,
    "view_kd": lambda x: losses.view_kd_loss(x, numbers(1, 9, 3), 0.5, 0.75),
    "trusted_kd": lambda x: losses.trusted_kd_loss(x, numbers(1, 9, 3), OWN, 4.0, 0.75),
    "target_kd": lambda x: losses.target_kd_loss(x, numbers(1, 9, 3), OWN, 4.0),
    "nontarget_kd": lambda x: losses.nontarget_kd_loss(x, numbers(1, 9, 3), OWN, 4.0),
    "inter_class": lambda x: losses.inter_class_loss(x, numbers(1, 9, 3), 2.0),
    "intra_class": lambda x: losses.intra_class_loss(x, numbers(1, 9, 3), 2.0),
    "confidence_kd": lambda x: losses.confidence_kd_loss(x, numbers(1, 9, 3), OWN, 4.0),
    "masked_kd": lambda x: losses.masked_kd_loss(x, numbers(1, 9, 3), OWN, 4.0),
    "group_kd": lambda x: losses.group_kd_loss(x, numbers(1, 9, 3), OWN[2:5], 4.0),
    "within_group_kd": lambda x: losses.within_group_kd_loss(x, numbers(1, 9, 3), OWN[2:5], 4.0),
    "enhanced_kd": lambda x: losses.enhanced_kd_loss(x, numbers(1, 9, 3), OWN, 1.5, 4.0),
    "batch_correlation": lambda x: losses.batch_correlation_loss(x, numbers(1, 9, 3), 4.0),
    "class_correlation": lambda x: losses.class_correlation_loss(x, numbers(1, 9, 3), 4.0),
    "similarity": lambda x: losses.similarity_loss(x.reshape(3, 3, 3, 1), numbers(1, 3, 4, 3, 1)),
    "pkt": lambda x: losses.pkt_loss(x, numbers(1, 9, 5)),
    "correlation_congruence": lambda x: losses.correlation_congruence_loss(
        x, numbers(1, 9, 5), 0.4
    ),
    "attention": lambda x: losses.attention_loss(x.reshape(3, 3, 3, 1), numbers(1, 3, 4, 2, 1)),
    "selectivity": lambda x: losses.selectivity_loss(x.reshape(3, 3, 3, 1), numbers(1, 3, 4, 2, 1)),
    "variational": lambda x: losses.variational_loss(
        x.reshape(3, 3, 3, 1), numbers(2, 3).exp(), numbers(1, 3, 3, 3, 1)
    ),
    "log_power": lambda x: losses.log_power_loss(x, numbers(1, 9, 3)),
    "normalised_l1": lambda x: losses.normalised_l1_loss(x, numbers(1, 9, 3)),
}


@pytest.mark.parametrize("name", losses.LOSSES)
def test_gradient_is_the_slope(name):
    assert gradcheck(GRADCHECKS[name], (numbers(0, 9, 3).requires_grad_(),))


def test_gradient_of_view_similarity_is_the_slope():
    assert gradcheck(losses.view_similarity, (numbers(0, 3, 4, 2).requires_grad_(),))


def test_gradient_of_a_relation_follows_the_incoming_one():
    student = numbers(0, 5, 3).requires_grad_()
    for loss in (losses.rkd_distance_loss, losses.rkd_angle_loss):
        (once,) = torch.autograd.grad(loss(student, numbers(1, 5, 4)), student)
        (thrice,) = torch.autograd.grad(3 * loss(student, numbers(1, 5, 4)), student)
        torch.testing.assert_close(thrice, 3 * once)
