"""Decoding: every orientation, mode and kind of broken file, against pixels known beforehand."""

import io
import pickle
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from dermdistill.data.decode import CROPS, MAX_IMAGE_PIXELS, BrokenImageError, decode
from dermdistill.errors import ConfigError, DataError

QUADRANTS = np.array([[[255, 0, 0], [0, 255, 0]], [[0, 0, 255], [255, 255, 0]]], np.uint8)
UPRIGHT = QUADRANTS.repeat(16, 0).repeat(16, 1)  # 32x32: red, green, blue, yellow
# How a camera stores an upright picture under each EXIF orientation: what row 0 and column 0 of
# the stored picture are in the scene (EXIF 2.3, tag 0x0112), written without Pillow.
STORED = {
    1: lambda a: a,
    2: lambda a: a[:, ::-1],  # row 0 top, column 0 right
    3: lambda a: a[::-1, ::-1],  # bottom, right
    4: lambda a: a[::-1],  # bottom, left
    5: lambda a: a.swapaxes(0, 1),  # left, top
    6: lambda a: a.swapaxes(0, 1)[::-1],  # right, top
    7: lambda a: a[::-1, ::-1].swapaxes(0, 1),  # right, bottom
    8: lambda a: a.swapaxes(0, 1)[:, ::-1],  # left, bottom
}


def encoded(image: Image.Image, kind: str = "PNG", **options) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def smooth(width: int, height: int) -> np.ndarray:
    """A picture without sharp edges: what JPEG keeps well."""
    y, x = np.mgrid[:height, :width] / max(width, height)
    waves = [np.sin(7 * x + 3 * y), np.cos(5 * y), np.sin(4 * x * y + 1)]
    return np.stack([(120 + 100 * wave).astype(np.uint8) for wave in waves], -1)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF"])
@pytest.mark.parametrize("orientation", STORED)
def test_orientation_is_applied(orientation, kind):
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = np.ascontiguousarray(STORED[orientation](UPRIGHT))
    options = {"quality": 95, "subsampling": 0} if kind == "JPEG" else {}
    data = encoded(Image.fromarray(stored), kind, exif=exif, **options)
    assert np.abs(decode(data, 32, "centre").astype(int) - UPRIGHT).mean() < 6


@pytest.mark.filterwarnings("ignore:Corrupt EXIF")
def test_unreadable_exif_is_no_reason_to_refuse():
    data = encoded(Image.fromarray(UPRIGHT), "JPEG", exif=b"Exif\x00\x00MM\x00*\xff\xff\xff\xff")
    assert decode(data, 8, "centre").shape == (8, 8, 3)


GREY = np.linspace(0, 255, 256).astype(np.uint8).reshape(16, 16)


@pytest.mark.parametrize(
    ("image", "expected"),
    [
        (Image.fromarray(GREY), GREY),
        (Image.fromarray(GREY > 100), (GREY > 100) * 255),
        (Image.fromarray(GREY.astype(np.uint16) * 257), GREY),
        (Image.fromarray(GREY.astype(np.int32) * 257), GREY),
    ],
    ids=["8-bit", "1-bit", "16-bit", "32-bit"],
)
def test_grey_modes_keep_their_range(image, expected):
    kind = "TIFF" if image.mode == "I" else "PNG"
    result = decode(encoded(image, kind), 16, "centre")
    assert (result == np.asarray(expected)[..., None]).all()


def test_dim_16_bit_grey_stays_dim():
    dim = np.full((16, 16), 2570, np.uint16)  # 4 % of the range, not white
    assert (decode(encoded(Image.fromarray(dim)), 16, "centre") == 10).all()


def test_palette():
    image = Image.fromarray(UPRIGHT).quantize(8)
    assert image.mode == "P"
    assert (decode(encoded(image), 32, "centre") == UPRIGHT).all()


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_transparent_pixels_lie_on_white(mode):
    alpha = np.zeros((16, 16), np.uint8)
    alpha[:, 8:] = 255
    image = Image.fromarray(np.zeros((16, 16, 3), np.uint8))
    options = {}
    if mode == "P":
        image = Image.fromarray((alpha // 255).astype(np.uint8), "P")
        image.putpalette([9, 9, 9, 0, 0, 0])
        options = {"transparency": 0}
    else:
        image = image.convert(mode)
        image.putalpha(Image.fromarray(alpha))
    result = decode(encoded(image, **options), 16, "centre")
    assert (result[:, :8] == 255).all()
    assert (result[:, 8:] == 0).all()


def test_half_transparent_is_mixed():
    image = Image.new("RGBA", (8, 8), (0, 0, 0, 128))
    assert np.abs(decode(encoded(image), 8, "pad").astype(int) - 127).max() <= 1


@pytest.mark.parametrize("colour", [(200, 120, 90), (10, 10, 10), (250, 250, 250)])
def test_cmyk_and_progressive_jpeg(colour):
    image = Image.new("RGB", (64, 48), colour)
    cmyk = decode(encoded(image.convert("CMYK"), "JPEG", quality=95), 32, "centre")
    progressive = decode(encoded(image, "JPEG", quality=95, progressive=True), 32, "centre")
    for result in (cmyk, progressive):
        assert np.abs(result.astype(int) - colour).max() <= 4


def test_crops():
    wide = np.zeros((20, 60, 3), np.uint8)
    wide[:, :20], wide[:, 20:40], wide[:, 40:] = (255, 0, 0), (0, 255, 0), (0, 0, 255)
    data = encoded(Image.fromarray(wide))
    assert (decode(data, 20, "centre") == (0, 255, 0)).all()
    squashed = decode(data, 60, "squash")
    assert (squashed[30, [2, 30, 57]] == 255 * np.eye(3)).all()
    padded = decode(data, 60, "pad")
    assert (padded[20:40] == wide).all()
    assert not padded[:20].any()
    assert not padded[40:].any()


@pytest.mark.parametrize("crop", CROPS)
@pytest.mark.parametrize("size", [(1024, 768), (600, 450), (449, 701), (3, 900)])
def test_draft_decoding_agrees_with_full_decoding(size, crop):
    picture = Image.fromarray(smooth(*size))
    draft = decode(encoded(picture, "JPEG", quality=95), 112, crop)
    full = decode(encoded(picture), 112, crop)  # a PNG has no draft mode
    assert np.abs(draft.astype(int) - full).mean() < 1.5


def test_draft_decoding_saves_no_pixels_that_are_needed():
    """A JPEG may shrink to no less than the result: fine stripes survive where they must."""
    stripes = np.zeros((256, 256, 3), np.uint8)
    stripes[:, ::2] = 255
    data = encoded(Image.fromarray(stripes), "JPEG", quality=100, subsampling=0)
    assert decode(data, 256, "centre").std() > 120
    assert decode(data, 129, "centre").shape == (129, 129, 3)


def test_real_jpegs_agree_with_full_decoding(shared_folder):
    for path in sorted((shared_folder / "data" / "originals").glob("*.jpg"))[:6]:
        with Image.open(path) as image:
            full = decode(encoded(image, "BMP"), 224, "centre")
        assert np.abs(decode(path, 224, "centre").astype(int) - full).mean() < 3


def test_one_pixel_and_thin_images_become_squares():
    for size in ((1, 1), (1, 500), (500, 1)):
        for crop in CROPS:
            assert decode(encoded(Image.new("RGB", size)), 33, crop).shape == (33, 33, 3)


def bomb() -> bytes:
    """A PNG header that claims more pixels than may be decoded."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(
            ">I", zlib.crc32(kind + body))  # fmt: skip

    side = int(MAX_IMAGE_PIXELS**0.5) + 500
    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    return (b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header)
            + chunk(b"IDAT", zlib.compress(b"\0" * 1000)) + chunk(b"IEND", b""))  # fmt: skip


WHOLE = encoded(Image.fromarray(smooth(300, 200)), "JPEG", quality=95)
BROKEN = {
    "truncated": (WHOLE[: len(WHOLE) // 2], "truncated"),
    "cut in its header": (WHOLE[:30], "is"),
    "empty": (b"", "is empty"),
    "text": (b"id,label\n1,MEL\n", "no image that is known"),
    "bomb": (bomb(), "pixels"),
    "PNG with a broken body": (encoded(Image.fromarray(UPRIGHT))[:-30], "is"),
    "float": (encoded(Image.fromarray(np.ones((4, 4), np.float32)), "TIFF"), "8 bits"),
    "PostScript": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "no image"),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_broken_files_are_named_with_the_reason(tmp_path, kind):
    data, reason = BROKEN[kind]
    path = tmp_path / "lesion.jpg"
    path.write_bytes(data)
    with pytest.raises(BrokenImageError, match=reason) as caught:
        decode(path, 64, "centre")
    assert str(path) in str(caught.value)
    assert "Replace the file" in str(caught.value)
    assert isinstance(caught.value, DataError)
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)


def test_missing_file_and_folder(tmp_path):
    with pytest.raises(BrokenImageError, match="does not exist"):
        decode(tmp_path / "nothing.jpg", 64, "centre")
    with pytest.raises(BrokenImageError):
        decode(tmp_path, 64, "centre")


def test_settings_are_checked_first():
    with pytest.raises(ConfigError, match="did you mean 'centre'"):
        decode("nothing.jpg", 64, "center")
    with pytest.raises(ConfigError, match="px is 0"):
        decode("nothing.jpg", 0, "centre")


def test_an_open_file_and_bytes_and_a_path_are_one(tmp_path):
    path = tmp_path / "a.jpg"
    path.write_bytes(WHOLE)
    with open(path, "rb") as file:
        results = [decode(source, 50, "pad") for source in (path, str(path), WHOLE, file)]
    assert all((result == results[0]).all() for result in results)
