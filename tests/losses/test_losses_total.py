"""Losses are total: finite value and gradient whatever a batch holds, precise in float32."""

import pytest
import torch
from torch import Tensor

from dermdistill import losses
from dermdistill.losses import LOSSES

SAMPLES = 4


def target_of(x: Tensor) -> Tensor:
    return torch.arange(len(x)) % x.shape[1]


GROUPS = torch.tensor([0, 0, 1, 1, 2, 2])
# How each loss is called on a student's and a teacher's tensor, and their shape for n samples.
CALLS = {
    "cross_entropy": lambda s, t: losses.cross_entropy_loss(s, target_of(s)),
    "kd": lambda s, t: losses.kd_loss(s, t, 4.0),
    "feature_mse": losses.feature_mse_loss,
    "rkd_distance": losses.rkd_distance_loss,
    "rkd_angle": losses.rkd_angle_loss,
    "channel_gram": losses.channel_gram_loss,
    "view_contrast": lambda s, t: losses.view_contrast_loss(s),
    "view_kd": lambda s, t: losses.view_kd_loss(s, t, 0.5, 0.75),
    "trusted_kd": lambda s, t: losses.trusted_kd_loss(s, t, target_of(t), 4.0, 0.5),
    "target_kd": lambda s, t: losses.target_kd_loss(s, t, target_of(t), 4.0),
    "nontarget_kd": lambda s, t: losses.nontarget_kd_loss(s, t, target_of(t), 4.0),
    "inter_class": lambda s, t: losses.inter_class_loss(s, t, 2.0),
    "intra_class": lambda s, t: losses.intra_class_loss(s, t, 2.0),
    "confidence_kd": lambda s, t: losses.confidence_kd_loss(s, t, t.argmax(1), 4.0),
    "masked_kd": lambda s, t: losses.masked_kd_loss(s, t, target_of(t), 4.0),
    "group_kd": lambda s, t: losses.group_kd_loss(s, t, GROUPS, 4.0),
    "within_group_kd": lambda s, t: losses.within_group_kd_loss(s, t, GROUPS, 4.0),
    "enhanced_kd": lambda s, t: losses.enhanced_kd_loss(s, t, target_of(t), 1.5, 4.0),
    "batch_correlation": lambda s, t: losses.batch_correlation_loss(s, t, 4.0),
    "class_correlation": lambda s, t: losses.class_correlation_loss(s, t, 4.0),
    "similarity": losses.similarity_loss,
    "pkt": losses.pkt_loss,
    "correlation_congruence": lambda s, t: losses.correlation_congruence_loss(s, t, 0.4),
    "attention": losses.attention_loss,
    "selectivity": losses.selectivity_loss,
    "variational": lambda s, t: losses.variational_loss(s, s.new_ones(s.shape[1]), t),
    "log_power": losses.log_power_loss,
    "normalised_l1": losses.normalised_l1_loss,
}
MAPS = ("feature_mse", "channel_gram", "similarity", "attention", "selectivity", "variational")
SIMILARITIES = ("view_contrast", "view_kd")
WITHOUT_TEACHER = ("cross_entropy", "view_contrast")
# Losses that change the teacher's answer first, so that the student shall not be the teacher.
CHANGED_TEACHER = ("group_kd", "enhanced_kd", "normalised_l1")


def shape_of(name: str, samples: int) -> tuple[int, ...]:
    if name in MAPS:
        return samples, 5, 3, 3
    return (3 * samples, samples) if name in SIMILARITIES else (samples, 6)


def pair(name: str, samples: int = SAMPLES) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    shape = shape_of(name, samples)
    return torch.randn(shape, generator=generator), torch.randn(shape, generator=generator)


def equal_rows(student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
    return student[:1].expand_as(student).clone(), teacher


def two_equal_rows(student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
    return torch.cat((student[:1], student[:1], student[2:])), teacher


def nearly_equal_rows(student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
    return student[:1] + 1e-7 * student, teacher


SITUATIONS = {
    "random": lambda s, t: (s, t),
    "equal rows": equal_rows,
    "two equal rows": two_equal_rows,
    "nearly equal rows": nearly_equal_rows,
    "teacher's rows equal": lambda s, t: equal_rows(t, s)[::-1],
    "both collapsed": lambda s, t: (torch.zeros_like(s), torch.zeros_like(t)),
    "student collapsed": lambda s, t: (torch.zeros_like(s), t),
    "student is teacher": lambda s, t: (t.clone(), t),
    "student is minus teacher": lambda s, t: (-t, t),
    "student beside teacher": lambda s, t: (t + 1e-6 * s, t),
    "large": lambda s, t: (1e12 * s, 1e12 * t),
    "student large": lambda s, t: (1e12 * s, t),
    "tiny": lambda s, t: (1e-20 * s, 1e-20 * t),
}
DTYPES = [torch.float64, torch.float32, torch.bfloat16]


def assert_finite(name: str, student: Tensor, teacher: Tensor) -> None:
    student = student.detach().requires_grad_()
    value = CALLS[name](student, teacher)
    value.backward()
    assert value.shape == ()
    assert value.dtype == torch.promote_types(student.dtype, torch.float32)
    assert value.isfinite()
    assert value >= -1e-12
    assert student.grad.isfinite().all()
    assert student.grad.dtype == student.dtype


def test_every_loss_is_tested():
    assert CALLS.keys() == LOSSES.keys()


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("situation", SITUATIONS)
@pytest.mark.parametrize("name", LOSSES)
def test_finite(name, situation, dtype):
    student, teacher = SITUATIONS[situation](*pair(name))
    assert_finite(name, student.to(dtype), teacher.to(dtype))


@pytest.mark.parametrize("situation", sorted(SITUATIONS.keys() - {"two equal rows"}))
@pytest.mark.parametrize("name", LOSSES)
def test_finite_with_one_sample(name, situation):
    assert_finite(name, *SITUATIONS[situation](*pair(name, samples=1)))


@pytest.mark.parametrize("situation", SITUATIONS)
@pytest.mark.parametrize("name", LOSSES)
def test_autocast_changes_nothing(name, situation):
    student, teacher = SITUATIONS[situation](*pair(name))
    results = []
    for enabled in (False, True):
        leaf = student.clone().requires_grad_()
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            value = CALLS[name](leaf, teacher)
            value.backward()
        results.append((value.detach(), leaf.grad))
    torch.testing.assert_close(results[1], results[0], rtol=0, atol=0)


@pytest.mark.parametrize("name", sorted(LOSSES.keys() - {*WITHOUT_TEACHER, *CHANGED_TEACHER}))
def test_nothing_to_learn_where_the_student_is_the_teacher(name):
    _, teacher = pair(name)
    student = teacher.clone().requires_grad_()
    value = CALLS[name](student, teacher)
    value.backward()
    assert value.item() == pytest.approx(0, abs=1e-12)
    assert student.grad.abs().max().item() == pytest.approx(0, abs=1e-7)


@pytest.mark.parametrize("name", sorted(LOSSES.keys() - set(WITHOUT_TEACHER)))
def test_the_teacher_receives_no_gradient(name):
    student, teacher = (x.requires_grad_() for x in pair(name))
    CALLS[name](student, teacher).backward()
    assert teacher.grad is None
    assert student.grad.abs().max() > 0


@pytest.mark.parametrize("name", ["rkd_distance", "rkd_angle"])
def test_relations_of_one_sample_are_0(name):
    student, teacher = pair(name, samples=1)
    assert CALLS[name](student, teacher).item() == 0


@pytest.mark.parametrize("distance", [1.0, 1e-3, 1e-5])
@pytest.mark.parametrize("name", ["feature_mse", "rkd_distance", "rkd_angle", "channel_gram"])
def test_float32_is_precise_however_near_the_teacher(name, distance):
    student, teacher = pair(name, samples=6)
    student = teacher + distance * student
    results = []
    for dtype in (torch.float32, torch.float64):
        leaf = student.detach().to(dtype, copy=True).requires_grad_()
        value = CALLS[name](leaf, teacher.to(dtype))
        value.backward()
        results.append((value.item(), leaf.grad.double()))
    (value, gradient), (exact_value, exact_gradient) = results
    assert value == pytest.approx(exact_value, rel=1e-5)
    assert (gradient - exact_gradient).abs().max() <= 1e-5 * exact_gradient.abs().max()


def test_angles_at_a_close_pair_are_precise_in_float32():
    student, teacher = (torch.cat((x, x[:1] + 1e-4 * x[1:2])) for x in pair("rkd_angle"))
    student = student + 100  # an offset that a plain Gram matrix in float32 would not survive
    single = losses.rkd_angle_loss(student, teacher).item()
    double = losses.rkd_angle_loss(student.double(), teacher.double()).item()
    assert single == pytest.approx(double, rel=1e-6)


def test_cross_entropy_of_classes_that_do_not_count_is_0():
    logits = torch.randn(3, 2).requires_grad_()
    loss = losses.cross_entropy_loss(logits, torch.zeros(3).long(), torch.tensor([0.0, 1.0]))
    loss.backward()
    assert loss.item() == 0
    assert logits.grad.abs().max() == 0


def test_no_kept_row_is_no_loss():
    student, teacher = torch.randn(3, 2).requires_grad_(), torch.tensor([[1.0, 0.0]] * 3)
    loss = losses.trusted_kd_loss(student, teacher, torch.ones(3).long(), 4.0, keep_ratio=0.0)
    loss.backward()
    assert loss.item() == 0
    assert student.grad.abs().max() == 0


@pytest.mark.parametrize("situation", SITUATIONS)
@pytest.mark.parametrize("ratio", [0.0, 0.5, 1.0])
def test_standardised_logits_are_finite(situation, ratio):
    logits = SITUATIONS[situation](*pair("kd"))[0].clone()
    logits[1] = 3.0
    logits.requires_grad_()
    standard = losses.standardise_logits(logits, ratio)
    standard.square().sum().backward()
    assert standard.isfinite().all()
    assert logits.grad.isfinite().all()
    assert ratio == 0 or (standard[1] == 0).all()


@pytest.mark.parametrize("scale", [0.0, 1e-30, 1.0, 1e30])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_view_similarity_is_finite(dtype, scale):
    embeddings = (scale * torch.randn(3, 4, 5)).to(dtype)
    embeddings[1] = 0
    embeddings.requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        similarity = losses.view_similarity(embeddings)
    similarity.square().sum().backward()
    assert similarity.dtype == torch.promote_types(dtype, torch.float32)
    assert similarity.abs().max() <= 1 + 1e-6
    assert (similarity[:, 1] == 0).all()
    assert embeddings.grad.isfinite().all()
