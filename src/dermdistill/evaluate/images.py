"""A trained network on images it has nothing to do with: another folder, clinic or camera."""

import os
import shutil
from pathlib import Path

from dermdistill.config import load_config
from dermdistill.data.dataset import part_of
from dermdistill.data.pack import pack
from dermdistill.data.readers import read_table
from dermdistill.data.table import Table
from dermdistill.errors import DataError
from dermdistill.evaluate.drift import HOME, write_drift
from dermdistill.evaluate.score import score_part
from dermdistill.models import load_network
from dermdistill.run import CONFIG, METRICS, PROVENANCE, read_json, write_json
from dermdistill.runtime import start_fabric

PROTOCOL = "folder"  # how its test part was chosen: it is another folder of images, all of it
FILES = ("predictions", "truth", "groups")
# What stays beside the new figures: what scalings are fitted on, and what the drift is measured by.
KEPT = {CONFIG: CONFIG} | {
    f"{file}-{part}.csv": f"{file}-{kept}.csv"
    for part, kept in (("validation", "validation"), ("test", HOME)) for file in FILES
}  # fmt: skip


def score_images(
    run: str | os.PathLike,
    images: str | os.PathLike,
    output: str | os.PathLike,
    layout: str = "auto",
    progress: bool = True,
) -> Path:
    """Score a run on every image of a folder; returns the directory with the result.

    The result is itself read like a run: the folder's images are its test part, the run's own
    validation part stays beside them, so that scalings and conformal sets are fitted where they
    always are and judged on the new images; so does its test part, and `drift.json` says what every
    figure lost against it. Its split digest is another, so that a report never
    compares it with the run's own test part.

    Args:
        run: the run directory of a trained network.
        images: the folder, in any layout; its classes must be among the network's.
        output: where the result and the decoded images go.
        layout: of the folder.
        progress: show what happens.

    Raises:
        RunError: `run` is no finished run.
        DataError: the folder cannot be read, or has classes that the network does not know.
    """
    run, output = Path(run), Path(output)
    origin, kept = read_json(run / PROVENANCE), read_json(run / METRICS)
    table = _in_classes(read_table(images, layout), tuple(origin["classes"]), run)
    place = output / f"store-{origin['input_px']}-{origin['crop']}"
    store = pack(table, place, origin["input_px"], origin["crop"], None, progress)
    broken = {name for name, _ in store.broken}
    ids = [name for name in table.frame["id"].tolist() if name not in broken]
    config = load_config(run / CONFIG)
    fabric = start_fabric(config.precision, config.device)
    part = part_of(table, store, ids)
    network = load_network(run).to(fabric.device)
    figures = score_part(network, part, "test", table, output, fabric, config.evaluation)
    for name, new in KEPT.items():
        if (run / name).is_file():
            shutil.copyfile(run / name, output / new)
    split = {"digest": table.digest, "protocol": PROTOCOL}
    named = {"folder": str(store.folder.resolve()), "digest": store.digest}
    write_json(output / PROVENANCE, origin | {
        "split": split, "store": named, "judged_run": str(run.resolve()),
        "images": {"test": len(ids)}, "teacher_run": None, "pretext_run": None,
    })  # fmt: skip
    write_json(output / METRICS, kept | {"test": figures})
    write_drift(output, config.evaluation)
    return output


def _in_classes(table: Table, classes: tuple[str, ...], run: Path) -> Table:
    """The table with the network's classes, of which the folder may hold only some."""
    foreign = [name for name in table.classes if name not in classes]
    if foreign:
        raise DataError(
            f"the images have the classes {', '.join(foreign)}, which the network of {run} does "
            f"not know; it knows {', '.join(classes)}. Rename them, or take these images out"
        )
    return Table(table.frame, classes)
