"""What each command does; heavy imports wait until a command runs."""

import json
import sys
from dataclasses import fields
from pathlib import Path

from dermdistill.config import Config, load_config
from dermdistill.errors import ConfigError
from dermdistill.run import CONFIG, METRICS, RESEARCH_NOTICE, write_text

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
    shard_images: int = 0,
) -> None:
    """Decode a folder of images once into a memory-mapped store.

    Args:
        folder: the images and their tables.
        store: where the store goes.
        px: side of the packed images.
        crop: "centre", "squash" or "pad".
        layout: "auto", "isic2019", "ham10000" or "folders".
        workers: processes; by default one a core.
        shard_images: images a file; 0 puts all into one.
    """
    from dermdistill.data.pack import pack
    from dermdistill.data.readers import read_table

    packed = pack(read_table(folder, layout), store, px, crop, workers, shard_images=shard_images)
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


def data_tone(folder: str, table: str, masks: str | None = None, layout: str = "auto") -> None:
    """Measure the apparent skin tone of every photograph, for groups; writes a CSV.

    It is a figure of uncalibrated photographs: lamp, white balance and flushed skin move it.

    Args:
        folder: the images and their tables.
        table: the CSV to write: image, angle in degrees, tone, where skin was found, its share.
        masks: folder with the lesions' outlines; without, skin is taken from the image's rim.
        layout: "auto", "isic2019", "ham10000" or "folders".
    """
    from dermdistill.data.readers import read_table
    from dermdistill.data.tone import write_tones

    for name, images in write_tones(read_table(folder, layout), table, masks).items():
        print(f"{name or 'not measured':<13} {images:>6}")


def teach(config: Config, resume: bool = True) -> None:
    """Train the teacher of a config, or find it trained."""
    from dermdistill.distill import teach as train_teacher
    from dermdistill.runtime import is_first_process

    run = train_teacher(config, resume=resume)
    if is_first_process():
        _tell(run)


def distill(config: Config, resume: bool = True) -> None:
    """Run teacher, pretext and student, score them, export the student and write the report."""
    from dermdistill.distill import distill as run_stages
    from dermdistill.runtime import is_first_process

    run = run_stages(config, resume=resume)
    if not is_first_process():
        return
    if config.student.network.metadata == "none":
        export(str(run))
    else:
        print("not exported: the student reads metadata, and a bundle takes images alone",
              file=sys.stderr)  # fmt: skip
    report([str(run)], str(run / REPORT))
    _tell(run)


def compare(
    config: Config,
    methods: str,
    seeds: str = "2021",
    folds: str = "0",
    ray: str = "local",
    cpus_per_run: int = 1,
    gpus_per_run: float = 0.0,
) -> int:
    """Distil a grid of methods, seeds and folds; a CSV, and a table with the spread over seeds.

    Exits with 1 if a run failed; the same command tries it again, and trains nothing twice.

    Args:
        config: what all runs share.
        methods: names, with commas between.
        seeds: numbers, with commas between.
        folds: which folds validate in turn, with commas between.
        ray: "local" starts Ray on this machine, "none" runs one after another in this process,
            else the address of a Ray cluster.
        cpus_per_run: processor cores that a run gets.
        gpus_per_run: GPUs that a run gets; 0.5 lets two share one.
    """
    from dermdistill import compare as grid

    path = grid.compare(
        config, methods.split(","), _numbers("seeds", seeds), _numbers("folds", folds), ray,
        cpus_per_run, gpus_per_run,
    )  # fmt: skip
    print(grid.table(path), end="")
    print(f"runs: {path}")
    print(RESEARCH_NOTICE, file=sys.stderr)
    return 1 if grid.failures(path) else 0


def _numbers(name: str, text: str) -> list[int]:
    try:
        return [int(word) for word in text.split(",")]
    except ValueError as error:
        raise ConfigError(f"{name} is {text!r}; it must be whole numbers with commas between, like "
                          "1,2,3") from error  # fmt: skip


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
    from dermdistill.evaluate.drift import drifts_of, told
    from dermdistill.evaluate.images import score_images

    place = output or f"{model.rstrip('/')}-on-{Path(images).resolve().name}"
    scored = score_images(model, images, place, layout)
    _tell(scored)
    for drift in drifts_of(scored, load_config(scored / CONFIG).evaluation):
        print(*told(drift), sep="\n")


def export(run: str, to: str = "onnx", output: str | None = None) -> None:
    """Export a run's network as a bundle, and compare every format with torch on real images.

    Args:
        run: a run directory.
        to: formats, with commas between them.
        output: the bundle; by default bundle.zip in the run directory.
    """
    from dermdistill.export import BUNDLE, export_run

    models = export_run(Path(run), _words(to), Path(output) if output else None)
    for name, model in models.items():
        print(f"{name:<18} {_parity(model.parity)}")
    print(f"bundle: {output or Path(run) / BUNDLE}")


def _parity(parity) -> str:
    """A model's distance from torch in words."""
    if parity is None:
        return "unverified: it runs on its own devices only"
    return (f"largest difference of a probability {parity.probability:.1e}, same answer on "
            f"{parity.top1_agreement:.1%} of {parity.images} {parity.source}")  # fmt: skip


def bundle_check(path: str) -> int:
    """Verify a bundle: digests, contents, golden images; exit 1 if a runtime answers otherwise.

    Args:
        path: a bundle.
    """
    from dermdistill.bundle import Bundle, check_golden

    bundle = Bundle(path)
    print(f"{path}: whole; {len(bundle.manifest.files)} files, digest {bundle.digest[:12]}")
    found = check_golden(bundle)
    for finding in found:
        mark = {True: "ok", False: "WRONG", None: "-"}[finding.ok]
        print(f"{mark:<6} {finding.what:<18} {finding.words}")
    return 1 if any(finding.ok is False for finding in found) else 0


def predict(
    images: list[str],
    bundle: str = "bundle.zip",
    runtime: str = "onnx",
    threads: int = 1,
    output: str | None = None,
) -> None:
    """Ask a bundle's model about images.

    Args:
        images: image files.
        bundle: the bundle.
        runtime: which of its formats answers.
        threads: how many it may use.
        output: a file for the probabilities in ISIC's submission form.
    """
    from dermdistill.bundle.predict import predict_files, ranked

    predictions, doubts = predict_files(bundle, images, runtime, threads)
    if output:
        predictions.save(output)
    for name, line in zip(images, ranked(predictions, doubts), strict=True):
        print(f"{name}  {line}")
    print(RESEARCH_NOTICE, file=sys.stderr)


def bench(
    bundles: list[str],
    threads: str = "1,2",
    rounds: int = 200,
    formats: str = "",
    output: str = "bench",
) -> None:
    """Measure speed, memory and size of every model of bundles, side by side.

    Args:
        bundles: bundles, the student's and the teacher's for instance.
        threads: numbers of threads, with commas between them.
        rounds: single images timed.
        formats: which models, with commas between them; by default all that run here.
        output: where the table and the drawing go, without .csv and .png.
    """
    from dermdistill.bundle.bench import bench_table

    counts = _words(threads)
    if rounds < 1 or not counts or not all(one.isdecimal() and int(one) for one in counts):
        raise ConfigError(f"threads is {threads!r}, rounds {rounds}; give whole numbers above 0")
    paths, numbers = [Path(one) for one in bundles], [int(one) for one in counts]
    print(bench_table(paths, numbers, rounds, _words(formats), output))


def _words(text: str) -> list[str]:
    return [word.strip() for word in text.split(",") if word.strip()]


def app(folder: str, bundle: str = "bundle.zip", formats: str | None = None) -> None:
    """Write the web app with a bundle's model as static files for any web host.

    Args:
        folder: where the site goes.
        bundle: the bundle.
        formats: its formats that browsers try, in order, with commas between them.
    """
    from dermdistill.app import build_site, write_site
    from dermdistill.bundle import Bundle

    files = build_site(Bundle(bundle), _words(formats or ""))
    write_site(folder, files)
    print(f"{len(files)} files written to {folder}; docs/app.md has what a web host should send")


def serve(
    bundle: str,
    host: str = "127.0.0.1",
    port: int = 8000,
    runtime: str = "onnx",
    formats: str | None = None,
    threads: int = 1,
) -> None:
    """Serve the web app and the model's API on this machine.

    Args:
        bundle: the bundle.
        host: an address of this machine; any other than loopback needs DERMDISTILL_TOKEN.
        port: where it listens; 0 for any free one.
        runtime: which of the bundle's formats answers the API.
        formats: those that browsers try, in order, with commas between them.
        threads: how many the API's model may use.
    """
    from dermdistill.serve import serve as run_server

    run_server(bundle, host, port, runtime, _words(formats or ""), threads)


def report(runs: list[str], output: str = REPORT) -> None:
    """Write one self-contained HTML page about one or several runs.

    Args:
        runs: run directories.
        output: the page.
    """
    from dermdistill.report import write_report

    print(f"report: {write_report([Path(run) for run in runs], Path(output))}")


def methods(name: str | None = None, write: str | None = None) -> None:
    """List the methods, or explain one with its equation and defaults.

    Args:
        name: the method to explain.
        write: a Markdown file to write the whole table to (docs/methods.md is one).
    """
    from dermdistill.methods import METHODS, build_method
    from dermdistill.methods.listing import SURE, markdown, who_teaches

    if write:
        write_text(write, markdown())
        return
    if name is None:
        for key, method in METHODS.items():
            count, about = method.views.count, method.__doc__.splitlines()[0]
            print(f"{key:<16} {count} view{'s' if count > 1 else ' '}  "
                  f"teacher {who_teaches(method):<18} {about}")  # fmt: skip
        return
    method = build_method(name)
    print(f"{name}: {method.__doc__.strip()}\n\nTeacher: {who_teaches(METHODS[name])}\n\n"
          f"Source: {method.source}\nHow sure: {SURE[method.sure]}\n\n"
          "Hyper-parameters:")  # fmt: skip
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
