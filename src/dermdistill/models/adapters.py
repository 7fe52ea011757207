"""What is trained beside a student and dropped after: connectors and projection heads."""

from jaxtyping import Float
from torch import Tensor, nn

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
