"""What each command does; heavy imports wait until a command runs."""

import json
import sys
from dataclasses import fields
from pathlib import Path

from dermdistill.config import Config
from dermdistill.errors import ConfigError
from dermdistill.run import METRICS, RESEARCH_NOTICE

REPORT = "report.html"


def data_fetch(
    name: str = "isic2019", folder: str = "isic2019", base_url: str | None = None
) -> None:
    """Download a public data set, with resume and checksums.

    Args:
        name: which data set.
        folder: where it goes.
        base_url: a mirror to download from instead of the official address.
    """
    from dermdistill.data.fetch import fetch

    print(fetch(name, folder, base_url))


def data_synth(
    folder: str, images: int = 400, px: int = 128, seed: int = 2021, workers: int | None = None
) -> None:
    """Write the synthetic dermoscopy set, in ISIC 2019's layout.

    Args:
        folder: where it goes.
        images: how many, at least 16.
        px: width of an image.
        seed: another seed, other lesions.
        workers: processes; by default one a core.
    """
    from dermdistill.data.phantom import synthesise

    print(synthesise(folder, images, px, seed, workers))


def data_pack(
    folder: str,
    store: str,
    px: int = 224,
    crop: str = "centre",
    layout: str = "auto",
    workers: int | None = None,
) -> None:
    """Decode a folder of images once into a memory-mapped store.

    Args:
        folder: the images and their tables.
        store: where the store goes.
        px: side of the packed images.
        crop: "centre", "squash" or "pad".
        layout: "auto", "isic2019", "ham10000" or "folders".
        workers: processes; by default one a core.
    """
    from dermdistill.data.pack import pack
    from dermdistill.data.readers import read_table

    packed = pack(read_table(folder, layout), store, px, crop, workers)
    for name, reason in packed.broken:
        print(f"broken: {name}: {reason}")


def data_split(
    folder: str,
    split: str,
    protocol: str = "lesion",
    test_fraction: float | None = None,
    folds: int = 5,
    seed: int = 2021,
    layout: str = "auto",
) -> None:
    """Deal images into a test part and folds, whole lesions together, and write the split.

    Args:
        folder: the images and their tables.
        split: the file to write.
        protocol: "lesion", or the paper's "image", which tears lesions apart and warns.
        test_fraction: share of the test part; by default 0.2 by lesion, 0.1 by image.
        folds: how many folds the rest is dealt into.
        seed: another seed, another split.
        layout: "auto", "isic2019", "ham10000" or "folders".
    """
    from dermdistill.data.readers import read_table
    from dermdistill.data.splits import make_split

    table = read_table(folder, layout)
    made = make_split(table, protocol, test_fraction, folds, seed)
    made.save(split)
    counts = made.frame.merge(table.frame[["id", "label"]], on="id")
    print(counts.groupby(["part", "label"]).size().unstack(fill_value=0).to_string())
    print(f"split {made.digest[:12]} written to {split}")


def data_audit(
    folder: str,
    split: str | None = None,
    layout: str = "auto",
    images: bool = True,
    json_file: str | None = None,
) -> int:
    """Find missing, broken and twin images, torn lesions and absent classes; exit 1 if any.

    Args:
        folder: the images and their tables.
        split: a split file to check too.
        layout: "auto", "isic2019", "ham10000" or "folders".
        images: open every image; without, only the tables are read.
        json_file: where to write the findings for a program.
    """
    from dermdistill.data.audit import audit
    from dermdistill.data.readers import read_table
    from dermdistill.data.splits import Split
    from dermdistill.run import write_json

    found = audit(read_table(folder, layout), Split.load(split) if split else None, images)
    print(found.text())
    if json_file:
        write_json(json_file, found.findings)
    return 0 if found.ok else 1


def teach(config: Config, resume: bool = True) -> None:
    """Train the teacher of a config, or find it trained."""
    from dermdistill.distill import teach as train_teacher

    _tell(train_teacher(config, resume=resume))


def distill(config: Config, resume: bool = True) -> None:
    """Run teacher, pretext and student, score them, export the student and write the report."""
    from dermdistill.distill import distill as run_stages

    run = run_stages(config, resume=resume)
    export(str(run))
    report([str(run)], str(run / REPORT))
    _tell(run)


def evaluate(
    run: str | None = None,
    images: str | None = None,
    model: str | None = None,
    output: str | None = None,
    layout: str = "auto",
) -> None:
    """Score a finished run again on its held-out images, or on another folder of images.

    Args:
        run: a run directory; its figures and predictions are rewritten.
        images: a folder of labelled images to score a run on instead.
        model: the run directory to score on `images`; no file of it is changed.
        output: where that result goes; by default beside the model.
        layout: of `images`: "auto", "isic2019", "ham10000" or "folders".
    """
    if (images is None) == (run is None) or (images is None) != (model is None):
        raise ConfigError(
            "evaluate takes a run directory, or --images FOLDER with --model RUN; "
            "see `dermdistill evaluate --help`"
        )
    if images is None:
        from dermdistill.distill import evaluate as score_again

        score_again(Path(run))
        _tell(Path(run))
        return
    from dermdistill.evaluate.images import score_images

    place = output or f"{model.rstrip('/')}-on-{Path(images).resolve().name}"
    _tell(score_images(model, images, place, layout))


def export(run: str, to: str = "onnx") -> None:
    """Export a run's network, and compare it with torch on real images.

    Args:
        run: a run directory.
        to: the format; "onnx" is the one there is today.
    """
    from dermdistill.export import export_run

    parity = export_run(Path(run), to)
    print(f"{to}: largest logit difference {parity['largest_logit_difference']:.1e} over "
          f"{parity['images']} images, same answer on {parity['top1_agreement']:.1%}")  # fmt: skip


def report(runs: list[str], output: str = REPORT) -> None:
    """Write one self-contained HTML page about one or several runs.

    Args:
        runs: run directories.
        output: the page.
    """
    from dermdistill.report import write_report

    print(f"report: {write_report([Path(run) for run in runs], Path(output))}")


def methods(name: str | None = None) -> None:
    """List the methods, or explain one with its equation and defaults.

    Args:
        name: the method to explain.
    """
    from dermdistill.methods import METHODS, build_method

    if name is None:
        for key, method in METHODS.items():
            print(f"{key:<12} {method.views} view{'s' if method.views > 1 else ' '}  "
                  f"teacher {method.teacher:<7} {method.__doc__.splitlines()[0]}")  # fmt: skip
        return
    method = build_method(name)
    print(f"{name}: {method.__doc__.strip()}\n\nSource: {method.source}\n\nHyper-parameters:")
    for field in fields(method):
        print(f"  {field.name:<20} {field.default}")


def demo(output: str = "runs/demo", images: int = 640, px: int = 64, seed: int = 2021) -> None:
    """Run the main job on synthetic images, from nothing to a report, in a few minutes.

    Args:
        output: folder of the data, the runs and the report.
        images: synthetic images.
        px: side of the images.
        seed: of images and training.
    """
    from dermdistill.demo import demo_config

    data_synth(f"{output}/data", images, 2 * px, seed)
    distill(demo_config(output, px, seed))


def _tell(run: Path) -> None:
    """The figures of a run in a few lines."""
    metrics = json.loads((run / METRICS).read_text())
    for part in ("validation", "test"):
        figures = metrics[part]
        print(f"{part:<10} balanced accuracy {figures['balanced_accuracy']:.3f}, accuracy "
              f"{figures['accuracy']:.3f}, {figures['images']} images")  # fmt: skip
    print(f"run: {run}")
    print(RESEARCH_NOTICE, file=sys.stderr)
