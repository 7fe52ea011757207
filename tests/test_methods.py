"""The contract of every method, their equations from torch's primitives, and golden values."""

import math
from dataclasses import asdict
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dermdistill.errors import ConfigError
from dermdistill.methods import METHODS, Lesson, build_method
from dermdistill.methods.view_pretext import ViewPretext
from dermdistill.types import Batch, Taps, Terms, total_loss
from method_contract import CHECKS, OVERFIT_STEPS, classroom
from rival_oracles import RIVALS

VIEWS = 4
HERE = ("supervised", "kd", "fitnet", "rkd", "d_kd", "sskd", "ssd_kd")  # those with `oracle` below


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_contract(check, name):
    check(name)


@pytest.mark.parametrize(("given", "meant"), [("ssdk", "ssd_kd"), ("fit_net", "fitnet")])
def test_unknown_method_suggests(given, meant):
    with pytest.raises(ConfigError, match=f"no method '{given}'; did you mean .*'{meant}'"):
        build_method(given)


def test_a_method_cannot_be_changed():
    with pytest.raises(AttributeError):
        build_method("kd").kd_weight = 1.0


@pytest.mark.parametrize("name", ["sskd", "ssd_kd"])
def test_pretext_only_where_a_term_reads_it(name):
    assert build_method(name).pretext() == ViewPretext()
    assert build_method(name, {"ss_weight": 0}).pretext() is None


def test_pretext_trains_its_head_alone():
    room = classroom(ViewPretext(), student=False)
    (teacher,) = room.teachers
    before = {key: value.clone() for key, value in teacher.state_dict().items()}
    losses = room.train(OVERFIT_STEPS)
    assert losses[-1] < losses[0] - 0.1
    assert losses[0] > math.log(1 + math.exp(-2) * 7)  # cosines end at 1 and -1
    names = [name for name, _ in room.learner.named_parameters()]
    assert names
    assert all(name.startswith("adapters.teacher_head.") for name in names)
    assert all(p.grad is not None for p in room.learner.parameters())
    assert all(torch.equal(v, before[k]) for k, v in teacher.state_dict().items())


class Stub(nn.Module):
    """A function in an adapter's place."""

    def __init__(self, function):
        super().__init__()
        self.forward = function


def connect(x: SimpleNamespace) -> Tensor:
    """The student's map behind a 1x1 connector, from primitives."""
    mapped = F.conv2d(x.s_map, x.conv_w, x.conv_b)
    return F.batch_norm(mapped, None, None, x.bn_w, x.bn_b, training=True, eps=1e-5).relu()


def project(x: SimpleNamespace, who: str, embedding: Tensor) -> Tensor:
    """An embedding behind the projection head of "s" or "t", from primitives."""
    of = {key: getattr(x, f"{who}_head{key}") for key in ("1_w", "1_b", "2_w", "2_b")}
    return F.linear(F.linear(embedding, of["1_w"], of["1_b"]).relu(), of["2_w"], of["2_b"])


def lesson(x: SimpleNamespace) -> Lesson:
    """The tensors as one step's lesson."""
    batch = len(x.target)
    views = len(x.s_logits) // batch
    return Lesson(
        batch=Batch(
            torch.zeros(batch, views, 3, 1, 1),
            x.target,
            list(map(str, range(batch))),
            torch.arange(batch),
        ),
        student=Taps(x.s_map, x.s_pool, x.s_logits),
        teachers=(Taps(x.t_map, x.t_pool, x.t_logits),),
        adapters=nn.ModuleDict(
            {
                "connector": Stub(lambda _: connect(x)),
                "student_head": Stub(lambda embedding: project(x, "s", embedding)),
                "teacher_head": Stub(lambda embedding: project(x, "t", embedding)),
                "projector": Stub(
                    lambda embedding: F.linear(embedding, x.projector_w, x.projector_b)
                ),
                "predictor": Stub(
                    lambda maps: (F.conv2d(maps, x.predictor_w[..., None, None]), x.predictor_v)
                ),
            }
        ),
        pretext=nn.ModuleDict({"teacher_head": Stub(lambda embedding: project(x, "t", embedding))}),
        class_weights=x.weight,
    )


def random_inputs(seed: int) -> SimpleNamespace:
    """Tensors of golden files' names, small."""
    random = torch.Generator().manual_seed(seed)

    def draw(*shape):
        return torch.randn(*shape, generator=random, dtype=torch.float64)

    n, classes, s, t, px = 5, 4, 6, 9, 3
    rows = n * VIEWS
    values = {
        "target": torch.randint(classes, (n,), generator=random),
        "weight": draw(classes).exp(),
        "s_map": draw(rows, s, px, px), "t_map": draw(rows, t, px, px).relu(),
        "s_pool": draw(rows, s), "t_pool": draw(rows, t),
        "s_logits": draw(rows, classes), "t_logits": 3 * draw(rows, classes),
        "conv_w": draw(t, s, 1, 1), "conv_b": draw(t), "bn_w": draw(t), "bn_b": draw(t),
    }  # fmt: skip
    for who, width in (("s", s), ("t", t)):
        for layer in "12":
            values[f"{who}_head{layer}_w"] = draw(width, width)
            values[f"{who}_head{layer}_b"] = draw(width)
    values |= {
        "projector_w": draw(t, s), "projector_b": draw(t),
        "predictor_w": draw(t, s), "predictor_v": draw(t).exp(),
    }  # fmt: skip
    return SimpleNamespace(**values)


# The terms from the equations, with torch's primitives and plain loops.


def weighted_ce(logits: Tensor, target: Tensor, weight: Tensor) -> Tensor:
    own = torch.stack([-row.log_softmax(0)[k] for row, k in zip(logits, target, strict=True)])
    return (weight[target] * own).sum() / weight[target].sum()


def kl(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    p, q = (teacher / temperature).softmax(1), (student / temperature).softmax(1)
    return temperature**2 * (p * (p.log() - q.log())).sum(1).mean()


def spaced(rows: Tensor) -> Tensor:
    n, none = len(rows), rows.new_zeros(())
    distances = torch.stack([
        none if i == j else (rows[i] - rows[j]).square().sum().sqrt()
        for i in range(n) for j in range(n)
    ]).unflatten(0, (n, n))  # fmt: skip
    return distances / distances[distances > 0].mean()


def cosines(rows: Tensor) -> Tensor:
    n = len(rows)
    unit = F.normalize(rows[None, :] - rows[:, None], dim=2)
    return torch.stack([unit[i] @ unit[i].T for i in range(n)])


def gram(maps: Tensor) -> Tensor:
    flat = maps.flatten(2)
    return flat @ flat.mT / flat[0].numel()


def relations(x: SimpleNamespace) -> Tensor:
    distance = F.smooth_l1_loss(spaced(x.s_pool), spaced(x.t_pool))
    return 25 * distance + 50 * F.smooth_l1_loss(cosines(x.s_pool), cosines(x.t_pool))


def channel_gram(x: SimpleNamespace) -> Tensor:
    return (gram(connect(x)) - gram(x.t_map)).square().mean().sqrt()


def turned(rows: Tensor) -> Tensor:
    return torch.stack([row for i, row in enumerate(rows) if i % VIEWS])


def view_cosines(embeddings: Tensor) -> Tensor:
    return F.cosine_similarity(turned(embeddings)[:, None], embeddings[::VIEWS][None], dim=2)


def trusted(scores: Tensor, own: list[int], keep_ratio: float) -> list[int]:
    rank = [int((row > row[k]).sum()) for row, k in zip(scores, own, strict=True)]
    wrong = sorted((r, i) for i, r in enumerate(rank) if r)
    kept = wrong[: int(len(wrong) * keep_ratio)]
    return [i for i, r in enumerate(rank) if not r] + [i for _, i in kept]


def view_kd(x: SimpleNamespace) -> Tensor:
    student = view_cosines(project(x, "s", x.s_pool))
    teacher = view_cosines(project(x, "t", x.t_pool))
    own = [i // (VIEWS - 1) for i in range(len(teacher))]
    rows = trusted(teacher, own, 0.75)
    assert len(rows) < len(own)
    return kl(student[rows], teacher[rows], 0.5)


def all_targets(x: SimpleNamespace) -> Tensor:
    return torch.stack([k for k in x.target for _ in range(VIEWS)])


def ssd_terms(x: SimpleNamespace) -> dict[str, Tensor]:
    return {
        "cross_entropy": weighted_ce(x.s_logits[::VIEWS], x.target, x.weight),
        "kd_upright": kl(x.s_logits[::VIEWS], x.t_logits[::VIEWS], 4.0),
        "kd_rotated": kl(turned(x.s_logits), turned(x.t_logits), 4.0),
        "view_kd": view_kd(x),
    }


def oracle(name: str, x: SimpleNamespace) -> Tensor:
    """A method's loss as facts and papers have it."""
    if name in RIVALS:
        return RIVALS[name](x, all_targets(x))
    ce = weighted_ce(x.s_logits, all_targets(x), x.weight)
    kd = kl(x.s_logits, x.t_logits, 5.0)
    if name == "supervised":
        return ce
    if name == "kd":
        return 0.5 * ce + 0.5 * kd
    if name == "fitnet":
        return (connect(x) - x.t_map).square().mean() + 0.01 * ce
    if name == "rkd":
        return relations(x) + 3 * ce
    if name == "d_kd":
        return 0.5 * ce + 0.5 * kd + relations(x) + 1000 * channel_gram(x)
    terms = ssd_terms(x)
    if name == "sskd":
        terms["cross_entropy"] = F.cross_entropy(x.s_logits[::VIEWS], x.target)
    scales = {"cross_entropy": 0.1, "kd_upright": 0.9, "kd_rotated": 2.7, "view_kd": 10.0}
    total = sum(scales[key] * terms[key] for key in scales)
    return total if name == "sskd" else total + relations(x) + 1000 * channel_gram(x)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("name", HERE)
def test_loss_is_its_equation(name, seed):
    x = random_inputs(seed)
    for tensor in (x.s_map, x.s_pool, x.s_logits):
        tensor.requires_grad_()
    found, wanted = total_loss(build_method(name).terms(lesson(x))), oracle(name, x)
    assert found.item() == pytest.approx(wanted.item(), rel=1e-9)
    tensors = (x.s_map, x.s_pool, x.s_logits)
    options = {"allow_unused": True, "materialize_grads": True}
    for got, expected in zip(
        torch.autograd.grad(found, tensors, **options),
        torch.autograd.grad(wanted, tensors, **options),
        strict=True,
    ):
        torch.testing.assert_close(got, expected, rtol=1e-6, atol=1e-9)


def test_each_hyper_parameter_reaches_its_place():
    x = random_inputs(7)
    base = total_loss(build_method("ssd_kd").terms(lesson(x)))
    for name, value in asdict(build_method("ssd_kd")).items():
        smaller = build_method("ssd_kd", {name: value * 0.3 or 1.0})
        assert total_loss(smaller.terms(lesson(x))) != pytest.approx(float(base), rel=1e-6), name


GOLDEN_TERMS = {
    "cross_entropy": "wce", "kd_upright": "kd_normal", "kd_rotated": "kd_rotated", "view_kd": "ss",
}  # fmt: skip


def golden_lessons(folder):
    for path in sorted((folder / "golden").glob("*.npz")):
        with np.load(path) as archive:
            arrays = {key: torch.from_numpy(archive[key]) for key in archive.files}
        names = [key for key in arrays if key.startswith("in.")]
        x = SimpleNamespace(**{key.removeprefix("in."): arrays[key] for key in names})
        yield arrays, lesson(x)


def close(found: Tensor, golden: Tensor) -> bool:
    return float(found) == pytest.approx(float(golden), rel=1e-9)


def test_methods_on_golden_inputs(shared_folder):
    files = list(golden_lessons(shared_folder))
    assert files
    for arrays, given in files:
        for name in ("kd", "fitnet", "rkd", "d_kd", "ssd_kd"):
            assert close(total_loss(build_method(name).terms(given)), arrays[f"out.{name}"]), name
        terms: Terms = build_method("ssd_kd").terms(given)
        for ours, theirs in GOLDEN_TERMS.items():
            assert close(terms[ours][1], arrays[f"out.ssd_kd.{theirs}"]), ours
        relational = ("rkd_distance", "rkd_angle", "channel_gram")
        for name in relational:
            assert close(terms[name][1], arrays[f"out.{name}"]), name
        dual = sum(terms[name][0] * terms[name][1] for name in relational)
        assert close(dual, arrays["out.ssd_kd.dual_relational"])
        assert close(total_loss(ViewPretext().terms(given)), arrays["out.stage1"])
