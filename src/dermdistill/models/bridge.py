"""A student that answers through a projector and its teacher's classifier (SimKD)."""

import copy

from jaxtyping import Float
from torch import Tensor, nn

from dermdistill.errors import ConfigError

REDUCTION = 2  # of the channels between the projector's outer convolutions


class Bridge(nn.Module):
    """What stands on a student's map: three convolutions and a frozen linear classifier.

    Args:
        student: channels of the student's map.
        teacher: channels of the teacher's map, which its classifier reads the mean of.
        classes: outputs of the classifier.

    Source: SimKD (arXiv:2203.14001), figure 3 and its official code.
    """

    def __init__(self, student: int, teacher: int, classes: int):
        super().__init__()
        middle = max(teacher // REDUCTION, 1)
        self.projector = nn.Sequential(
            nn.Conv2d(student, middle, 1, bias=False), nn.BatchNorm2d(middle), nn.ReLU(),
            nn.Conv2d(middle, middle, 3, padding=1, bias=False), nn.BatchNorm2d(middle), nn.ReLU(),
            nn.Conv2d(middle, teacher, 1, bias=False), nn.BatchNorm2d(teacher), nn.ReLU(),
        )  # fmt: skip
        self.classifier = nn.Linear(teacher, classes).requires_grad_(False)

    @classmethod
    def between(cls, student_channels: int, teacher_classifier: nn.Module) -> "Bridge":
        """A bridge from a student's map to a copy of a teacher's classifier.

        Raises:
            ConfigError: the classifier is not linear.
        """
        if not isinstance(teacher_classifier, nn.Linear):
            raise ConfigError(
                "this method takes over the teacher's classifier, which must be linear, and is "
                f"{type(teacher_classifier).__name__}; choose another teacher"
            )
        built = cls(student_channels, teacher_classifier.in_features,
                    teacher_classifier.out_features)  # fmt: skip
        built.classifier.load_state_dict(copy.deepcopy(teacher_classifier.state_dict()))
        return built

    @classmethod
    def like(cls, state: dict[str, Tensor], prefix: str) -> "Bridge | None":
        """An untrained bridge of the sizes in a state, None if the state has none."""
        first = state.get(f"{prefix}projector.0.weight")
        if first is None:
            return None
        classes, teacher = state[f"{prefix}classifier.weight"].shape
        return cls(first.shape[1], teacher, classes)

    def forward(
        self, features: Float[Tensor, "samples channels rows cols"]
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Projected map, its mean, and the teacher's classifier's answer."""
        projected = self.projector(features)
        embedding = projected.mean((2, 3))
        return projected, embedding, self.classifier(embedding)
