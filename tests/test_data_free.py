"""AdaDFKD against loops from its equations, and the game between its generator and the student."""

import copy
import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

import small
from by_hand import divergence, softmax
from dermdistill.config import NetworkConfig
from dermdistill.distill import distill
from dermdistill.errors import ConfigError
from dermdistill.methods import Lesson, build_method
from dermdistill.methods.adadfkd import (
    EMBEDDING,
    Generator,
    NegativeBank,
    Turned,
    norms_loss,
    ramp,
    relation_loss,
    row_noise,
)
from dermdistill.models import build_backbone, freeze, norm_gaps, with_norms
from dermdistill.train.teacher_cache import TeacherCache
from dermdistill.types import Batch, Taps, Widths, total_loss
from method_contract import classroom

SAMPLES, CLASSES, WIDTH, NAME = 5, 4, 6, "adadfkd"
OPTIONS = {"bank_count": 10, "negatives_ratio": 0.5, "relation_temperature": 0.3}
DONE = 0.5  # half way between begin_ratio and end_ratio
# A small generator's worth of numbers in every layer of a teacher: channels, places.
LAYERS = ((3, 4), (2, 9))


def draw(random: torch.Generator, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=random, dtype=torch.float64)


def lesson(seed: int) -> tuple[Lesson, list[nn.BatchNorm2d], list[Tensor]]:
    """Random numbers as a lesson, the teacher's batch norms, and what they see."""
    random = torch.Generator().manual_seed(seed)
    norms = [nn.BatchNorm2d(channels).double() for channels, _ in LAYERS]
    for norm in norms:
        norm.running_mean.copy_(draw(random, len(norm.running_mean)))
        norm.running_var.copy_(draw(random, len(norm.running_var)).exp())
    seen = [draw(random, SAMPLES, c, places, 1).requires_grad_() for c, places in LAYERS]
    empty = torch.zeros(SAMPLES, 1, 1, 1)
    student, teacher = (
        Taps(empty, draw(random, SAMPLES, WIDTH).requires_grad_(),
             (scale * draw(random, SAMPLES, CLASSES)).requires_grad_())
        for scale in (1, 3)
    )  # fmt: skip
    method, sizes = build_method(NAME, OPTIONS), Widths(1, 1, WIDTH, CLASSES)
    torch.manual_seed(seed)
    adapters = nn.ModuleDict(method.adapters(sizes, sizes)).double()
    memory = nn.ModuleDict(method.memory(sizes, torch.zeros(1, dtype=torch.int64))).double()
    gaps = tuple(norm_gaps(norm, x) for norm, x in zip(norms, seen, strict=True))
    batch = Batch(torch.zeros(SAMPLES, 2, 3, 1, 1), torch.zeros(SAMPLES, dtype=torch.int64),
                  [""] * SAMPLES, torch.arange(SAMPLES), apart=True)  # fmt: skip
    return Lesson(batch, student, (teacher._replace(norms=gaps),), adapters, None,
                  torch.ones(CLASSES), memory=memory, done_ratio=DONE), norms, seen  # fmt: skip


def paced_kd(student: Tensor, teacher: Tensor) -> Tensor:
    pace, total = 2.41 + 10 * DONE, 0.0
    for s, t in zip(student, teacher, strict=True):
        each = 400 * divergence(t.detach() / 20, s / 20)
        easy = (1 + math.exp(-pace)) / (1 + math.exp(each.item() - pace))
        total += easy * each
    return total / len(student)


def balance(logits: Tensor) -> Tensor:
    rows = [softmax(row / 20) for row in logits]
    mean = [sum(row[k] for row in rows) / len(rows) for k in range(CLASSES)]
    return math.log(CLASSES) + sum(p * p.log() for p in mean)


def norm_distance(norm: nn.BatchNorm2d, seen: Tensor) -> Tensor:
    """Of the batch's own mean and variance from the remembered ones, in the layer's unit."""
    channels = seen.shape[1]
    unit = sum(norm.running_var) / channels
    means = [seen[:, c].mean() for c in range(channels)]
    variances = [((seen[:, c] - means[c]) ** 2).mean() for c in range(channels)]
    of_means = sum((m - r) ** 2 for m, r in zip(means, norm.running_mean, strict=True)) / unit
    of_variances = sum(
        (v - r) ** 2 for v, r in zip(variances, norm.running_var, strict=True)
    ) / unit**2  # fmt: skip
    return (of_means / channels).sqrt() + (of_variances / channels).sqrt()


def cosine(first: Tensor, second: Tensor) -> Tensor:
    product = sum(a * b for a, b in zip(first, second, strict=True))
    return product / (sum(a**2 for a in first) * sum(b**2 for b in second)).sqrt()


def relation(given: Lesson) -> Tensor:
    """Five of ten negatives, those of rank 3 to 7 by likeness, as the training is half way on."""
    anchors, partners = (
        given.adapters[f"{who}_head"](taps.embedding)
        for who, taps in (("teacher", given.teacher), ("student", given.student))
    )
    total = 0.0
    for anchor, partner in zip(anchors, partners, strict=True):
        bank = given.memory["bank"].rows
        ranked = sorted((cosine(anchor, row) for row in bank), key=Tensor.item)
        own = (cosine(anchor, partner) / 0.3).exp()
        total -= (own / (own + sum((c / 0.3).exp() for c in ranked[2:7]))).log()
    return total / len(anchors)


@pytest.mark.parametrize("seed", range(3))
def test_the_loss_is_its_equation(seed):
    given, norms, seen = lesson(seed)
    student, teacher = given.student.logits, given.teacher.logits
    sure = -sum(softmax(row)[int(row.argmax())].log() for row in teacher) / SAMPLES
    distances = [norm_distance(norm, x) for norm, x in zip(norms, seen, strict=True)]
    wanted = (
        paced_kd(student, teacher) + sure + 20 * balance(teacher)
        + 10 * sum(distances) / len(distances) + 0.1 * relation(given)
    )  # fmt: skip
    found = total_loss(build_method(NAME, OPTIONS).terms(given))
    assert found.item() == pytest.approx(wanted.item(), rel=1e-9)
    heads = [
        p for who in ("student", "teacher") for p in given.adapters[f"{who}_head"].parameters()
    ]
    leaves = [*given.student[1:3], *given.teacher[1:3], *seen, *heads]
    for got, expected in zip(
        torch.autograd.grad(found, leaves), torch.autograd.grad(wanted, leaves), strict=True
    ):
        torch.testing.assert_close(got, expected, rtol=1e-6, atol=1e-9)


def test_images_of_remembered_moments_have_no_gap():
    norm, x = nn.BatchNorm2d(3).double(), draw(torch.Generator().manual_seed(0), 4, 3, 5, 5)
    norm.momentum = 1.0
    norm(x)
    norm.running_var *= (x.numel() / 3 - 1) / (x.numel() / 3)  # it remembers the unbiased one
    gaps = norm_gaps(norm.eval(), x).requires_grad_()
    assert norms_loss((gaps,)).item() == pytest.approx(0, abs=1e-12)
    exact = torch.zeros_like(gaps, requires_grad=True)
    norms_loss((exact,)).backward()
    assert (exact.grad == 0).all()


def test_moments_leave_no_hook_and_no_trace():
    network = freeze(build_backbone(NetworkConfig("test_resnet", "none"), 3))
    images = torch.rand(2, 3, 32, 32)
    plain, watched = network(images), with_norms(network, images)
    assert all(map(torch.equal, plain[:3], watched[:3]))
    assert len(watched.norms) == 15
    assert not any(module._forward_pre_hooks for module in network.modules())


def test_what_reaches_the_images_through_the_student_is_turned_round():
    images = torch.rand(2, 3, requires_grad=True)
    assert torch.equal(Turned.apply(images, 0.7), images)
    (Turned.apply(images, 0.7) * torch.arange(3.0)).sum().backward()
    assert torch.equal(images.grad, -0.7 * torch.arange(3.0).expand(2, 3))


def test_the_negatives_grow_harder_and_the_adversary_stronger():
    moments = [ramp(done, 0.25, 0.75) for done in (0.0, 0.25, 0.5, 0.75, 1.0)]
    assert moments == [0, 0, 0.5, 1, 1]
    assert [ramp(done, 0.5, 0.5) for done in (0.3, 0.5)] == [0, 1]
    random = torch.Generator().manual_seed(0)
    anchors, partners, bank = (draw(random, rows, WIDTH) for rows in (5, 5, 20))
    losses = [float(relation_loss(anchors, partners, bank, 0.1, 0.5, h)) for h in (0.0, 0.5, 1.0)]
    assert losses[0] < losses[1] < losses[2]


def test_no_pixel_and_no_label_is_looked_at():
    """Other images and labels in the batch: the same terms, the same step, the same statistics."""
    states = []
    for images, labels in ((0.0, 0), (1.0, 2)):
        room = classroom(build_method(NAME))
        room.batch = room.batch._replace(
            images=torch.full_like(room.batch.images, images),
            target=torch.full_like(room.batch.target, labels),
        )
        losses = room.train(1)
        states.append((losses, copy.deepcopy(room.learner.state_dict())))
    (one, first), (two, second) = states
    assert one == two
    assert all(torch.equal(value, second[key]) for key, value in first.items())


def test_the_student_and_the_generator_each_lower_their_own():
    calm = classroom(build_method(NAME, {"adversary_scale": 0, "relation_weight": 0}))
    before = calm.all_terms()
    calm.train(20)
    after = calm.all_terms()
    assert after["kd"][1] < 0.3 * before["kd"][1]
    assert after["norms"][1] < before["norms"][1]


def test_the_adversary_finds_images_that_the_student_gets_wrong():
    only = {"sure_weight": 0, "balance_weight": 0, "norms_weight": 0, "relation_weight": 0}
    room = classroom(build_method(NAME, only))
    room.learner.student.requires_grad_(False)
    losses = room.train(10)
    assert losses[-1] > 1.2 * losses[0]


def test_an_images_noise_is_the_same_in_any_share():
    rows = torch.tensor([7, 3, 11, 3])
    batch = Batch(torch.zeros(4, 1, 3, 2, 2), torch.zeros(4, dtype=torch.int64), [""] * 4, rows)
    torch.manual_seed(5)
    whole = row_noise(batch)
    torch.manual_seed(5)
    share = row_noise(batch._replace(images=batch.images[2:], rows=rows[2:]))
    assert torch.equal(whole[2:], share)
    assert torch.equal(whole[1], whole[3])
    assert not torch.equal(whole, row_noise(batch))


def test_the_oldest_negatives_are_replaced():
    bank = NegativeBank(4)
    kept = bank.rows.clone()
    one = torch.ones(1, EMBEDDING)
    bank.add(torch.cat([one, 2 * one, 3 * one]))
    assert [float(row[0]) for row in bank.rows[:3]] == [1, 2, 3]
    assert torch.equal(bank.rows[3], kept[3])
    bank.add(torch.cat([4 * one, 5 * one]))
    assert [float(row[0]) for row in bank.rows] == [5, 2, 3, 4]
    bank.add(torch.cat([k * one for k in range(6, 12)]))
    assert sorted(float(row[0]) for row in bank.rows) == [8, 9, 10, 11]


def test_made_images_are_in_range_and_of_the_batchs_size():
    room = classroom(build_method(NAME))
    shown = room.learner.method.show(room.batch, room.learner.adapters, 1.0)
    assert shown.images.shape == (len(room.batch.target), 2, *room.batch.images.shape[2:])
    assert 0 <= shown.images.min() < shown.images.max() <= 1
    assert torch.equal(shown.for_student(), shown.for_teacher())
    assert Generator()(torch.randn(2, 256)).shape == (2, 3, 64, 64)


def test_answers_about_made_images_are_not_kept(tmp_path):
    room = classroom(build_method(NAME))
    cache = TeacherCache(room.teach, tmp_path / "answers", steps=1)
    (taps,) = cache(room.learner.method.show(room.batch, room.learner.adapters, 1.0))
    assert taps.logits.requires_grad
    assert not list((tmp_path / "answers").iterdir())


def test_larger_images_are_refused_before_any_is_read(tmp_path):
    config = small.config(tmp_path, NAME, data=small.data_config(folder="nowhere", px=65))
    with pytest.raises(ConfigError, match=r"data\.px is 65; adadfkd is made for at most 64"):
        distill(config, progress=False)
    config = replace(config, data=replace(config.data, px=64))
    with pytest.raises(Exception, match="nowhere"):
        distill(config, progress=False)


def test_a_teacher_without_batch_norm_is_refused():
    teacher = build_backbone(NetworkConfig("test_convnext", "none"), 3)
    with pytest.raises(ConfigError, match="ConvNeXt has none"):
        build_method(NAME).enrol(teacher, teacher)
    assert build_method(NAME, {"norms_weight": 0}).enrol(teacher, teacher) is teacher
