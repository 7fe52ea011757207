"""The audit finds what was planted, all of it, and nothing else."""

import io
import json

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageDraw

from dermdistill.data.audit import audit
from dermdistill.data.hashes import HASH_BITS, NEAR_BITS, near_pairs, perceptual_hash
from dermdistill.data.readers import read_table
from dermdistill.data.splits import make_split
from dermdistill.data.table import Table
from dermdistill.errors import DataError


def picture(seed: int) -> Image.Image:
    """Blots on a background: as unlike each other as the seeds."""
    rng = np.random.default_rng(seed)
    image = Image.new("RGB", (160, 120), tuple(int(v) for v in rng.integers(150, 255, 3)))
    draw = ImageDraw.Draw(image)
    for _ in range(12):
        x, y, r = rng.integers(0, 160), rng.integers(0, 120), rng.integers(5, 30)
        draw.ellipse(
            [x - r, y - r, x + r, y + r], fill=tuple(int(v) for v in rng.integers(0, 255, 3))
        )
    return image


def saved(folder, name: str, image: Image.Image, **options) -> str:
    path = folder / f"{name}.jpg"
    image.save(path, **options)
    return str(path)


@pytest.fixture
def planted(tmp_path) -> Table:
    """Ten good images, a copy in another lesion and class, one in the same, three broken files."""
    rows = [(f"i{n}", saved(tmp_path, f"i{n}", picture(n)), "A" if n % 2 else "B", f"L{n}")
            for n in range(10)]  # fmt: skip
    small = picture(1).resize((100, 75))
    rows.append(("copy", saved(tmp_path, "copy", small, quality=50), "B", "other"))
    rows.append(("twin", saved(tmp_path, "twin", picture(2), quality=40), "B", "L2"))
    whole = io.BytesIO()
    picture(99).save(whole, "JPEG")
    for name, data in (("cut", whole.getvalue()[:900]), ("text", b"no image"), ("empty", b"")):
        (tmp_path / f"{name}.jpg").write_bytes(data)
        rows.append((name, str(tmp_path / f"{name}.jpg"), "A", name))
    rows.append(("gone", str(tmp_path / "gone.jpg"), "A", "gone"))
    rows.append(("lost", str(tmp_path / "nowhere" / "lost.jpg"), "A", "L9"))
    return Table(pd.DataFrame(rows, columns=["id", "path", "label", "lesion"]), ("A", "B"))


def test_everything_planted_is_found(planted):
    found = audit(planted, workers=1)
    pairs = {tuple(sorted(pair["ids"])) for pair in found.findings["near_duplicates"]}
    assert pairs == {("copy", "i1"), ("i2", "twin")}
    assert found.findings["missing"] == ["gone", "lost"]
    assert {row["id"] for row in found.findings["unreadable"]} == {"cut", "text", "empty"}
    assert all(row["reason"] for row in found.findings["unreadable"])
    (across,) = found.findings["duplicates_across_lesions"]
    assert set(across["lesions"]) == {"L1", "other"}
    assert found.findings["duplicates_across_labels"] == [across]
    assert found.findings["images"] == 17
    assert found.findings["images_hashed"] == 12
    assert not found.ok
    assert json.loads(json.dumps(found.findings)) == found.findings


def test_text_names_counts_and_next_steps(planted):
    text = audit(planted, workers=1).text()
    counts = ("17 images of 15 lesions, 0 without a label", "2 images have no file")
    for said in (*counts, "3 images cannot be decoded", "What to do", "gone", "copy", "PROBLEM"):
        assert said in text


def test_processes_find_the_same(planted, tmp_path):
    """More images than one process takes at once, so that two really start."""
    frame = planted.frame
    more = [frame] + [frame.assign(id=frame["id"] + f"-{n}") for n in range(5)]
    table = Table(pd.concat(more), planted.classes)
    assert audit(table, workers=2).findings == audit(table, workers=1).findings


def test_a_clean_split_is_ok_and_a_torn_one_is_not(tmp_path):
    rows = [(f"i{n}", saved(tmp_path, f"i{n}", picture(n // 2)), "AB"[n // 2 % 2], f"L{n // 2}")
            for n in range(60)]  # fmt: skip
    table = Table(pd.DataFrame(rows, columns=["id", "path", "label", "lesion"]), ("A", "B"))
    clean = audit(table, make_split(table), workers=1)
    assert clean.ok
    assert len(clean.findings["near_duplicates"]) == 30
    assert "nothing that spoils a result" in clean.text()
    with pytest.warns(UserWarning, match="split by image"):
        split = make_split(table, "image")
    torn = audit(table, split, workers=1)
    part = dict(zip(split.frame["id"], split.frame["part"], strict=True))
    expected = [f"L{n}" for n in range(30) if part[f"i{2 * n}"] != part[f"i{2 * n + 1}"]]
    assert torn.findings["torn_lesions"] == sorted(expected)
    assert len(torn.findings["torn_duplicates"]) == len(expected)
    assert not torn.ok


def test_absent_classes_and_mixed_lesions_are_named(tmp_path):
    rows = [(f"i{n}", str(tmp_path / "x.jpg"), "A", f"L{n}") for n in range(30)]
    rows += [("r", str(tmp_path / "x.jpg"), "B", "rare"), ("m", str(tmp_path / "x.jpg"), "B", "L0")]
    table = Table(pd.DataFrame(rows, columns=["id", "path", "label", "lesion"]), ("A", "B"))
    split = make_split(table)
    found = audit(table, split, images=False)
    with_b = {split.frame.set_index("id").loc[name, "part"] for name in ("r", "m")}
    absent = {row["part"] for row in found.findings["absent_classes"] if row["class"] == "B"}
    assert absent == set(split.parts) - with_b
    assert found.findings["mixed_lesions"] == [{"lesion": "L0", "labels": ["A", "B"]}]
    assert len(found.findings["missing"]) == 32
    assert "no image was opened" in found.text()


def test_a_split_of_another_table_is_refused(planted):
    other = Table(planted.frame.assign(lesion="one"), planted.classes)
    with pytest.raises(DataError, match="the split was made from table"):
        audit(planted, make_split(other), images=False)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 40), st.integers(0, NEAR_BITS + 4))
def test_near_pairs_equal_all_pairs(seed, images, flips):
    """Oracle: every pair of distinct hashes bit by bit; equal ones hang on the first of them."""
    rng = np.random.default_rng(seed)
    bits = rng.integers(0, 2, (images, HASH_BITS)).astype(np.uint8)
    bits = bits[rng.integers(0, images, 2 * images)]
    for row in bits:
        row[rng.choice(HASH_BITS, rng.integers(0, flips + 1), replace=False)] ^= 1
    first: dict[int, int] = {}
    expected = set()
    for n, row in enumerate(bits):
        start = first.setdefault(int("".join(map(str, row)), 2), n)
        if start != n:
            expected.add((start, n, 0))
    for left, a in first.items():
        for right, b in first.items():
            distance = (left ^ right).bit_count()
            if a < b and distance <= NEAR_BITS:
                expected.add((a, b, distance))
    found = near_pairs(np.packbits(bits, axis=1))
    assert [tuple(row) for row in found.tolist()] == sorted(expected)


def test_a_thousand_equal_images_make_no_million_pairs():
    assert len(near_pairs(np.zeros((1000, HASH_BITS // 8), np.uint8))) == 999


def test_copies_stay_near_and_strangers_far(shared_folder, tmp_path):
    """Resized and recompressed copies of real images, against other real images."""
    paths = sorted((shared_folder / "data" / "originals").glob("*.jpg"))[:20]
    hashes = []
    for path in paths:
        with Image.open(path) as image:
            copy = saved(tmp_path, path.stem, image.resize((300, 225)), quality=60)
        hashes += [perceptual_hash(str(path)), perceptual_hash(copy)]
    pairs = near_pairs(np.frombuffer(b"".join(hashes), np.uint8).reshape(40, -1))
    assert {(a, b) for a, b, _ in pairs.tolist()} == {(2 * n, 2 * n + 1) for n in range(20)}


def test_a_copy_in_ham10000_under_another_lesion_is_found(shared_folder):
    """Seen by eye: one photograph in two colour balances, filed under two lesion ids."""
    table = read_table(shared_folder / "data" / "ham10000")
    twins = ["ISIC_0025226", "ISIC_0030074"]
    ids = table.frame["id"].tolist()[:40] + twins
    few = Table(table.frame[table.frame["id"].isin(ids)], table.classes)
    (pair,) = audit(few, workers=1).findings["duplicates_across_lesions"]
    assert pair["ids"] == twins
