"""Methods with frozen teachers of the seeds' list against loops from their equations."""

import copy
import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from by_hand import cross_entropy, kd, mse, softmax
from dermdistill.config import NetworkConfig
from dermdistill.errors import ConfigError
from dermdistill.methods import Lesson, build_method
from dermdistill.methods.review_kd import hierarchical_loss
from dermdistill.methods.simkd import same_size
from dermdistill.methods.vadakd import Boosting, samme
from dermdistill.models import bridged, build_backbone
from dermdistill.types import Batch, Taps, Widths, total_loss

SAMPLES, CLASSES, IMAGES = 5, 4, 12
TARGET = torch.tensor([0, 3, 2, 2, 1])
ROWS = torch.tensor([2, 11, 7, 0, 5])
S, T, T2 = 6, 9, 7  # channels and embedding widths of student and teachers


class World:
    """A method with a lesson of random numbers in float64."""

    def __init__(self, name: str, teachers: int = 1, done_ratio: float = 1.0, seed: int = 0):
        random = torch.Generator().manual_seed(seed)

        def draw(*shape):
            return torch.randn(*shape, generator=random, dtype=torch.float64)

        def taps(width, stages):
            maps = tuple(draw(SAMPLES, c, px, px) for c, px in stages)
            return Taps(draw(SAMPLES, width, 3, 3), draw(SAMPLES, width),
                        2 * draw(SAMPLES, CLASSES), maps)  # fmt: skip

        torch.manual_seed(seed)
        self.method = build_method(name)
        sizes = [(S, ((3, 8), (5, 4))), (T, ((4, 8), (6, 5))), (T2, ((2, 8), (4, 4)))]
        widths = [Widths(w, 3, w, CLASSES, stages) for w, stages in sizes]
        student, *others = (taps(*size) for size in sizes[: teachers + 1])
        for tensor in (*student[:3], *student.stages):
            tensor.requires_grad_()
        adapters = self.method.adapters(*widths[: teachers + 1])
        memory = self.method.memory(widths[0], TARGET.repeat(3)[:IMAGES])
        self.student, self.teachers = student, others
        self.lesson = Lesson(
            batch=Batch(torch.zeros(SAMPLES, 1, 3, 1, 1), TARGET, [""] * SAMPLES, ROWS),
            student=student, teachers=tuple(others), pretext=None,
            adapters=nn.ModuleDict(adapters).double(), class_weights=draw(CLASSES).exp(),
            memory=nn.ModuleDict(memory).double(), done_ratio=done_ratio,
        )  # fmt: skip
        self.ce = cross_entropy(student.logits, TARGET, self.lesson.class_weights)

    def check(self, wanted: Tensor) -> None:
        """The loss and all its gradients are the oracle's."""
        torch.manual_seed(3)
        found = total_loss(self.method.terms(self.lesson))
        assert found.item() == pytest.approx(wanted.item(), rel=1e-9)
        leaves = [*self.student[:3], *self.student.stages, *self.lesson.adapters.parameters()]
        options = {"allow_unused": True, "materialize_grads": True}
        for got, expected in zip(
            torch.autograd.grad(found, leaves, **options),
            torch.autograd.grad(wanted, leaves, **options), strict=True,
        ):  # fmt: skip
            torch.testing.assert_close(got, expected, rtol=1e-6, atol=1e-9)


def test_multi_kd():
    x = World("multi_kd", teachers=2)
    total = 0.0
    for i, row in enumerate(x.student.logits):
        each = [softmax(taps.logits[i] / 5.0) for taps in x.teachers]
        mean = [sum(column) / 2 for column in zip(*each, strict=True)]
        agree = [
            math.exp(-sum(m * math.log(m / q) for m, q in zip(mean, p, strict=True)) / 0.1)
            for p in each
        ]  # fmt: skip
        mixed = [
            sum(a / sum(agree) * p[k] for a, p in zip(agree, each, strict=True))
            for k in range(CLASSES)
        ]
        own = softmax(row / 5.0)
        total += 25 * sum(m * (m / q).log() for m, q in zip(mixed, own, strict=True)) / SAMPLES
    x.check(0.5 * x.ce + 0.5 * total)


def test_teachers_that_agree_are_one_teacher():
    x = World("multi_kd", teachers=2)
    one = x.teachers[0]
    x.lesson = replace(x.lesson, teachers=(one, one, one))
    terms = x.method.terms(x.lesson)
    assert terms["kd"][1].item() == pytest.approx(
        kd(x.student.logits, one.logits, 5.0).item(), rel=1e-9
    )


def test_the_odd_teacher_out_is_heard_least():
    """Two that agree outvote a third, on that image alone."""
    x = World("multi_kd", teachers=2)
    agreed, odd = 8 * F.one_hot(TARGET, CLASSES).double(), 8 * F.one_hot(TARGET, CLASSES).double()
    odd[0] = odd[0].roll(1)
    a, b = (x.teachers[0]._replace(logits=z) for z in (agreed, odd))
    x.lesson = replace(x.lesson, teachers=(a, b, a))
    mixture = x.method._mixture(x.lesson).exp()
    assert mixture[0].argmax() == TARGET[0]
    plain = (2 * softmax_rows(agreed / 5) + softmax_rows(odd / 5)) / 3
    assert mixture[0, TARGET[0]] > plain[0, TARGET[0]] + 0.01
    torch.testing.assert_close(mixture[1:], plain[1:])


def softmax_rows(logits: Tensor) -> Tensor:
    return torch.stack([torch.stack(softmax(row)) for row in logits])


def aggregated(x: World) -> Tensor:
    """The aggregator with torch's own attention, one sample and one teacher at a time."""
    a = x.lesson.adapters["aggregator"]
    layer, rows = a.layer, []
    for i, y in enumerate(TARGET):
        tokens = []
        for linear, taps in zip(a.tokens, x.teachers, strict=True):
            token = linear.weight @ taps.embedding[i] + linear.bias
            tokens.append(token if taps.logits[i].argmax() == y else torch.zeros_like(token))
        h = torch.stack(tokens)
        n = F.layer_norm(h, (512,), layer.norm1.weight, layer.norm1.bias)
        q, k, v = (n @ layer.self_attn.in_proj_weight.T + layer.self_attn.in_proj_bias).chunk(3, 1)
        heads = [
            torch.softmax(q[:, s] @ k[:, s].T / math.sqrt(32), dim=1) @ v[:, s]
            for s in (slice(32 * j, 32 * (j + 1)) for j in range(16))
        ]
        out = layer.self_attn.out_proj
        h = h + torch.cat(heads, dim=1) @ out.weight.T + out.bias
        n = F.layer_norm(h, (512,), layer.norm2.weight, layer.norm2.bias)
        inner = F.gelu(n @ layer.linear1.weight.T + layer.linear1.bias)
        h = h + inner @ layer.linear2.weight.T + layer.linear2.bias
        norm, last = a.out
        mean = F.layer_norm(h.mean(0), (512,), norm.weight, norm.bias)
        rows.append(last.weight @ mean + last.bias)
    return torch.stack(rows)


def test_mtms():
    x = World("mtms", teachers=2)
    right = [taps.logits.argmax(1) == TARGET for taps in x.teachers]
    assert 0 < sum(int(r.sum()) for r in right) < 2 * SAMPLES, "no teacher is both right and wrong"
    fused = aggregated(x)
    h = x.lesson.adapters["classifier"]
    answers = torch.stack([h.weight @ row + h.bias for row in fused])
    x.check(
        x.ce
        + mse(x.student.embedding, fused.detach())
        + cross_entropy(answers, TARGET, x.lesson.class_weights)
    )


def test_dsp_kd_first_stage():
    x = World("dsp_kd", done_ratio=0.49)
    align, generator = x.lesson.adapters["align"], x.lesson.adapters["generator"]
    torch.manual_seed(3)
    kept = torch.rand(SAMPLES, T, 1, 1) >= 0.15
    assert 0 < kept.sum() < kept.numel()
    aligned = F.conv2d(x.student.map, align.weight, align.bias) * kept
    hidden = F.conv2d(aligned, generator[0].weight, generator[0].bias, padding=1).clamp_min(0)
    made = F.conv2d(hidden, generator[2].weight, generator[2].bias, padding=1)
    x.check(x.ce + 7e-5 * mse(made, x.teachers[0].map) * made[0].numel())


def test_dsp_kd_second_stage():
    x = World("dsp_kd", done_ratio=0.5)
    total = 0.0
    for s, t, y in zip(x.student.logits, x.teachers[0].logits, TARGET, strict=True):
        p, q = softmax(s), softmax(t)
        total -= q[y] * p[y].log()
        for k in range(CLASSES):
            if k != y:
                total -= 1.5 * q[k] / (1 - q[y]) * (p[k] / (1 - p[y])).log()
    x.check(x.ce + total / SAMPLES)


def test_dsp_kd_without_maps_starts_with_the_outputs():
    x = World("dsp_kd", done_ratio=0.0)
    method = build_method("dsp_kd", {"feature_weight": 0})
    assert set(method.terms(x.lesson)) == {"cross_entropy", "target_kd", "others_kd"}


def boosted(wrong: list[list[bool]], error: list[float], classes: int, scale: float):
    """SAMME over a batch, one stage and one sample at a time."""
    weights = [1.0] * len(wrong)
    columns, errors = [list(weights)], []
    for stage in range(len(wrong[0])):
        now = sum(w for w, row in zip(weights, wrong, strict=True) if row[stage]) / sum(weights)
        e = 0.9 * error[stage] + 0.1 * now
        errors.append(e)
        say = max(math.log((1 - e) / e) + math.log(classes - 1), 0.0)
        weights = [w * math.exp(scale * say * row[stage])
                   for w, row in zip(weights, wrong, strict=True)]  # fmt: skip
        columns.append(list(weights))
    return columns, errors


def test_samme():
    random = torch.Generator().manual_seed(0)
    wrong = torch.rand(9, 3, generator=random) < 0.4
    error = torch.tensor([0.3, 0.2, 0.74]).double()
    columns, errors = boosted(wrong.tolist(), error.tolist(), CLASSES, 0.5)
    found = samme(wrong, error, CLASSES, 0.5).exp()
    torch.testing.assert_close(found, torch.tensor(columns).double().T)
    torch.testing.assert_close(error, torch.tensor(errors).double())


def test_vadakd():
    x = World("vadakd")
    boosting = x.lesson.memory["boosting"]
    boosting.log_weight.copy_(torch.randn(IMAGES, 3))
    weights = boosting.log_weight.exp()[ROWS]
    weights = weights / weights.sum(0)
    total = x.ce
    for m, stage in enumerate(x.student.stages):
        h = x.lesson.adapters[f"stage_{m}"]
        for i, y in enumerate(TARGET):
            pooled = torch.stack([channel.sum() / channel.numel() for channel in stage[i]])
            total = total - 0.5 * weights[i, m] * softmax(h.weight @ pooled + h.bias)[y].log() / 2
    for i in range(SAMPLES):
        one = slice(i, i + 1)
        divergence = kd(x.student.logits[one], x.teachers[0].logits[one], 4.0)
        total = total + weights[i, -1] * divergence
    x.check(total)


def test_vadakd_remembers_how_hard_an_image_is():
    x = World("vadakd")
    boosting: Boosting = x.lesson.memory["boosting"]
    before = copy.deepcopy(boosting)
    with torch.no_grad():
        x.method.remember(x.lesson)
        wrong = torch.stack([
            x.lesson.adapters[f"stage_{m}"](stage.mean((2, 3))).argmax(1) != TARGET
            for m, stage in enumerate(x.student.stages)
        ], dim=1)  # fmt: skip
    columns, errors = boosted(wrong.tolist(), before.error.tolist(), CLASSES, 0.5)
    torch.testing.assert_close(boosting.log_weight[ROWS].exp(), torch.tensor(columns).double().T)
    torch.testing.assert_close(boosting.error, torch.tensor(errors).double())
    rest = [row for row in range(IMAGES) if row not in ROWS.tolist()]
    assert torch.equal(boosting.log_weight[rest], before.log_weight[rest])


def norm(x: Tensor, layer: nn.BatchNorm2d) -> Tensor:
    return F.batch_norm(x, None, None, layer.weight, layer.bias, training=True)


def test_review_kd():
    x = World("review_kd")
    deeper, total = None, x.ce
    for depth, (own, wanted) in enumerate(
        zip(x.student.stages[::-1], x.teachers[0].stages[::-1], strict=True)
    ):
        fusion = x.lesson.adapters[f"fusion_{depth}"]
        h = norm(F.conv2d(own, fusion.enter[0].weight), fusion.enter[1])
        if deeper is not None:
            scale = h.shape[-1] // deeper.shape[-1]
            grown = deeper.repeat_interleave(scale, 2).repeat_interleave(scale, 3)
            both = torch.cat((h, grown), dim=1)
            gates = torch.sigmoid(F.conv2d(both, fusion.gates.weight, fusion.gates.bias))
            h = h * gates[:, 0:1] + grown * gates[:, 1:2]
        deeper, px = h, wanted.shape[-1]
        places = [int(p * h.shape[-1] / px) for p in range(px)]
        h = h[:, :, places][..., places]
        fused = norm(F.conv2d(h, fusion.leave[0].weight, padding=1), fusion.leave[1])
        level, weights = mse(fused, wanted), 1.0
        for step, side in enumerate([s for s in (4, 2, 1) if s < px], start=1):
            pooled = [F.adaptive_avg_pool2d(z, side) for z in (fused, wanted)]
            level = level + 0.5**step * mse(*pooled)
            weights += 0.5**step
        total = total + level / weights
    x.check(total)


def test_review_kd_rises_from_nothing():
    weights = [
        World("review_kd", done_ratio=d).method.terms(World("review_kd", done_ratio=d).lesson)
        for d in (0.0, 10 / 240, 0.5)
    ]
    assert "review" not in weights[0]
    assert [terms["review"][0] for terms in weights[1:]] == pytest.approx([0.5, 1.0])


def test_equal_maps_have_no_hierarchical_loss():
    maps = torch.randn(2, 3, 7, 7)
    assert hierarchical_loss(maps, maps) == 0


def network(name: str, seed: int = 0):
    torch.manual_seed(seed)
    return build_backbone(NetworkConfig(name, "none"), CLASSES).eval()


def test_simkd_answers_as_the_teacher_where_its_map_is_the_teachers():
    student, teacher = network("test_efficientnet"), network("test_resnet", 1)
    student = bridged(student, teacher).eval()
    images = torch.rand(2, 3, 64, 64)
    wanted = teacher(images)
    student.bridge.projector = nn.Identity()
    found = student.bridge(wanted.map)
    torch.testing.assert_close(found[2], wanted.logits)
    torch.testing.assert_close(found[1], wanted.embedding)


def test_simkd_is_its_equation_and_leaves_the_classifier():
    student, teacher = network("test_efficientnet"), network("test_resnet", 1)
    student = bridged(student, teacher)
    images = torch.rand(3, 3, 64, 64)
    taps, taught = student(images), teacher(images)
    batch = Batch(images[:, None], TARGET[:3], [""] * 3, torch.arange(3))
    lesson = Lesson(batch, taps, (taught,), nn.ModuleDict(), None, torch.ones(CLASSES))
    loss = total_loss(build_method("simkd").terms(lesson))
    assert loss.item() == pytest.approx(mse(taps.map, taught.map).item(), rel=1e-4)
    assert not any(p.requires_grad for p in student.bridge.classifier.parameters())
    classifier = teacher.network.get_classifier()
    assert torch.equal(student.bridge.classifier.weight, classifier.weight)
    assert student.bridge.classifier.weight.data_ptr() != classifier.weight.data_ptr()


def test_simkd_compares_maps_at_the_smaller_size():
    big, small = torch.rand(2, 3, 8, 8), torch.rand(2, 3, 4, 4)
    for pair in ((big, small), (small, big)):
        assert [z.shape[-1] for z in same_size(*pair)] == [4, 4]
    torch.testing.assert_close(same_size(big, small)[0][0, 0, 0, 0], big[0, 0, :2, :2].mean())


def test_simkd_refuses_a_classifier_that_reads_something_else():
    with pytest.raises(ConfigError, match="cannot lend its classifier"):
        bridged(network("test_efficientnet"), network("test_convnext"))
