"""Three layouts in, one table out: ISIC 2019's own, HAM10000's own, a folder per class."""

import os
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from dermdistill.data.columns import known, numbers, place, read_csv
from dermdistill.data.table import Table, listed
from dermdistill.errors import DataError, unknown_name

TRUTH_SUFFIX, METADATA_SUFFIX, IMAGES_SUFFIX = "_GroundTruth.csv", "_Metadata.csv", "_Input"
HAM_METADATA = "HAM10000_metadata.csv"
HAM_PARTS = "ham10000_images"  # HAM10000_images_part_1 and _2, in either spelling
HAM_COLUMNS = ("lesion_id", "image_id", "dx", "dx_type", "age", "sex", "localization")
HAM_ORDER = ("MEL", "NV", "BCC", "AKIEC", "BKL", "DF", "VASC")  # that of ISIC 2018's truth files
UNKNOWN_CLASS = "UNK"
SCORING_COLUMNS = ("score_weight", "validation_weight")  # in the official test's truth, no classes
EXTENSIONS = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp")
SOURCE_COLUMNS = ("source", "dataset", "camera")  # whose images they are; the first there is
LAYOUTS = ("auto", "isic2019", "ham10000", "folders")


def read_table(
    folder: str | os.PathLike, layout: str = "auto", classes: Sequence[str] | None = None
) -> Table:
    """Read a data set's table; no image is opened.

    Files are joined by image id, never by row. An image that is listed but has no file keeps its
    expected path: audit and pack say what is missing.

    Args:
        folder: the data set's folder, or its one `*_GroundTruth.csv` or `HAM10000_metadata.csv`
            where the folder holds several.
        layout: "isic2019" (`X_GroundTruth.csv` one-hot, `X_Metadata.csv`, images in `X_Input`),
            "ham10000" (`HAM10000_metadata.csv`, images beside it or in HAM10000_images_part_1 and
            _2), "folders" (a folder of images per class), or "auto": whichever is there.
        classes: names and order of the classes; default: the truth file's header order, the seven
            of HAM10000 in ISIC's order, or the folders' names sorted. Images of other classes,
            and those marked UNK, keep their row without a label; UNK is a class only where it is
            named here.

    Raises:
        ConfigError: there is no such layout.
        DataError: a file, a column or a value is missing, wrong or there twice.
    """
    if layout not in LAYOUTS:
        raise unknown_name("layout", layout, LAYOUTS)
    folder = Path(os.path.abspath(folder))
    if not folder.exists():
        raise DataError(f"{folder} does not exist; give the folder of a data set")
    chosen = _detected(folder) if layout == "auto" else layout
    frame, found = READERS[chosen](folder)
    return _with_classes(frame, found, classes, folder)


def _detected(folder: Path) -> str:
    """The one layout that a folder has."""
    if folder.is_file():
        return "ham10000" if folder.name.lower() == HAM_METADATA.lower() else "isic2019"
    fits = []
    if any(folder.glob(f"*{TRUTH_SUFFIX}")):
        fits.append("isic2019")
    if (folder / HAM_METADATA).is_file():
        fits.append("ham10000")
    names = [path.name for path in _folders(folder)]
    # A lone folder of images, or an archive's image folder without its truth file, is no class.
    stray = any(n.endswith(IMAGES_SUFFIX) or n.lower().startswith(HAM_PARTS) for n in names)
    if not fits and not stray and sum(bool(_images(folder / name)) for name in names) > 1:
        fits.append("folders")
    if len(fits) == 1:
        return fits[0]
    if fits:
        raise DataError(f"{folder} has the layouts {' and '.join(fits)}; choose with layout=")
    raise DataError(
        f"{folder} has no known layout. Looked for *{TRUTH_SUFFIX} (isic2019), {HAM_METADATA} "
        f"(ham10000) and at least two subfolders with images (folders); found "
        f"{listed(sorted(p.name for p in folder.iterdir())) or 'nothing'}"
    )


def _with_classes(
    frame: pd.DataFrame, found: list[str], classes: Sequence[str] | None, source: Path
) -> Table:
    """The table with the asked classes, in the asked order."""
    if classes is None:
        classes = [name for name in found if name != UNKNOWN_CLASS]
    absent = [name for name in classes if name not in found]
    if absent:
        raise DataError(f"{source} has no class {listed(absent)}; it has {', '.join(found)}")
    frame["label"] = frame["label"].where(frame["label"].isin(list(classes)))
    if not frame["label"].notna().any():
        raise DataError(f"{source} has no image of the classes {', '.join(classes)}")
    return Table(frame, tuple(classes))


# ---------------------------------------------------------------- ISIC 2019


def _read_isic(folder: Path) -> tuple[pd.DataFrame, list[str]]:
    """ISIC 2019's layout: one-hot truth, metadata where there are any, a folder of images."""
    truth_path = _truth_path(folder)
    root, stem = truth_path.parent, truth_path.name.removesuffix(TRUTH_SUFFIX)
    truth = read_csv(truth_path, "image", ("image",))
    labels, classes = _one_hot(truth, truth_path)
    frame = pd.DataFrame({"id": truth["image"], "label": labels})
    metadata_path = root / f"{stem}{METADATA_SUFFIX}"
    if metadata_path.is_file():
        metadata = read_csv(metadata_path, "image", ("image",))
        frame = _joined(frame, metadata, metadata_path, truth_path)
    else:
        warnings.warn(
            f"{metadata_path} is missing: lesions are unknown, so each image counts as "
            "a lesion of its own and a split cannot keep lesions together",
            stacklevel=4,
        )
    expected = root / f"{stem}{IMAGES_SUFFIX}"
    nested = expected / expected.name  # some mirrors of the archive unpack to a folder in itself
    frame["path"] = _paths(frame["id"], [expected, nested])
    return frame, classes


def _truth_path(folder: Path) -> Path:
    if folder.is_file():
        if not folder.name.endswith(TRUTH_SUFFIX):
            raise DataError(f"{folder} is no truth file; its name must end in {TRUTH_SUFFIX}")
        return folder
    truths = sorted(folder.glob(f"*{TRUTH_SUFFIX}"))
    if not truths:
        raise DataError(
            f"{folder} has no *{TRUTH_SUFFIX}; is it the folder of the unpacked archive?"
        )
    if len(truths) > 1:
        raise DataError(
            f"{folder} has several truth files ({listed(p.name for p in truths)}); "
            f"give one of them, e.g. {truths[0]}"
        )
    return truths[0]


def _one_hot(truth: pd.DataFrame, path: Path) -> tuple[np.ndarray, list[str]]:
    """The class name of every row and the header's classes, UNK among them."""
    classes = [str(c) for c in truth.columns if c != "image" and c not in SCORING_COLUMNS]
    if not classes:
        raise DataError(f"{path} has no class column; its header must be image,CLASS,CLASS,...")
    for name in classes:
        marks = pd.to_numeric(truth[name], errors="coerce")
        wrong = ~marks.isin((0, 1))
        if wrong.any():
            row = int(wrong.argmax())
            raise DataError(
                f"{path} {place(truth, 'image', row)}, column {name}: "
                f"{truth[name].iloc[row]!r} is neither 0 nor 1; correct it"
            )
        truth[name] = marks.astype(np.int8)
    marks = truth[classes].to_numpy()
    sums = marks.sum(axis=1, dtype=np.int64)
    if (sums != 1).any():
        row = int((sums != 1).argmax())
        held = listed(np.array(classes)[marks[row] == 1]) or "none"
        raise DataError(
            f"{path} {place(truth, 'image', row)}: {sums[row]} classes are marked "
            f"({held}); exactly one must be. {int((sums != 1).sum())} such rows"
        )
    return np.array(classes, dtype=object)[marks.argmax(axis=1)], classes


def _joined(
    frame: pd.DataFrame, metadata: pd.DataFrame, path: Path, truth_path: Path
) -> pd.DataFrame:
    """Lesion, age, sex and site of every id; what does not match is counted aloud."""
    ages = numbers(metadata, "age_approx", "image", path)  # while its rows are those of the file
    metadata = metadata.assign(age=ages).set_index("image")
    rows = metadata.index.get_indexer(frame["id"])
    surplus = len(metadata) - int((rows >= 0).sum())
    if surplus:
        warnings.warn(
            f"{path}: {surplus} of {len(metadata)} rows name an image that is not in "
            f"{truth_path.name}; ignored",
            stacklevel=5,
        )
    if (rows < 0).any():
        warnings.warn(
            f"{path}: {int((rows < 0).sum())} of {len(frame)} images have no row; "
            "each counts as a lesion of its own",
            stacklevel=5,
        )
    metadata = metadata.reindex(frame["id"]).reset_index()
    if "lesion_id" not in metadata:
        warnings.warn(
            f"{path} has no column lesion_id: each image counts as a lesion of its own",
            stacklevel=5,
        )
    names = {"age": "age", "lesion": "lesion_id", "patient": "patient_id", "sex": "sex",
             "site": "anatom_site_general", "source": _source_column(metadata)}  # fmt: skip
    return frame.assign(**{new: known(metadata, old) for new, old in names.items()})


# ---------------------------------------------------------------- HAM10000


def _read_ham(folder: Path) -> tuple[pd.DataFrame, list[str]]:
    """HAM10000's layout; dx codes become upper-case class names."""
    path = folder if folder.is_file() else folder / HAM_METADATA
    if not path.is_file():
        raise DataError(f"{path} does not exist; is {folder} the folder of HAM10000?")
    ham = read_csv(path, "image_id", HAM_COLUMNS)
    labels = ham["dx"].astype("str").str.strip().str.upper().where(ham["dx"].notna())
    present = set(labels.dropna())
    classes = [name for name in HAM_ORDER if name in present] + sorted(present - {*HAM_ORDER})
    frame = pd.DataFrame({"id": ham["image_id"], "label": labels})
    frame["age"] = numbers(ham, "age", "image_id", path)
    names = {"lesion": "lesion_id", "sex": "sex", "site": "localization",
             "source": _source_column(ham)}  # fmt: skip
    frame = frame.assign(**{new: known(ham, old) for new, old in names.items()})
    root = path.parent
    parts = [part for part in _folders(root) if part.name.lower().startswith(HAM_PARTS)]
    frame["path"] = _paths(frame["id"], [root, *parts])
    return frame, classes


# ---------------------------------------------------------------- a folder per class


def _read_folders(folder: Path) -> tuple[pd.DataFrame, list[str]]:
    """A tree with a folder per class.

    An id is the file's stem, or class/stem where several classes hold a file of that stem.
    """
    if not folder.is_dir():
        raise DataError(f"{folder} is a file; give the folder that holds a folder per class")
    images = {path.name: _images(path) for path in _folders(folder)}
    empty = [name for name, files in images.items() if not files]
    if empty or not images:
        raise DataError(
            f"{folder}: {'class folder ' + listed(empty) if empty else 'it'} holds no "
            f"{'image' if empty else 'class folder'}; images end in "
            f"{', '.join(EXTENSIONS)}. Fill or remove it"
        )
    rows = [(stem, name, path) for name in images for stem, path in images[name].items()]
    frame = pd.DataFrame(rows, columns=["id", "label", "path"])
    shared = frame["id"].duplicated(keep=False)
    frame["id"] = frame["id"].where(~shared, frame["label"] + "/" + frame["id"])
    warnings.warn(
        f"{folder}: a folder per class names no lesions, so each image counts as a "
        "lesion of its own and a split cannot keep lesions together",
        stacklevel=4,
    )
    return frame, sorted(images)


READERS: dict[str, Callable[[Path], tuple[pd.DataFrame, list[str]]]] = {
    "isic2019": _read_isic,
    "ham10000": _read_ham,
    "folders": _read_folders,
}


# ---------------------------------------------------------------- shared


def _source_column(frame: pd.DataFrame) -> str:
    """The column that says which clinic, archive or camera an image is from."""
    return next((name for name in SOURCE_COLUMNS if name in frame), SOURCE_COLUMNS[0])


def _folders(folder: Path) -> list[Path]:
    """Subfolders in order of name, without hidden ones and an archiver's leftovers."""
    with os.scandir(folder) as entries:
        names = [entry.name for entry in entries if entry.is_dir()]
    return [folder / name for name in sorted(names) if not name.startswith((".", "__"))]


def _images(folder: Path) -> dict[str, str]:
    """Path of every image in a folder by its stem, in order of name."""
    with os.scandir(folder) as entries:
        names = sorted(entry.name for entry in entries)
    images: dict[str, str] = {}
    for name in names:
        stem, extension = os.path.splitext(name)
        if extension.lower() not in EXTENSIONS or stem.startswith("."):
            continue
        if stem in images:
            raise DataError(
                f"{folder} has {os.path.basename(images[stem])} and {name}: two files "
                f"for the id {stem}; remove one"
            )
        images[stem] = os.path.join(folder, name)
    return images


def _paths(ids: pd.Series, folders: Sequence[Path]) -> list[str]:
    """The file of every id; where there is none, the .jpg that was expected in the first folder."""
    files: dict[str, str] = {}
    for folder in folders:
        if folder.is_dir():
            files |= _images(folder)
    missing = os.path.join(folders[0], "")
    return [files.get(name) or f"{missing}{name}.jpg" for name in ids.tolist()]
