"""A synthetic dermoscopy set in ISIC 2019's layout: for tests, the demo and nothing else.

Lesions are painted from what absorbs and scatters light in skin (melanin, blood, deep pigment,
scars, scale), photographed through an imagined dermatoscope, several times each for some. The
classes overlap on purpose. No model trained on it says anything about skin.
"""

import csv
import os
import shutil
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from dermdistill.data.phantom_lesion import SPAN, lesion
from dermdistill.data.phantom_looks import (
    CLASSES,
    LOOKS,
    MIMIC_CHANCE,
    MIMICS,
    SITE_SHARES,
    SITES,
)
from dermdistill.data.phantom_view import photograph
from dermdistill.data.workers import cores, process_pool
from dermdistill.errors import ConfigError, DataError, RunError
from dermdistill.run import read_json, write_json

VERSION = 1  # of the painting: another version paints other bytes from one seed
MARK = "synthesis.json"  # beside the data: what made them
NAME = "ISIC_2019_Training"
LEAST_IMAGES = 2 * len(CLASSES)
PX_RANGE = (32, 1024)
ASPECT = 3 / 4  # height of the width, as dermatoscopes photograph
JPEG_QUALITY = 92
# So many lesions of the rarest class, if the set is large enough, that a test set and five folds,
# split by lesion, each have some; of small sets every class gets one lesion in so many images.
FEWEST_LESIONS, IMAGES_PER_FEWEST = 10, 24
VIEW_SHARES = (0.72, 0.18, 0.07, 0.03)  # lesions with 1, 2, 3 and 4 images
AGE_DEVIATION, AGE_STEP, AGE_RANGE = 14, 5, (5, 85)
MISSING = {"site": 0.15, "age": 0.03, "sex": 0.03, "lesion": 0.08}
PLAN, PAINT = 0, 1  # purposes of a generator: one draws who is in the set, the other paints


@dataclass(frozen=True)
class Lesion:
    """One lesion of the plan: its number, class, images and metadata ("" where missing)."""

    number: int
    label: str
    images: tuple[str, ...]
    name: str
    age: str
    sex: str
    site: str


def synthesise(folder: str | os.PathLike, images: int = 400, px: int = 128, seed: int = 2021,
               workers: int | None = None) -> Path:  # fmt: skip
    """Write a synthetic dermoscopy set in ISIC 2019's layout.

    Classes are as unequal as in ISIC 2019, but of 240 images or more each class has at least ten
    lesions. Some lesions have several images; a lesion's id is missing only where it has one
    image, so that a split by lesion stays clean. The bytes depend on `images`, `px`, `seed` and
    the versions of NumPy and Pillow, not on `workers`.

    Args:
        folder: new, empty, or an earlier result of the same settings, which is kept.
        images: how many, at least 16.
        px: their width, 32 to 1024; the height is 3/4 of it.
        seed: of everything drawn.
        workers: processes; None takes one a core.

    Returns:
        The folder, which is complete or absent.

    Raises:
        ConfigError: `images` or `px` is not allowed.
        DataError: the folder holds something else, or cannot be written.
    """
    low, high = PX_RANGE
    if images < LEAST_IMAGES or not low <= px <= high or seed < 0:
        raise ConfigError(f"images={images}, px={px}, seed={seed}: allowed are {LEAST_IMAGES} or "
                          f"more images, px from {low} to {high}, a seed of 0 or more")  # fmt: skip
    folder = Path(folder).absolute()
    settings = {"version": VERSION, "images": images, "px": px, "seed": seed}
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        return _same(folder, settings)
    work = folder.with_name(f".{folder.name}.synthesising")
    try:
        shutil.rmtree(work, ignore_errors=True)
        (work / f"{NAME}_Input").mkdir(parents=True)
        lesions = plan(images, seed)
        _paint_all(lesions, work / f"{NAME}_Input", px, seed, workers)
        _write_tables(lesions, work)
        write_json(work / MARK, settings)
        if folder.exists():
            folder.rmdir()
        os.rename(work, folder)
    except (OSError, RunError) as error:
        shutil.rmtree(work, ignore_errors=True)
        raise DataError(f"cannot write the synthetic set to {folder}: {error}; free the disk or "
                        "choose another folder") from error  # fmt: skip
    return folder


def _same(folder: Path, settings: dict) -> Path:
    """The folder, if it is an earlier result of the same settings."""
    found = None
    if (folder / MARK).is_file():
        found = read_json(folder / MARK)
    if found != settings:
        what = f"the synthetic set {found}" if found else "other files"
        raise DataError(f"{folder} holds {what}; wanted is {settings}: choose another folder or "
                        "empty this one")  # fmt: skip
    return folder


def plan(images: int, seed: int) -> list[Lesion]:
    """Who is in the set: lesions with their class, metadata and image names."""
    rng = np.random.default_rng([seed, PLAN])
    views: list[int] = []
    while sum(views) < images:
        views.append(min(1 + int(rng.choice(len(VIEW_SHARES), p=VIEW_SHARES)), images - sum(views)))
    labels = _labels(len(views), max(1, min(FEWEST_LESIONS, images // IMAGES_PER_FEWEST)))
    labels = [labels[index] for index in rng.permutation(len(labels))]
    numbers = iter(rng.permutation(images) + 1)  # a lesion's images do not stand side by side
    return [_person(rng, number, label,
                    tuple(f"SYNTH_{next(numbers):07d}" for _ in range(count)))
            for number, (label, count) in enumerate(zip(labels, views, strict=True))]  # fmt: skip


def _labels(lesions: int, fewest: int) -> list[str]:
    """Classes in proportion to their shares, the rarest no rarer than `fewest` where it fits."""
    fewest = min(fewest, lesions // len(CLASSES))
    counts = Counter({label: max(fewest, int(look.share * lesions)) for label, look in
                      LOOKS.items()})  # fmt: skip
    while counts.total() != lesions:
        counts[counts.most_common(1)[0][0]] += 1 if counts.total() < lesions else -1
    return list(counts.elements())


def _person(rng: np.random.Generator, number: int, label: str, images: tuple[str, ...]) -> Lesion:
    look = LOOKS[label]
    age = np.clip(AGE_STEP * round(rng.normal(look.age, AGE_DEVIATION) / AGE_STEP), *AGE_RANGE)
    sex = str(rng.choice(["male", "female"]))
    site = "head/neck" if rng.random() < look.head else str(rng.choice(SITES, p=SITE_SHARES))
    absent = {name: rng.random() < chance for name, chance in MISSING.items()}
    return Lesion(
        number, label, images,
        name="" if absent["lesion"] and len(images) == 1 else f"SYNTH_LESION_{number:06d}",
        age="" if absent["age"] else f"{float(age)}",
        sex="" if absent["sex"] else sex,
        site="" if absent["site"] else site,
    )  # fmt: skip


def _paint_all(lesions: list[Lesion], folder: Path, px: int, seed: int,
               workers: int | None) -> None:  # fmt: skip
    """Paint every lesion's images, in several processes where that is worth their start."""
    workers = workers or cores()
    shares = [(lesions[start::workers], folder, px, seed) for start in range(workers)]
    if workers == 1:
        _paint(shares[0])
        return
    with process_pool(workers) as pool:
        list(pool.map(_paint, shares))


def _paint(share: tuple[list[Lesion], Path, int, int]) -> None:
    lesions, folder, px, seed = share
    size = (px, round(px * ASPECT))
    for each in lesions:
        rng = np.random.default_rng([seed, PAINT, each.number])
        look = each.label
        if rng.random() < MIMIC_CHANCE:
            look = str(rng.choice(MIMICS[look]))
        skin = lesion(rng, LOOKS[look], round(SPAN * size[1]))
        for view, name in enumerate(each.images):
            rng = np.random.default_rng([seed, PAINT, each.number, 1 + view])
            photograph(rng, skin, size).save(folder / f"{name}.jpg", quality=JPEG_QUALITY)


def _write_tables(lesions: Iterable[Lesion], folder: Path) -> None:
    """The two tables of ISIC 2019, ordered by image."""
    rows = sorted((image, each) for each in lesions for image in each.images)
    tables = {
        "GroundTruth": [["image", *CLASSES, "UNK"]] + [
            [image, *(f"{float(each.label == label)}" for label in CLASSES), "0.0"]
            for image, each in rows],
        "Metadata": [["image", "age_approx", "anatom_site_general", "lesion_id", "sex"]] + [
            [image, each.age, each.site, each.name, each.sex] for image, each in rows],
    }  # fmt: skip
    for name, table in tables.items():
        with open(folder / f"{NAME}_{name}.csv", "w", encoding="utf-8", newline="") as file:
            csv.writer(file, lineterminator="\n").writerows(table)
