"""What a method is: what it trains beside the student, and its weighted terms."""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, fields
from typing import Any, ClassVar, Literal

from jaxtyping import Float, Int64
from torch import Tensor, nn

from dermdistill.errors import ConfigError, unknown_name
from dermdistill.models import Backbone
from dermdistill.types import Batch, Taps, Terms, Views, Widths

ALLOWED = {
    "_weight": ("at least 0", lambda value: value >= 0),
    "_temperature": ("above 0", lambda value: value > 0),
    "_power": ("at least 0", lambda value: value >= 0),
    "_ratio": ("in [0, 1]", lambda value: 0 <= value <= 1),
    "_scale": ("at least 0", lambda value: value >= 0),
    "_count": ("at least 1", lambda value: value >= 1),
}  # a hyper-parameter's suffix says its range


TEACHERS = {
    "frozen": "one trained network that stays as it is",
    "several": "two or more of them",
    "average": "a moving average of the student; the field `teacher_decay_ratio` says how slow",
    "self": "the student itself, on other views and without gradient",
    "none": "nobody",
}


@dataclass(frozen=True)
class Lesson:
    """All that a method sees of one step.

    Attributes:
        batch: the images and their targets.
        student: the student's taps on its views, image-major; None while a pretext is fitted.
        teachers: the taps of all who teach, without gradient; empty if nobody does.
        adapters: what `Method.adapters` built, in training.
        pretext: what the pretext stage trained, frozen; None if the method asks for none.
        class_weights: N / N_class of the training part, raised to the configured power.
        peers: the taps of those who learn beside the student, with gradient.
        memory: what `Method.memory` built; `Method.remember` changes it, `terms` reads it.
        done_ratio: share of the training's steps that lie behind, in [0, 1].
    """

    batch: Batch
    student: Taps | None
    teachers: tuple[Taps, ...]
    adapters: nn.ModuleDict
    pretext: nn.ModuleDict | None
    class_weights: Float[Tensor, " classes"]
    peers: tuple[Taps, ...] = ()
    memory: nn.ModuleDict = field(default_factory=nn.ModuleDict)
    done_ratio: float = 0.0

    @property
    def teacher(self) -> Taps:
        """The taps of the first who teaches, for most methods the only one."""
        return self.teachers[0]

    @property
    def views(self) -> int:
        """Views of each image that the student sees."""
        return self.batch.views

    @property
    def targets(self) -> Tensor:
        """The class of every row of the taps: each image's, once a view."""
        return self.batch.target.repeat_interleave(self.views)


@dataclass(frozen=True)
class Method(ABC):
    """A way to train a student; the fields of a subclass are its hyper-parameters, all floats.

    Class attributes:
        teacher: who teaches, a key of TEACHERS.
        peers: how many networks like the student learn beside it; they are dropped after.
        views: views of every image in a training batch.
        stages: whether taps shall hold the networks' stages.
        norms: whether the frozen teachers' taps shall hold what their batch norms see.
        max_px: side of the largest images that it can be asked for; None sets no limit.
        source: paper and equation.
        sure: how the definition is known: read in the "code" of its authors, from the equations of
            the "paper", or our own "reading" of a paper of which only the idea could be read.
    """

    teacher: ClassVar[Literal["frozen", "several", "average", "self", "none"]] = "frozen"
    peers: ClassVar[int] = 0
    views: ClassVar[Views] = Views()
    stages: ClassVar[bool] = False
    norms: ClassVar[bool] = False
    max_px: ClassVar[int | None] = None
    source: ClassVar[str]
    sure: ClassVar[Literal["code", "paper", "reading"]] = "code"

    def __post_init__(self) -> None:
        """Refuse hyper-parameters outside the range that their names promise."""
        for option in fields(self):
            _checked(option.name, getattr(self, option.name))

    def enrol(self, student: Backbone, *teachers: Backbone) -> Backbone:
        """The network that is trained, judged and kept: the student as it is, by default.

        Args:
            student: the network of the config, before its first step.
            teachers: the frozen teachers.
        """
        return student

    def adapters(self, student: Widths | None, *teachers: Widths) -> dict[str, nn.Module]:
        """Modules trained beside the student and dropped after; none by default.

        A method with one teacher may write `teacher` for `*teachers`.
        """
        return {}

    def memory(self, student: Widths, labels: Int64[Tensor, " images"]) -> dict[str, nn.Module]:
        """What is remembered from step to step, as buffers; none by default.

        Args:
            student: the student's sizes.
            labels: the class of every training image, in the order that `Batch.rows` counts.
        """
        return {}

    def pretext(self) -> "Method | None":
        """A method to fit first on the frozen teacher alone; its adapters then stay frozen."""
        return None

    def vary(
        self, images: Float[Tensor, "batch views 3 rows cols"]
    ) -> Float[Tensor, "batch views 3 rows cols"]:
        """The method's own change of training views, after the configured one; none by default."""
        return images

    def show(self, batch: Batch, adapters: nn.ModuleDict, done_ratio: float) -> Batch:
        """What all networks see of a training batch; the batch itself by default.

        A method that makes images puts them here. Where they have a gradient, the frozen teachers'
        taps let it through, and hold `norms`.
        """
        return batch

    @abstractmethod
    def terms(self, lesson: Lesson) -> Terms:
        """This step's terms, each with its weight; one of weight 0 is left out, not computed."""

    def remember(self, lesson: Lesson) -> None:  # noqa: B027 (most methods remember nothing)
        """Bring `lesson.memory` up to date after the optimiser's step, without gradient."""


def _checked(name: str, value: Any) -> float:
    """A hyper-parameter's value, if it is in the range that its name promises."""
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if not number or not math.isfinite(value):
        raise ConfigError(f"{name} is {value!r}; it must be a finite number")
    for suffix, (allowed, holds) in ALLOWED.items():
        if name.endswith(suffix) and not holds(value):
            raise ConfigError(f"{name} is {value!r}; it must be {allowed}")
    return float(value)  # so that 1 and 1.0 name the same run


def weigh(terms: dict[str, tuple[float, Callable[[], Tensor]]]) -> Terms:
    """Compute the terms whose weight is not 0: an ablated term costs nothing."""
    return {name: (weight, value()) for name, (weight, value) in terms.items() if weight}


def configure(name: str, method: type[Method], options: dict[str, Any]) -> Method:
    """A method with some of its hyper-parameters set.

    Raises:
        ConfigError: there is no such hyper-parameter, its value is out of range, or no term is
            left.
    """
    known = [option.name for option in fields(method)]
    for option in options:
        if option not in known:
            raise unknown_name(f"hyper-parameter of {name}", option, known)
    configured = method(**{option: _checked(option, value) for option, value in options.items()})
    weights = [value for key, value in asdict(configured).items() if key.endswith("_weight")]
    if weights and not any(weights):
        raise ConfigError(f"{name} has every weight at 0, so there is nothing to learn from")
    return configured
