"""Views of whole batches on the device: rotations from one decoded image, each then varied."""

import kornia.augmentation as K
import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from torch import Tensor

from dermdistill.config import ViewsConfig
from dermdistill.types import Views

QUARTER_TURNS = Views(4, turned=True)  # of the view contrast: 0, 90, 180 and 270 degrees

# What a light does to red, green and blue. Of kornia's black bodies (3,000 to 15,000 K in steps of
# 500) those of 5,000 to 8,500 K: outside, skin turns yellow or violet as no dermatoscope shows it.
_RED, _BLUE = K.RandomPlanckianJitter("blackbody", list(range(4, 12))).pl.T  # green is the measure
DAYLIGHT = torch.stack([_RED, torch.ones_like(_RED), _BLUE], 1)

GREY = torch.tensor([0.299, 0.587, 0.114]).expand(3, 3)  # makes a colour its grey (ITU-R BT.601)


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


class Augmentation:
    """Random scale, rotation, shift, flips, colour, blur, noise and dropout, drawn per image.

    All draws come from torch's global generator, which the loop seeds at every step: the same
    seed gives the same views whatever ran before, so a resumed run sees what an uninterrupted one
    would have seen. What is drawn of an image is drawn on the CPU, so a GPU is never waited for.

    A step is shorter than many passes over its pixels: all movements are one sampling, all colours
    one product with a matrix, and the rest is computed on the images alone that were drawn for it.

    Source: the kinds are the paper's recipe; its ranges could not be read, ours are ViewsConfig's.
    """

    def __init__(self, config: ViewsConfig):
        self.config = config
        self.blur = K.RandomGaussianBlur((5, 5), config.blur_sigma_px, p=1.0)
        self.dropout = K.RandomErasing(config.dropout_area, value=0.5, p=1.0)

    @torch.no_grad()
    def __call__(
        self, images: Float[Tensor, "samples 3 side side"]
    ) -> Float[Tensor, "samples 3 side side"]:
        """Vary every image by its own draw; values stay in [0, 1]."""
        config, count, device = self.config, len(images), images.device
        places, colours = draw_places(config, count), draw_colours(config, count)
        images = moved(images, places.to(device, non_blocking=True))
        images = coloured(images, colours.to(device, non_blocking=True))
        for chance, vary in (
            (config.blur_probability, self.blur),
            (config.noise_probability, self._noisy),
            (config.dropout_probability, self.dropout),
        ):
            chosen = (torch.rand(count) < chance).nonzero().flatten()
            if len(chosen):
                chosen = chosen.to(device, non_blocking=True)
                images[chosen] = vary(images[chosen])
        return images

    def _noisy(
        self, images: Float[Tensor, "some 3 side side"]
    ) -> Float[Tensor, "some 3 side side"]:
        return torch.randn_like(images).mul_(self.config.noise_std).add_(images).clamp_(0, 1)


def draw_places(config: ViewsConfig, count: int) -> Float[Tensor, "count 2 3"]:
    """Where each view looks in its image: flip @ turn @ (place - shift) / zoom.

    Places run from -1 to 1, x before y, as torch's `affine_grid` has them.
    """
    angle = _uniform(config.rotation_deg, count).deg2rad()
    zoom = torch.empty(count, 1, 1).uniform_(*config.scale)
    shift = 2 * _uniform(config.translate_ratio, count, 2, 1)  # a side is 2 long
    flip = 1 - 2 * (torch.rand(count, 2, 1) < config.flip_probability).float()
    turn = torch.stack([angle.cos(), angle.sin(), -angle.sin(), angle.cos()], 1).view(count, 2, 2)
    matrix = flip * turn / zoom
    return torch.cat([matrix, -matrix @ shift], 2)


def moved(
    images: Float[Tensor, "samples 3 side side"], places: Float[Tensor, "samples 2 3"]
) -> Float[Tensor, "samples 3 side side"]:
    """Images sampled where `draw_places` says, mirrored beyond their edges."""
    grid = F.affine_grid(places, list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, padding_mode="reflection", align_corners=False)


def draw_colours(config: ViewsConfig, count: int) -> Float[Tensor, "count 3 6"]:
    """How the colours of each view follow from those of its image, and from their means over it.

    Brightness multiplies, contrast blends with the image's mean grey, saturation with each place's
    own grey; hue turns about the axis of greys and leaves a colour's grey what it was. All four
    are linear and the same in any order, so one matrix does them. Another light comes last.
    """
    brightness, contrast, saturation = (
        1 + torch.empty(count, 1, 1).uniform_(-min(reach, 1), reach)
        for reach in (config.brightness, config.contrast, config.saturation)
    )
    angle = 2 * torch.pi * _uniform(config.hue, count, 1, 1)
    colourful = torch.eye(3) - GREY
    a_quarter_on = colourful @ torch.tensor([[0.0, -1, 1], [1, 0, -1], [-1, 1, 0]]) / 3**0.5
    turned = angle.cos() * colourful + angle.sin() * a_quarter_on
    light = DAYLIGHT[torch.randint(len(DAYLIGHT), (count,))][:, :, None]
    other = torch.rand(count, 1, 1) < config.light_probability
    own, mean = contrast * (GREY + saturation * turned), (1 - contrast) * GREY
    return torch.where(other, light, 1.0) * brightness * torch.cat([own, mean], 2)


def coloured(
    images: Float[Tensor, "samples 3 side side"], colours: Float[Tensor, "samples 3 6"]
) -> Float[Tensor, "samples 3 side side"]:
    """Images in the colours that `draw_colours` says, cut to [0, 1]."""
    own, mean = colours.split(3, 2)
    made = own @ images.flatten(2)
    return made.add_(mean @ images.mean((2, 3))[:, :, None]).clamp_(0, 1).view_as(images)


def _uniform(reach: float, *shape: int) -> Tensor:
    return torch.empty(shape).uniform_(-reach, reach)


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
