"""Views: exact turns, and variation that is drawn per view and follows the seed alone."""

from dataclasses import replace
from itertools import permutations

import kornia.enhance as kornia
import numpy as np
import pytest
import scipy.ndimage
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dermdistill.config import ViewsConfig
from dermdistill.data.views import (
    QUARTER_TURNS,
    Augmentation,
    coloured,
    draw_colours,
    draw_places,
    make_views,
    moved,
    rotated_views,
    upright_view,
)
from dermdistill.types import Views

PX = 32
STILL = ViewsConfig(
    scale=(1.0, 1.0), rotation_deg=0.0, translate_ratio=0.0, flip_probability=0.0, brightness=0.0,
    contrast=0.0, saturation=0.0, hue=0.0, light_probability=0.0, blur_probability=0.0,
    noise_probability=0.0, dropout_probability=0.0,
)  # fmt: skip


def pixels(count=4, px=PX, seed=0):
    random = torch.Generator().manual_seed(seed)
    return torch.randint(256, (count, px, px, 3), generator=random, dtype=torch.uint8)


def varied(config, images, seed=0):
    torch.manual_seed(seed)
    return Augmentation(config)(images)


def smooth(count=16, px=PX):
    """Equal images in which every place has its own colour: red by row, green by column."""
    ramp = torch.linspace(0.2, 0.8, px)
    rows, cols = torch.meshgrid(ramp, ramp, indexing="ij")
    return torch.stack([rows, cols, torch.full_like(rows, 0.5)]).expand(count, 3, px, px).clone()


@settings(max_examples=20, deadline=None)
@given(px=st.integers(1, 9), views=st.integers(1, 4), seed=st.integers(0, 99))
def test_turns_are_exact(px, views, seed):
    stored = pixels(2, px, seed)
    made = make_views(stored, Views(views, turned=True), None)
    assert made.shape == (2, views, 3, px, px)
    for v in range(views):
        for row in range(px):
            for col in range(px):
                # Where the pixel at (row, col) of the upright image is after v quarter turns.
                r, c = row, col
                for _ in range(v):
                    r, c = px - 1 - c, r
                assert torch.equal(made[:, v, :, r, c], stored[:, row, col].float() / 255)


def test_four_turns_are_none():
    images = upright_view(pixels())
    turned = rotated_views(images, QUARTER_TURNS.count)
    assert torch.equal(turned[:, 0], images)
    assert torch.equal(torch.rot90(turned[:, 3], 1, dims=(2, 3)), images)


def test_every_byte_becomes_its_share():
    every = torch.arange(256, dtype=torch.uint8).view(1, 16, 16, 1).expand(1, 16, 16, 3)
    upright = make_views(every.contiguous(), Views(), None)[0, 0]
    expected = torch.tensor([i / 255 for i in range(256)]).view(16, 16)
    assert torch.equal(upright, expected.expand(3, 16, 16))


@pytest.mark.parametrize("views", [Views(), Views(2), QUARTER_TURNS])
def test_shape_range_and_numbers(views):
    stored = pixels(6)
    stored[0], stored[1] = 0, 255  # all black and all white
    for seed in range(5):
        torch.manual_seed(seed)
        made = make_views(stored, views, Augmentation(ViewsConfig()))
        assert made.shape == (6, views.count, 3, PX, PX)
        assert made.dtype == torch.float32
        assert made.isfinite().all()
        assert made.min() >= 0
        assert made.max() <= 1


def test_range_under_the_widest_settings():
    wild = ViewsConfig(
        scale=(0.2, 3.0), rotation_deg=180.0, translate_ratio=0.5, brightness=1.0, contrast=1.0,
        saturation=1.0, hue=0.5, light_probability=1.0, blur_probability=1.0,
        noise_probability=1.0, noise_std=1.0, dropout_probability=1.0, dropout_area=(0.3, 0.9),
    )  # fmt: skip
    made = varied(wild, upright_view(pixels(8)))
    assert made.isfinite().all()
    assert 0 <= made.min() <= made.max() <= 1


def test_views_are_image_major_and_start_from_their_turn():
    stored = pixels()
    torch.manual_seed(0)
    made = make_views(stored, QUARTER_TURNS, Augmentation(STILL))
    torch.testing.assert_close(made, make_views(stored, QUARTER_TURNS, None), atol=1e-4, rtol=0)


def test_same_seed_same_views():
    stored = pixels()
    augmentation = Augmentation(ViewsConfig())
    torch.manual_seed(7)
    first = make_views(stored, QUARTER_TURNS, augmentation)
    torch.rand(5)  # what ran before does not matter
    torch.manual_seed(7)
    again = make_views(stored, QUARTER_TURNS, augmentation)
    torch.manual_seed(7)
    assert torch.equal(first, again)
    assert torch.equal(first, make_views(stored, QUARTER_TURNS, Augmentation(ViewsConfig())))
    torch.manual_seed(8)
    other = make_views(stored, QUARTER_TURNS, augmentation)
    assert not (first == other).flatten(2).all(2).any()


def test_stored_pixels_stay():
    stored = pixels()
    before = stored.clone()
    make_views(stored, QUARTER_TURNS, Augmentation(ViewsConfig()))
    assert torch.equal(stored, before)


def test_no_gradient():
    assert not Augmentation(ViewsConfig())(smooth(2).requires_grad_()).requires_grad


def test_no_device_is_waited_for():
    """A meta tensor has no values: whoever asks for one would wait for a GPU."""
    often = ViewsConfig(blur_probability=0.9, noise_probability=0.9, dropout_probability=0.9)
    torch.manual_seed(0)
    made = make_views(pixels().to("meta"), QUARTER_TURNS, Augmentation(often))
    assert made.shape == (4, 4, 3, PX, PX)
    assert made.is_meta


# One kind of variation at a time: it happens, and it differs between equal images.
KINDS = {
    "scale": {"scale": (0.5, 2.0)},
    "rotation": {"rotation_deg": 90.0},
    "shift": {"translate_ratio": 0.3},
    "brightness": {"brightness": 0.5},
    "contrast": {"contrast": 0.5},
    "saturation": {"saturation": 0.9},
    "hue": {"hue": 0.3},
    "noise": {"noise_probability": 1.0},
    "dropout": {"dropout_probability": 1.0},
}


@pytest.mark.parametrize("kind", KINDS)
def test_equal_images_differ(kind):
    images = smooth(4)
    made = varied(replace(STILL, **KINDS[kind]), images)
    for i in range(4):
        assert not torch.allclose(made[i], images[i], atol=1e-3), "nothing happened"
        for j in range(i):
            assert not torch.allclose(made[i], made[j], atol=1e-3), "one draw for two images"


def test_another_light_scales_each_colour_of_an_image_alike():
    images = smooth(8) * 0.5 + 0.1  # nothing reaches 1, where a gain would be cut
    made = varied(replace(STILL, light_probability=1.0), images)
    gains = (made / images).flatten(2)
    assert torch.allclose(gains.amin(2), gains.amax(2), atol=1e-4)
    gains = gains[:, :, 0]
    assert torch.allclose(gains[:, 1], torch.ones(8), atol=1e-4), "green is the measure"
    assert gains.min() > 0.6
    assert gains.max() < 1.6
    assert len(gains.round(decimals=3).unique(dim=0)) > 1, "one draw for all images"


def test_brightness_contrast_and_saturation_are_kornias_in_any_order():
    images = upright_view(pixels(6)) * 0.2 + 0.4  # nothing comes to 0 or 1, where it would be cut
    config = replace(STILL, brightness=0.2, contrast=0.3, saturation=0.4)
    torch.manual_seed(5)
    colours = draw_colours(config, 6)
    torch.manual_seed(5)
    factors = [torch.empty(6).uniform_(1 - reach, 1 + reach) for reach in (0.2, 0.3, 0.4)]
    made = coloured(images, colours)
    steps = [
        kornia.adjust_brightness_accumulative,
        kornia.adjust_contrast_with_mean_subtraction,
        kornia.adjust_saturation_with_gray_subtraction,
    ]
    for order in permutations(range(3)):
        expected = images
        for step in order:
            expected = steps[step](expected, factors[step])
        torch.testing.assert_close(made, expected, atol=2e-6, rtol=0)


def test_hue_turns_about_the_greys_and_keeps_the_grey():
    images = (upright_view(pixels(64)) * 0.2 + 0.4).double()
    torch.manual_seed(0)
    made = coloured(images, draw_colours(replace(STILL, hue=0.25), 64).double())

    def wheel(images):
        red, green, blue = images.unbind(1)
        return torch.complex(2 * red - green - blue, 3**0.5 * (green - blue))

    def grey(images):
        red, green, blue = images.unbind(1)
        return 0.299 * red + 0.587 * green + 0.114 * blue

    torch.testing.assert_close(grey(made), grey(images), atol=1e-6, rtol=0)
    before, after = wheel(images).flatten(1), wheel(made).flatten(1)
    turn = (after * before.conj()).sum(1) / (before.abs() ** 2).sum(1)
    torch.testing.assert_close(after, turn[:, None] * before, atol=1e-6, rtol=0)
    torch.testing.assert_close(turn.abs(), torch.ones(64).double(), atol=1e-6, rtol=0)
    share = turn.angle() / (2 * torch.pi)
    assert -0.2501 < share.min() < -0.22
    assert 0.22 < share.max() < 0.2501


def test_views_of_one_image_differ():
    torch.manual_seed(0)
    made = make_views(pixels(1), QUARTER_TURNS, Augmentation(ViewsConfig()))[0]
    back = [torch.rot90(view, -v, dims=(1, 2)) for v, view in enumerate(made)]
    assert not any(torch.equal(back[i], back[j]) for i in range(4) for j in range(i))


def test_views_that_are_not_turned_are_upright_and_vary_apart():
    stored = pixels(2)
    still = make_views(stored, Views(3), None)
    assert torch.equal(still, upright_view(stored)[:, None].expand_as(still))
    torch.manual_seed(0)
    made = make_views(stored, Views(3), Augmentation(ViewsConfig()))
    assert not any(torch.equal(made[:, i], made[:, j]) for i in range(3) for j in range(i))


def test_no_variation_leaves_the_image():
    images = upright_view(pixels())
    torch.testing.assert_close(varied(STILL, images), images, atol=1e-4, rtol=0)


def test_flips_are_mirrors_at_their_probability():
    images = smooth(400)
    always = varied(replace(STILL, flip_probability=1.0), images[:4])
    torch.testing.assert_close(always, images[:4].flip(2, 3), atol=1e-4, rtol=0)
    made = varied(replace(STILL, flip_probability=0.3), images)
    upside_down = (made[:, 0, 0, 0] > 0.5).float().mean()  # red grows downwards
    mirrored = (made[:, 1, 0, 0] > 0.5).float().mean()  # green grows to the right
    for share in (upside_down, mirrored):
        assert 0.2 < share < 0.4  # 0.3 +- 4 deviations of 400 draws
    one_of_both = ((made[:, 0, 0, 0] > 0.5) != (made[:, 1, 0, 0] > 0.5)).float().mean()
    assert 0.3 < one_of_both < 0.54  # 2 * 0.3 * 0.7: the axes are drawn apart


def centre_gradient(images):
    """Change of red by row and by column around the centre, relative to the unvaried image."""
    half, reach = images.shape[-1] // 2, 3
    red = images[:, 0]
    by_row = red[:, half + reach, half] - red[:, half - reach, half]
    by_col = red[:, half, half + reach] - red[:, half, half - reach]
    whole = 2 * reach * 0.6 / (images.shape[-1] - 1)
    return by_row / whole, by_col / whole


def test_zoom_is_the_scale():
    by_row, by_col = centre_gradient(varied(replace(STILL, scale=(0.8, 1.25)), smooth(64, 65)))
    zoom = 1 / by_row  # twice as large, half as steep
    assert 0.79 < zoom.min() < 0.87
    assert 1.15 < zoom.max() < 1.26
    assert by_col.abs().max() < 1e-3


def test_rotation_reaches_its_angle_and_no_further():
    by_row, by_col = centre_gradient(varied(replace(STILL, rotation_deg=40.0), smooth(64, 65)))
    angles = torch.rad2deg(torch.atan2(by_col, by_row))
    assert angles.abs().max() < 40.5
    assert angles.max() > 30
    assert angles.min() < -30
    torch.testing.assert_close(by_row.hypot(by_col), torch.ones(64), atol=0.02, rtol=0)


def test_shift_reaches_its_ratio_and_no_further():
    images = smooth(64, 65)
    made = varied(replace(STILL, translate_ratio=0.1), images)
    half = 32
    for channel in (0, 1):
        shift_px = (made - images)[:, channel, half, half] * 64 / 0.6
        assert shift_px.abs().max() < 0.1 * 65 + 0.1
        assert shift_px.abs().max() > 0.07 * 65


def test_places_are_a_flip_a_rotation_and_a_zoom():
    config = ViewsConfig(scale=(0.5, 2.0), rotation_deg=30.0, translate_ratio=0.25)
    torch.manual_seed(0)
    matrix, offset = draw_places(config, 400).double().split((2, 1), 2)
    zoom = matrix.det().abs() ** -0.5
    assert 0.5 <= zoom.min() < 0.52
    assert 1.95 < zoom.max() <= 2
    flips_and_turns = matrix * zoom[:, None, None]
    torch.testing.assert_close(flips_and_turns @ flips_and_turns.mT, torch.eye(2).expand(400, 2, 2),
                               atol=1e-6, rtol=0, check_dtype=False)  # fmt: skip
    assert flips_and_turns.abs()[:, 0, 0].min() >= np.cos(np.pi / 6) - 1e-6
    shift = -matrix.inverse() @ offset / 2  # as shares of a side
    assert 0.24 < shift.abs().max() <= 0.25 + 1e-6


def test_images_are_sampled_between_pixels_and_mirrored_beyond_their_edges():
    images = upright_view(pixels(8))
    torch.manual_seed(0)
    places = draw_places(ViewsConfig(scale=(0.6, 1.5), translate_ratio=0.5), 8)
    centres = (2 * np.arange(PX) + 1) / PX - 1  # of pixels, where the edges are -1 and 1
    y, x = np.meshgrid(centres, centres, indexing="ij")
    for image, place, made in zip(images, places.double(), moved(images, places), strict=True):
        seen_x, seen_y = place.numpy() @ np.stack([x.ravel(), y.ravel(), np.ones(PX * PX)])
        at = [((seen + 1) * PX - 1).reshape(PX, PX) / 2 for seen in (seen_y, seen_x)]
        for before, after in zip(image.double().numpy(), made, strict=True):
            expected = scipy.ndimage.map_coordinates(before, at, order=1, mode="reflect")
            np.testing.assert_allclose(after, expected, atol=2e-5)


def test_no_black_corners():
    made = varied(replace(STILL, rotation_deg=45.0, scale=(0.8, 1.0)), smooth(32))
    assert made.min() > 0.15  # the image's own darkest value is 0.2


def test_dropout_covers_its_area_in_grey():
    white = torch.ones(64, 3, PX, PX)
    config = replace(STILL, dropout_probability=1.0, dropout_area=(0.1, 0.2))
    made = varied(config, white)
    erased = (made - 0.5).abs() < 1e-3
    assert torch.equal(erased.any(1), erased.all(1))
    share = erased[:, 0].float().mean((1, 2))
    assert share.min() > 0.07  # rectangles of whole pixels, clipped at the border
    assert share.max() < 0.23
    assert ((made > 0.99) | erased).all()
    rows, cols = erased[:, 0].any(2), erased[:, 0].any(1)
    assert torch.equal(erased[:, 0], rows[:, :, None] & cols[:, None])
    for side in (rows, cols):  # without a gap
        assert (side.int().diff(dim=1).abs().sum(1) <= 2).all()


def test_noise_has_its_deviation():
    grey = torch.full((16, 3, PX, PX), 0.5)
    made = varied(replace(STILL, noise_probability=1.0, noise_std=0.05), grey)
    assert float((made - grey).std()) == pytest.approx(0.05, rel=0.05)
    assert abs(float((made - grey).mean())) < 0.002


def test_blur_smooths():
    images = upright_view(pixels(8))
    made = varied(replace(STILL, blur_probability=1.0, blur_sigma_px=(0.9, 0.9)), images)
    expected = scipy.ndimage.gaussian_filter(images, 0.9, axes=(2, 3), mode="mirror", radius=2)
    np.testing.assert_allclose(made, expected, atol=2e-5)
    made = varied(replace(STILL, blur_probability=1.0, blur_sigma_px=(0.3, 1.2)), images)
    left = (made.std((2, 3)) / images.std((2, 3))).mean(1)
    assert len(left.round(decimals=2).unique()) > 4, "one draw for all images"


@pytest.mark.parametrize("kind", ["blur", "noise", "dropout"])
def test_probabilities(kind):
    images = upright_view(pixels(1)).expand(200, -1, -1, -1).clone()
    made = varied(replace(STILL, **{f"{kind}_probability": 0.25}), images)
    changed = ((made - images).abs() > 1e-3).flatten(1).any(1)
    assert 0.12 < changed.float().mean() < 0.38  # 4 deviations of 200 draws
    assert torch.equal(made[~changed], varied(STILL, images)[~changed])
