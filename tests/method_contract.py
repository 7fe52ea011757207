"""What every method must keep, whoever wrote it; each check takes a name in METHODS.

tests/test_methods.py runs the checks over all of METHODS, tests/test_add_a_method.py over the
method that docs/add-a-method.md adds.
"""

import copy
import json
import math
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from dermdistill.config import NetworkConfig, StudentConfig, to_dict
from dermdistill.errors import ConfigError
from dermdistill.methods import METHODS, Method, build_method
from dermdistill.models import Backbone, MetadataEncoder, build_backbone, freeze
from dermdistill.train import Learner
from dermdistill.train.checkpoint import load_checkpoint, save_checkpoint
from dermdistill.train.teachers import ask
from dermdistill.types import Batch, Metadata, Taps, Terms, Views, total_loss

PX, IMAGES, CLASSES = 48, 8, 3
ROWS_AN_IMAGE = 3  # the batch is every third image of the training part that a method remembers
FROZEN = {"frozen": ["test_resnet"], "several": ["test_resnet", "test_convnext"]}
MOMENTS = (0.0, 0.5, 1.0)  # shares of the training at which every term shows at least once
OVERFIT_STEPS, OVERFIT_LR = 30, 3e-3
# Of the first loss, what may be left after the steps. Every term but the view contrast can go to
# 0; plain cross entropy leaves about a tenth.
OVERFIT_LEFT = 0.7


@dataclass
class Classroom:
    """A method with all that it needs for a step; networks without download."""

    learner: Learner
    teachers: list[Backbone]
    pretext: nn.ModuleDict | None
    batch: Batch

    def teach(self, batch: Batch) -> tuple[Taps, ...]:
        """The frozen teachers' taps, as the loop computes them."""
        return ask(self.teachers, batch, self.learner.method.stages)

    def terms(self, done_ratio: float = 1.0) -> Terms:
        """The terms of the batch at a moment; the same draws at every call."""
        torch.manual_seed(1)
        return self.learner(self.batch, self.teach, done_ratio)

    def loss(self) -> Tensor:
        """The loss of the batch at the end of the training, when every ramp is up."""
        return total_loss(self.terms())

    def all_terms(self, backward: bool = False) -> Terms:
        """Every term at the moment of its largest weight; gradients of all moments on demand."""
        found: Terms = {}
        for moment in MOMENTS:
            terms = self.terms(moment)
            if backward:
                total_loss(terms).backward()
            for name, (weight, value) in terms.items():
                if name not in found or weight > found[name][0]:
                    found[name] = (weight, value)
        return found

    def trained(self) -> dict[str, nn.Parameter]:
        """All that an optimiser changes, by name."""
        return {name: p for name, p in self.learner.named_parameters() if p.requires_grad}

    def train(self, steps: int, lr: float = OVERFIT_LR, optimiser=torch.optim.Adam) -> list[float]:
        """Real steps of an optimiser; the loss before each."""
        optimiser = optimiser(self.trained().values(), lr)
        losses = []
        for step in range(steps):
            loss = self.loss()
            optimiser.zero_grad(set_to_none=True)
            loss.backward()
            optimiser.step()
            self.learner.after_step(step + 1)
            losses.append(float(loss.detach()))
        return losses


def images(count: int, views: Views, seed: int = 0) -> Batch:
    """Noisy colours: the class shows in the colour, the image in its noise."""
    random = torch.Generator().manual_seed(seed)
    target = torch.arange(count) % CLASSES
    colour = torch.eye(3)[target % 3].view(count, 1, 3, 1, 1) * 0.4 + 0.2
    noise = torch.rand(count, 1, 3, PX, PX, generator=random) * 0.4
    upright = colour + noise
    stacked = [
        torch.rot90(upright, v, dims=(3, 4)) if views.turned else upright + 0.02 * v
        for v in range(views.count)
    ]
    ids, rows = [f"image{i}" for i in range(count)], ROWS_AN_IMAGE * torch.arange(count)
    return Batch(torch.cat(stacked, dim=1), target, ids, rows, views.apart)


def patients(count: int) -> Metadata:
    """As many patients; of every third nothing is known."""
    known = [(40.0 + i, "female" if i % 2 else "male", f"site {i % 4}") for i in range(count)]
    rows = [(np.nan, None, None) if i % 3 == 2 else row for i, row in enumerate(known)]
    age, sex, site = zip(*rows, strict=True)
    return Metadata(np.array(age), np.array(sex, object), np.array(site, object))


def classroom(
    method: Method,
    student: bool = True,
    count: int = IMAGES,
    seed: int = 0,
    teacher_metadata: str = "none",
) -> Classroom:
    """Everything a stage trains with, as the package's stages put it together.

    Args:
        method: the method.
        student: train a student, not adapters alone.
        count: images of the batch.
        seed: of the student's first weights.
        teacher_metadata: how frozen teachers read metadata.
    """
    torch.manual_seed(1)
    pretext, encoder = None, MetadataEncoder.of(patients(IMAGES))
    names = FROZEN.get(method.teacher, [])
    teachers = [
        freeze(
            build_backbone(NetworkConfig(n, "none", metadata=teacher_metadata), CLASSES, encoder)
        )
        for n in names
    ]
    widths = [teacher.widths(PX, method.stages) for teacher in teachers]
    if method.pretext() is not None:
        pretext = freeze(nn.ModuleDict(method.pretext().adapters(None, *widths)))
    torch.manual_seed(seed)
    first, *peers = (
        build_backbone(NetworkConfig("test_efficientnet", "none"), CLASSES)
        for _ in range(1 + method.peers)
    )
    batch = images(count, method.views)._replace(metadata=patients(count))
    learner = Learner(
        method,
        method.enrol(first, *teachers) if student else None,
        peers,
        widths,
        PX,
        batch.target.repeat_interleave(ROWS_AN_IMAGE),
        torch.tensor([1.0, 2.0, 0.5]),
        pretext,
    )
    return Classroom(learner.train(), teachers, pretext, batch)


def weights_of(method: Method) -> list[str]:
    """The names of a method's weights."""
    return [field.name for field in fields(method) if field.name.endswith("_weight")]


def check_terms_and_gradients_are_finite(name: str) -> None:
    """Every term is a finite scalar, and so is the gradient of every trained parameter."""
    room = classroom(build_method(name))
    terms = room.all_terms(backward=True)
    assert terms
    for value in terms.values():
        assert value[1].shape == ()
        assert value[1].isfinite()
    for parameter, value in room.trained().items():
        assert value.grad is not None, f"{parameter} has no gradient"
        assert value.grad.isfinite().all(), f"the gradient of {parameter} is not finite"
        if parameter.startswith("student."):
            assert value.grad.abs().sum() > 0, f"nothing reaches {parameter}"
    still = [p for p in room.learner.parameters() if not p.requires_grad]
    assert all(p.grad is None for p in still)


def check_finite_on_equal_images(name: str) -> None:
    """A batch of black images, which all networks see alike, gives no NaN and no infinity."""
    room = classroom(build_method(name))
    room.batch = room.batch._replace(images=torch.zeros_like(room.batch.images))
    assert all(value.isfinite() for _, value in room.all_terms(backward=True).values())
    assert all(p.grad.isfinite().all() for p in room.trained().values())


def check_finite_on_one_image(name: str) -> None:
    """So does the smallest batch there is."""
    room = classroom(build_method(name), count=1)
    assert all(value.isfinite() for _, value in room.all_terms(backward=True).values())
    assert all(p.grad.isfinite().all() for p in room.trained().values())
    assert all(map(math.isfinite, room.train(2)))


def check_teacher_stays_as_it_was(name: str) -> None:
    """Steps leave teacher and pretext bit-identical, without gradients, and out of reach."""
    room = classroom(build_method(name))
    frozen = [module for module in (*room.teachers, room.pretext) if module is not None]
    before = [copy.deepcopy(module.state_dict()) for module in frozen]
    student = copy.deepcopy(room.learner.student.state_dict())
    room.learner.train()
    room.train(2)
    for module, state in zip(frozen, before, strict=True):
        assert not module.training
        assert all(p.grad is None and not p.requires_grad for p in module.parameters())
        assert all(torch.equal(value, state[key]) for key, value in module.state_dict().items())
    own = {id(p) for p in room.learner.parameters()}
    assert not own & {id(p) for module in frozen for p in module.parameters()}
    moved = room.learner.student.state_dict()
    assert any(not torch.equal(moved[key], student[key]) for key in student)


def check_weight_zero_removes_its_term(name: str) -> None:
    """Every weight switches exactly one term, and with it the adapters that only it used."""
    room = classroom(build_method(name))
    whole = room.all_terms()
    weights = weights_of(room.learner.method)
    assert len(whole) == len(weights)
    removed = set()
    for weight in weights if len(weights) > 1 else ():
        room = classroom(build_method(name, {weight: 0}))
        terms = room.all_terms(backward=True)
        (gone,) = whole.keys() - terms.keys()
        removed.add(gone)
        assert terms.keys() < whole.keys()
        assert all(terms[key][0] == whole[key][0] for key in terms)
        idle = [key for key, p in room.learner.adapters.named_parameters() if p.grad is None]
        assert not idle, f"without {weight}, nothing trains {idle}"
    assert len(weights) == 1 or removed == whole.keys()


def check_loss_is_the_weighted_sum(name: str) -> None:
    """The loss is the sum of weight times value, and the weights are the hyper-parameters'."""
    room = classroom(build_method(name))
    for terms in map(room.terms, MOMENTS):
        total = 0.0
        for weight, value in terms.values():
            total += weight * value.detach().double().item()
        assert total_loss(terms).item() == pytest.approx(total, rel=1e-5)
    method = room.learner.method
    given = sorted(getattr(method, weight) for weight in weights_of(method))
    assert sorted(weight for weight, _ in room.all_terms().values()) == given


def check_config_round_trip(name: str) -> None:
    """Hyper-parameters survive JSON and a config, and build an equal method."""
    changed = {key: value * 0.5 for key, value in asdict(build_method(name)).items()}
    method = build_method(name, changed)
    assert asdict(method) == changed
    whole = build_method(name, dict.fromkeys(changed, 1))
    assert all(type(value) is float for value in asdict(whole).values())  # one run, one name
    config = to_dict(StudentConfig(method=name, options=asdict(method)))
    read = json.loads(json.dumps(config))
    assert build_method(read["method"], read["options"]) == method
    assert build_method(name, {}) == METHODS[name]()


def check_bad_options_are_refused(name: str) -> None:
    """Every hyper-parameter refuses what its name forbids, and names itself and the value."""
    bad = {
        "_weight": [-1.0], "_power": [-1.0], "_temperature": [0, -1.0], "_ratio": [2, -0.1],
        "_scale": [-1.0], "_count": [0],
    }  # fmt: skip
    for field in fields(METHODS[name]):
        suffix = "_" + field.name.rpartition("_")[2]
        for value in [math.nan, math.inf, -math.inf, "1", None, True, *bad.get(suffix, [])]:
            with pytest.raises(ConfigError, match=field.name) as caught:
                build_method(name, {field.name: value})
            assert repr(value) in str(caught.value)
        with pytest.raises(ConfigError, match=f"did you mean '{field.name}'"):
            build_method(name, {field.name[:-1]: 1.0})


def check_all_weights_zero_is_refused(name: str) -> None:
    """A method with nothing to learn from is refused."""
    weights = weights_of(build_method(name))
    assert weights
    with pytest.raises(ConfigError, match=f"{name} has every weight at 0"):
        build_method(name, dict.fromkeys(weights, 0))


def check_overfits_eight_images(name: str) -> None:
    """A few steps on eight images bring the loss down clearly."""
    if METHODS[name].show is not Method.show:
        pytest.skip("it makes its images, against the student: its own test plays that game")
    losses = classroom(build_method(name)).train(OVERFIT_STEPS)
    assert all(map(math.isfinite, losses))
    # Where the target learns too, the first steps may go up.
    assert losses[-1] < OVERFIT_LEFT * max(losses[:3]), losses


def check_half_precision(name: str) -> None:
    """Under bf16 autocast, as recipes train: finite terms and gradients, and a memory in fp32."""
    room = classroom(build_method(name))
    with torch.autocast("cpu", torch.bfloat16):
        for moment in MOMENTS:
            terms = room.terms(moment)
            assert all(value.isfinite() for _, value in terms.values())
            total_loss(terms).backward()
            room.learner.after_step(1)
    assert all(p.grad.isfinite().all() for p in room.trained().values())
    floating = [b for b in room.learner.memory.buffers() if b.is_floating_point()]
    assert all(b.dtype == torch.float32 and b.isfinite().all() for b in floating)


def check_a_killed_training_continues_in_the_same_bits(name: str) -> None:
    """A checkpoint in mid epoch holds all that the next steps depend on, memory included."""
    whole, killed = (classroom(build_method(name)) for _ in range(2))
    sgd = {"lr": 1e-3, "optimiser": torch.optim.SGD}  # has no state of its own
    for room in (whole, killed):
        room.train(2, **sgd)
    with tempfile.TemporaryDirectory() as folder:
        save_checkpoint(Path(folder), {"learner": killed.learner.state_dict()})
        other = classroom(build_method(name), seed=7)
        other.learner.load_state_dict(load_checkpoint(Path(folder))["learner"])
    wanted, found = whole.train(2, **sgd), other.train(2, **sgd)
    assert found == wanted
    state = whole.learner.state_dict()
    assert all(torch.equal(v, state[key]) for key, v in other.learner.state_dict().items())
    assert not list(whole.learner.memory.parameters())
    kept = whole.learner.memory.state_dict().keys()
    assert kept == {key for key, _ in whole.learner.memory.named_buffers()}


def check_terms_remember_nothing(name: str) -> None:
    """Only `remember` changes the memory: the same batch twice has the same terms."""
    room = classroom(build_method(name))
    room.train(1)
    room.learner.eval()  # batch norm's statistics stay too
    before = copy.deepcopy(room.learner.state_dict())
    first, second = room.all_terms(), room.all_terms()
    assert all(torch.equal(first[key][1], second[key][1]) for key in first)
    assert all(torch.equal(v, before[key]) for key, v in room.learner.state_dict().items())


def check_it_explains_itself(name: str) -> None:
    """The listing has a sentence, the explanation an equation and a source."""
    method = METHODS[name]
    lines = method.__doc__.strip().splitlines()
    assert lines[0].endswith(".")
    assert any(line.strip().startswith("L = ") for line in lines)
    assert method.source


CHECKS: list[Callable[[str], None]] = [
    check_terms_and_gradients_are_finite,
    check_finite_on_equal_images,
    check_finite_on_one_image,
    check_teacher_stays_as_it_was,
    check_weight_zero_removes_its_term,
    check_loss_is_the_weighted_sum,
    check_config_round_trip,
    check_bad_options_are_refused,
    check_all_weights_zero_is_refused,
    check_overfits_eight_images,
    check_half_precision,
    check_a_killed_training_continues_in_the_same_bits,
    check_terms_remember_nothing,
    check_it_explains_itself,
]
