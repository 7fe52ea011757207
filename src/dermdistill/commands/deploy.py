"""Commands about bundles and what runs them; heavy imports wait until a command runs."""

import sys
from pathlib import Path

from dermdistill.errors import ConfigError
from dermdistill.run import RESEARCH_NOTICE

LEAST_AGREEMENT = 0.99  # of an 8-bit model's first answers with fp32's


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
    apart = [name for name, model in models.items() if _answers_otherwise(model)]
    if apart:
        print(
            f"{', '.join(apart)}: under {LEAST_AGREEMENT:.0%} the same answers. Training the "
            "student on in 8 bits keeps more: --student.network.int8 true, see docs/bundle.md"
        )


def _answers_otherwise(model) -> bool:
    """Whether an 8-bit model is farther from torch than 8 bits need be."""
    rounded, parity = model.precision == "int8", model.parity
    return rounded and parity is not None and parity.top1_agreement < LEAST_AGREEMENT


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
