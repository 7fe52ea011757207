"""What is trained beside a student and dropped after: connectors, projectors and heads."""

import math

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.utils.parametrize import register_parametrization

from dermdistill.types import Widths


def connector(student: Widths, teacher: Widths) -> nn.Sequential:
    """Map a student's feature map to the teacher's channels and size.

    1x1 convolution where the sizes agree; 3x3 with stride 2 where the student's map is twice the
    teacher's, 4x4 transposed with stride 2 where it is half, a valid convolution of the
    difference where it is larger; the transposed of the difference where it is smaller (the
    official code has no answer there). Then batch norm and ReLU.

    Source: Wang et al., Medical Image Analysis 84:102693, official code's regressor.
    """
    channels = (student.map_channels, teacher.map_channels)
    s, t = student.map_px, teacher.map_px
    if s == t:
        bridge = nn.Conv2d(*channels, kernel_size=1)
    elif s == 2 * t:
        bridge = nn.Conv2d(*channels, kernel_size=3, stride=2, padding=1)
    elif 2 * s == t:
        bridge = nn.ConvTranspose2d(*channels, kernel_size=4, stride=2, padding=1)
    elif s > t:
        bridge = nn.Conv2d(*channels, kernel_size=1 + s - t)
    else:
        bridge = nn.ConvTranspose2d(*channels, kernel_size=1 + t - s)
    return nn.Sequential(bridge, nn.BatchNorm2d(teacher.map_channels), nn.ReLU())


class ProjectionHead(nn.Sequential):
    """Linear, ReLU, Linear at constant width: the head that the view contrast is taken behind.

    Source: SSKD (Xu et al., ECCV 2020), section 3.2; the official SSD-KD code alike.
    """

    def __init__(self, width: int):
        super().__init__(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, width))

    def forward(self, embedding: Float[Tensor, "samples width"]) -> Float[Tensor, "samples width"]:
        """Project embeddings; width and order stay."""
        return super().forward(embedding)


def orthogonal_projector(student_width: int, teacher_width: int) -> nn.Linear:
    """A linear map without bias whose matrix stays orthogonal: it turns and cannot bend.

    Upwards it keeps all lengths and angles; downwards it drops directions and keeps the others.

    Source: VkD (arXiv:2403.06213), the orthogonal projection.
    """
    linear = nn.Linear(student_width, teacher_width, bias=False)
    register_parametrization(linear, "weight", _Orthogonal())
    return linear


class _Orthogonal(nn.Module):
    """The orthogonal factor of a matrix, or of its transpose where it is wide.

    At widths 320 to 512 ten times as fast as torch's own parametrisation, whose gradient goes
    reflection by reflection.
    """

    def forward(self, free: Float[Tensor, "rows cols"]) -> Float[Tensor, "rows cols"]:
        wide = free.shape[0] < free.shape[1]
        factor, triangle = torch.linalg.qr(free.T if wide else free)
        # With a positive diagonal the factor is unique, and no step flips a column.
        factor = factor * triangle.diagonal().sign()
        return factor.T if wide else factor


class VariationalHead(nn.Module):
    """The Gaussian that a student's map predicts for the teacher's: a mean and a variance.

    Three 1x1 convolutions without bias, ReLU between them, give the mean; the variance is a
    parameter of each of the teacher's channels, positive by a softplus.

    Source: VID (arXiv:1904.05835); widths and start (variance 5) as in public code.
    """

    def __init__(self, student_channels: int, teacher_channels: int, start_variance: float = 5.0):
        super().__init__()
        wide = teacher_channels
        self.regressor = nn.Sequential(
            nn.Conv2d(student_channels, wide, kernel_size=1, bias=False),
            nn.ReLU(),
            nn.Conv2d(wide, wide, kernel_size=1, bias=False),
            nn.ReLU(),
            nn.Conv2d(wide, wide, kernel_size=1, bias=False),
        )
        self.raw_variance = nn.Parameter(torch.full((wide,), math.log(math.expm1(start_variance))))

    def forward(
        self, student_map: Float[Tensor, "samples student_channels rows cols"]
    ) -> tuple[Float[Tensor, "samples channels rows cols"], Float[Tensor, " channels"]]:
        """Mean and variance of the teacher's map."""
        return self.regressor(student_map), F.softplus(self.raw_variance)
