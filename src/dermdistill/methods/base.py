"""What a method is: what it trains beside the student, and its weighted terms."""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields
from typing import Any, ClassVar, Literal

from jaxtyping import Float
from torch import Tensor, nn

from dermdistill.errors import ConfigError, unknown_name
from dermdistill.types import Batch, Taps, Terms, Widths

ALLOWED = {
    "_weight": ("at least 0", lambda value: value >= 0),
    "_temperature": ("above 0", lambda value: value > 0),
    "_power": ("at least 0", lambda value: value >= 0),
    "_ratio": ("in [0, 1]", lambda value: 0 <= value <= 1),
}  # a hyper-parameter's suffix says its range


@dataclass(frozen=True)
class Lesson:
    """All that a method sees of one step.

    Attributes:
        batch: the images and their targets.
        student: the student's taps on all views, image-major; None while a pretext is fitted.
        teacher: the teacher's taps on the same views, without gradient; None if nobody teaches.
        adapters: what `Method.adapters` built, in training.
        pretext: what the pretext stage trained, frozen; None if the method asks for none.
        class_weights: N / N_class of the training part, raised to the configured power.
    """

    batch: Batch
    student: Taps | None
    teacher: Taps | None
    adapters: nn.ModuleDict
    pretext: nn.ModuleDict | None
    class_weights: Float[Tensor, " classes"]

    @property
    def views(self) -> int:
        """Views of each image in this batch."""
        return self.batch.views

    @property
    def targets(self) -> Tensor:
        """The class of every row of the taps: each image's, once a view."""
        return self.batch.target.repeat_interleave(self.views)


@dataclass(frozen=True)
class Method(ABC):
    """A way to train a student; the fields of a subclass are its hyper-parameters, all floats.

    Class attributes:
        teacher: who teaches: "frozen", a trained network that stays as it is, or "none".
        views: views of every image in a training batch.
        source: paper and equation.
    """

    teacher: ClassVar[Literal["frozen", "none"]] = "frozen"
    views: ClassVar[int] = 1
    source: ClassVar[str]

    def __post_init__(self) -> None:
        """Refuse hyper-parameters outside the range that their names promise."""
        for field in fields(self):
            _checked(field.name, getattr(self, field.name))

    def adapters(self, student: Widths | None, teacher: Widths | None) -> dict[str, nn.Module]:
        """Modules trained beside the student and dropped after; none by default."""
        return {}

    def pretext(self) -> "Method | None":
        """A method to fit first on the frozen teacher alone; its adapters then stay frozen."""
        return None

    @abstractmethod
    def terms(self, lesson: Lesson) -> Terms:
        """This step's terms, each with its weight; one of weight 0 is left out, not computed."""


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
    known = [field.name for field in fields(method)]
    for option in options:
        if option not in known:
            raise unknown_name(f"hyper-parameter of {name}", option, known)
    configured = method(**{option: _checked(option, value) for option, value in options.items()})
    weights = [value for key, value in asdict(configured).items() if key.endswith("_weight")]
    if weights and not any(weights):
        raise ConfigError(f"{name} has every weight at 0, so there is nothing to learn from")
    return configured
