"""Views of whole batches on the device: rotations from one decoded image, each then varied."""

import kornia.augmentation as K
import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from dermdistill.config import ViewsConfig
from dermdistill.types import Views

QUARTER_TURNS = Views(4, turned=True)  # of the view contrast: 0, 90, 180 and 270 degrees

# Of kornia's black bodies (3,000 to 15,000 K in steps of 500) those of 5,000 to 8,500 K: outside,
# skin turns yellow or violet as no dermatoscope shows it.
DAYLIGHT = list(range(4, 12))


def upright_view(
    pixels: UInt8[Tensor, "batch rows cols 3"],
) -> Float[Tensor, "batch 3 rows cols"]:
    """Stored pixels as the networks read them: channels first, in [0, 1]."""
    return pixels.permute(0, 3, 1, 2).float().div_(255)


def rotated_views(
    images: Float[Tensor, "batch 3 side side"], views: int
) -> Float[Tensor, "batch views 3 side side"]:
    """Exact quarter turns of square images; view v is turned by v times 90 degrees.

    Args:
        images: square images in [0, 1].
        views: how many, 1 to 4; view 0 is upright.
    """
    return torch.stack([torch.rot90(images, turn, dims=(2, 3)) for turn in range(views)], dim=1)


class Augmentation(nn.Module):
    """Random scale, rotation, shift, flips, colour, blur, noise and dropout, drawn per image.

    All draws come from torch's global generator, which the loop seeds at every step: the same
    seed gives the same views whatever ran before, so a resumed run sees what an uninterrupted one
    would have seen.

    Source: the kinds are the paper's recipe; its ranges could not be read, ours are ViewsConfig's.
    """

    def __init__(self, config: ViewsConfig):
        super().__init__()
        self.steps = K.AugmentationSequential(
            K.RandomHorizontalFlip(p=config.flip_probability),
            K.RandomVerticalFlip(p=config.flip_probability),
            K.RandomAffine(
                degrees=config.rotation_deg,
                translate=(config.translate_ratio, config.translate_ratio),
                scale=config.scale,
                padding_mode="reflection",
                p=1.0,
            ),
            K.ColorJitter(
                brightness=config.brightness,
                contrast=config.contrast,
                saturation=config.saturation,
                hue=config.hue,
                p=1.0,
            ),
            K.RandomPlanckianJitter(
                mode="blackbody", select_from=DAYLIGHT, p=config.light_probability
            ),
            K.RandomGaussianBlur(
                kernel_size=(5, 5), sigma=config.blur_sigma_px, p=config.blur_probability
            ),
            K.RandomGaussianNoise(std=config.noise_std, p=config.noise_probability),
            K.RandomErasing(scale=config.dropout_area, value=0.5, p=config.dropout_probability),
            data_keys=["input"],
        )

    @torch.no_grad()
    def forward(
        self, images: Float[Tensor, "samples 3 rows cols"]
    ) -> Float[Tensor, "samples 3 rows cols"]:
        """Vary every image by its own draw; values stay in [0, 1]."""
        return self.steps(images).clamp_(0, 1)


def make_views(
    pixels: UInt8[Tensor, "batch rows cols 3"], views: Views, augmentation: Augmentation | None
) -> Float[Tensor, "batch views 3 rows cols"]:
    """Stored pixels as a batch's views: turned where asked, then each varied by itself.

    Args:
        pixels: rows of a store, on the device that shall do the work.
        views: how many, and whether they are turned.
        augmentation: how to vary them; None leaves them as they are (validation, test).
    """
    upright = upright_view(pixels)
    if views.turned:
        stacked = rotated_views(upright, views.count)
    else:
        stacked = upright[:, None].expand(-1, views.count, -1, -1, -1)
    if augmentation is None:
        return stacked
    return augmentation(stacked.flatten(0, 1)).unflatten(0, (-1, views.count))
