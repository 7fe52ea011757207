"""Apparent skin tone: the formula, where skin is sought, and what cannot be measured."""

import csv
import math

import numpy as np
import pandas as pd
import pytest
from PIL import Image

import small
from dermdistill.cli import main
from dermdistill.data.table import Table
from dermdistill.data.tone import COLUMNS, TONES, skin_around, tone_of, typology_angle, write_tones
from dermdistill.errors import DataError


def _angle_by_hand(colour: tuple[int, int, int]) -> float:
    """From sRGB to CIE Lab under D65 by the standards' own equations, then the angle."""
    linear = [c / 255 / 12.92 if c / 255 <= 0.04045 else ((c / 255 + 0.055) / 1.055) ** 2.4
              for c in colour]  # fmt: skip
    matrix = [(0.4124564, 0.3575761, 0.1804375), (0.2126729, 0.7151522, 0.0721750),
              (0.0193339, 0.1191920, 0.9503041)]  # fmt: skip
    xyz = [sum(m * c for m, c in zip(row, linear, strict=True)) for row in matrix]
    white = (0.95047, 1.0, 1.08883)
    f = [(v / w) ** (1 / 3) if v / w > (6 / 29) ** 3 else v / w * (29 / 6) ** 2 / 3 + 4 / 29
         for v, w in zip(xyz, white, strict=True)]  # fmt: skip
    lightness, blue_yellow = 116 * f[1] - 16, 200 * (f[1] - f[2])
    return math.degrees(math.atan2(lightness - 50, blue_yellow))


@pytest.mark.parametrize(
    ("colour", "tone"),
    [((245, 222, 210), "very light"), ((214, 170, 140), "light"), ((198, 150, 118), "intermediate"),
     ((170, 125, 95), "tan"), ((140, 100, 72), "brown"), ((60, 38, 28), "dark")],
)  # fmt: skip
def test_the_angle_is_that_of_the_equations(colour, tone):
    pixels = np.full((10, 12, 3), colour, np.uint8)
    angle = typology_angle(pixels, np.ones((10, 12), bool))
    assert angle == pytest.approx(_angle_by_hand(colour), abs=0.3)
    assert tone_of(angle) == tone


def test_a_few_hairs_change_nothing_and_no_skin_is_no_answer():
    pixels = np.full((20, 20, 3), (214, 170, 140), np.uint8)
    everywhere = np.ones((20, 20), bool)
    plain = typology_angle(pixels, everywhere)
    pixels[:, 7] = (70, 50, 45)
    assert typology_angle(pixels, everywhere) == pytest.approx(plain)
    assert math.isnan(typology_angle(pixels, ~everywhere))
    assert tone_of(float("nan")) is None
    assert math.isnan(typology_angle(np.full((4, 4, 3), (200, 190, 215), np.uint8),
                                     np.ones((4, 4), bool)))  # fmt: skip


def test_skin_lies_beside_the_lesion_and_is_neither_black_nor_glaring():
    pixels = np.full((40, 60, 3), 150, np.uint8)
    pixels[:, :4], pixels[:3, 50:] = 5, 255
    lesion = np.zeros((40, 60), bool)
    lesion[15:25, 20:40] = True
    skin = skin_around(pixels, lesion)
    assert not skin[lesion].any()
    assert not skin[14, 19:41].any()  # the margin
    assert not skin[:, :4].any()
    assert not skin[:3, 50:].any()
    assert skin[5:10, 10:45].all()
    rim = skin_around(pixels, None)
    assert not rim[5:35, 8:52].any()
    assert rim[1, 10:40].all()


def test_a_table_is_measured_by_mask_or_rim(tmp_path):
    pictures = {"masked": (245, 222, 210), "bare": (140, 100, 72), "black": (0, 0, 0)}
    for name, colour in pictures.items():
        Image.new("RGB", (80, 60), colour).save(tmp_path / f"{name}.png")
    (tmp_path / "broken.png").write_bytes(b"no image")
    (tmp_path / "masks").mkdir()
    Image.new("L", (80, 60), 0).save(tmp_path / "masks" / "masked_segmentation.png")
    names = [*pictures, "broken"]
    paths = [str(tmp_path / f"{name}.png") for name in names]
    table = Table(pd.DataFrame({"id": names, "label": "A", "path": paths}), ("A",))
    with pytest.warns(UserWarning, match="broken"):
        counts = write_tones(table, tmp_path / "tone.csv", tmp_path / "masks", progress=False)
    with open(tmp_path / "tone.csv", newline="") as file:
        rows = {row["image"]: row for row in csv.DictReader(file)}
    assert (rows["masked"]["tone"], rows["masked"]["skin_from"]) == ("very light", "mask")
    assert (rows["bare"]["tone"], rows["bare"]["skin_from"]) == ("brown", "rim")
    assert rows["black"]["ita_deg"] == rows["broken"]["ita_deg"] == ""
    assert counts == dict.fromkeys([*TONES, None], 0) | {"very light": 1, "brown": 1, None: 2}
    only_black = Table(table.frame[table.frame["id"] == "black"], ("A",))
    with pytest.raises(DataError, match="none of 1 images could be measured"):
        write_tones(only_black, tmp_path / "none.csv", None, progress=False)


def test_the_command_writes_a_row_an_image(tmp_path, capsys):
    path = tmp_path / "tone.csv"
    assert main(["data", "tone", str(small.images()), str(path)]) == 0
    assert "very light" in capsys.readouterr().out
    with open(path, newline="") as file:
        rows = list(csv.reader(file))
    assert tuple(rows[0]) == COLUMNS
    assert len(rows) == 1 + small.IMAGES
