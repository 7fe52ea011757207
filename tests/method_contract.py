"""What every method must keep, whoever wrote it; each check takes a name in METHODS.

tests/test_methods.py runs the checks over all of METHODS, tests/test_add_a_method.py over the
method that docs/add-a-method.md adds.
"""

import copy
import json
import math
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields

import pytest
import torch
from torch import Tensor, nn

from dermdistill.config import NetworkConfig, StudentConfig, to_dict
from dermdistill.errors import ConfigError
from dermdistill.methods import METHODS, Method, build_method
from dermdistill.models import Backbone, build_backbone, freeze
from dermdistill.train import Learner
from dermdistill.types import Batch, Taps, total_loss

PX, IMAGES, CLASSES = 48, 8, 3
OVERFIT_STEPS, OVERFIT_LR = 30, 3e-3
# Of the first loss, what may be left after the steps. Every term but the view contrast can go to
# 0; plain cross entropy leaves about a tenth.
OVERFIT_LEFT = 0.7


@dataclass
class Classroom:
    """A method with all that it needs for a step; networks without download."""

    learner: Learner
    teacher: Backbone | None
    pretext: nn.ModuleDict | None
    batch: Batch

    def taught(self) -> Taps | None:
        """The teacher's taps, as the loop computes them."""
        with torch.no_grad():
            return None if self.teacher is None else self.teacher(self.batch.flat())

    def loss(self) -> Tensor:
        """The loss of the batch."""
        return total_loss(self.learner(self.batch, self.taught()))

    def train(self, steps: int, lr: float = OVERFIT_LR) -> list[float]:
        """Real steps of an optimiser; the loss before each."""
        optimiser = torch.optim.Adam(self.learner.parameters(), lr)
        losses = []
        for _ in range(steps):
            loss = self.loss()
            optimiser.zero_grad(set_to_none=True)
            loss.backward()
            optimiser.step()
            losses.append(float(loss.detach()))
        return losses


def images(count: int, views: int, seed: int = 0) -> Batch:
    """Noisy colours: the class shows in the colour, the image in its noise."""
    random = torch.Generator().manual_seed(seed)
    target = torch.arange(count) % CLASSES
    colour = torch.eye(3)[target % 3].view(count, 1, 3, 1, 1) * 0.4 + 0.2
    noise = torch.rand(count, 1, 3, PX, PX, generator=random) * 0.4
    upright = colour + noise
    turned = [torch.rot90(upright, v, dims=(3, 4)) for v in range(views)]
    return Batch(torch.cat(turned, dim=1), target, [f"image{i}" for i in range(count)])


def classroom(method: Method, student: bool = True, count: int = IMAGES) -> Classroom:
    """Everything a stage trains with, as the package's stages put it together."""
    torch.manual_seed(0)
    teacher = pretext = None
    if method.teacher != "none":
        teacher = freeze(build_backbone(NetworkConfig("test_resnet", "none"), CLASSES))
    widths = teacher and teacher.widths(PX)
    network = build_backbone(NetworkConfig("test_efficientnet", "none"), CLASSES)
    if method.pretext() is not None:
        pretext = freeze(nn.ModuleDict(method.pretext().adapters(None, widths)))
    learner = Learner(
        network if student else None,
        method.adapters(network.widths(PX) if student else None, widths),
        method,
        torch.tensor([1.0, 2.0, 0.5]),
        pretext,
    )
    return Classroom(learner.train(), teacher, pretext, images(count, method.views))


def weights_of(method: Method) -> list[str]:
    """The names of a method's weights."""
    return [field.name for field in fields(method) if field.name.endswith("_weight")]


def check_terms_and_gradients_are_finite(name: str) -> None:
    """Every term is a finite scalar, and so is the gradient of every trained parameter."""
    room = classroom(build_method(name))
    terms = room.learner(room.batch, room.taught())
    assert terms
    for value in terms.values():
        assert value[1].shape == ()
        assert value[1].isfinite()
    total_loss(terms).backward()
    for parameter, value in room.learner.named_parameters():
        assert value.grad is not None, f"{parameter} has no gradient"
        assert value.grad.isfinite().all(), f"the gradient of {parameter} is not finite"
    reached = [p.grad.abs().sum() > 0 for p in room.learner.student.parameters()]
    assert all(reached)


def check_finite_on_equal_images(name: str) -> None:
    """A batch of black images, which all networks see alike, gives no NaN and no infinity."""
    room = classroom(build_method(name))
    room.batch = room.batch._replace(images=torch.zeros_like(room.batch.images))
    loss = room.loss()
    assert loss.isfinite()
    loss.backward()
    assert all(p.grad.isfinite().all() for p in room.learner.parameters())


def check_finite_on_one_image(name: str) -> None:
    """So does the smallest batch there is."""
    room = classroom(build_method(name), count=1)
    loss = room.loss()
    assert loss.isfinite()
    loss.backward()
    assert all(p.grad.isfinite().all() for p in room.learner.parameters())


def check_teacher_stays_as_it_was(name: str) -> None:
    """Steps leave teacher and pretext bit-identical, without gradients, and out of reach."""
    room = classroom(build_method(name))
    frozen = [module for module in (room.teacher, room.pretext) if module is not None]
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
    whole = room.learner(room.batch, room.taught())
    weights = weights_of(room.learner.method)
    assert len(whole) == len(weights)
    removed = set()
    for weight in weights if len(weights) > 1 else ():
        room = classroom(build_method(name, {weight: 0}))
        terms = room.learner(room.batch, room.taught())
        (gone,) = whole.keys() - terms.keys()
        removed.add(gone)
        assert terms.keys() < whole.keys()
        assert all(terms[key][0] == whole[key][0] for key in terms)
        total_loss(terms).backward()
        idle = [key for key, p in room.learner.adapters.named_parameters() if p.grad is None]
        assert not idle, f"without {weight}, nothing trains {idle}"
    assert len(weights) == 1 or removed == whole.keys()


def check_loss_is_the_weighted_sum(name: str) -> None:
    """The loss is the sum of weight times value, and the weights are the hyper-parameters'."""
    room = classroom(build_method(name))
    terms = room.learner(room.batch, room.taught())
    total = 0.0
    for weight, value in terms.values():
        total += weight * value.detach().double().item()
    assert total_loss(terms).item() == pytest.approx(total, rel=1e-5)
    method = room.learner.method
    given = sorted(getattr(method, weight) for weight in weights_of(method))
    assert sorted(weight for weight, _ in terms.values()) == given


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
    bad = {"_weight": [-1.0], "_power": [-1.0], "_temperature": [0, -1.0], "_ratio": [2, -0.1]}
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
    losses = classroom(build_method(name)).train(OVERFIT_STEPS)
    assert all(map(math.isfinite, losses))
    assert losses[-1] < OVERFIT_LEFT * losses[0], losses


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
    check_it_explains_itself,
]
