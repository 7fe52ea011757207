"""A run's network as a bundle: a converter a format, each compared with torch before it counts."""

import hashlib
import importlib
import importlib.metadata
import importlib.util
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from types import ModuleType

import numpy as np

from dermdistill.bundle.archive import write_archive
from dermdistill.bundle.formats import FORMATS, Format, require_format
from dermdistill.bundle.manifest import (
    CARD,
    MANIFEST,
    File,
    Input,
    Manifest,
    Model,
    Parity,
    Preprocessing,
)
from dermdistill.bundle.reader import Bundle
from dermdistill.bundle.runtimes import Answers, load_runtime
from dermdistill.errors import ConfigError, RunError, ToolchainError
from dermdistill.export.card import write_card
from dermdistill.export.golden import golden_files
from dermdistill.export.subject import Subject
from dermdistill.run import METRICS, atomic_write, read_json, write_json

BUNDLE, PARITY = "bundle.zip", "parity.json"  # in the run directory
# Of a probability. Kernels of two runtimes differ by about 1e-6 in fp32; more is a wrong graph.
FP32_TOLERANCE = 1e-4
# format -> module here, see `converter`.
CONVERTERS = {
    "onnx": "onnx",
    "onnx-int8": "onnx_int8",
    "openvino": "openvino",
    "litert": "litert",
    "litert-int8": "litert_int8",
    "executorch": "executorch",
    "executorch-int8": "executorch_int8",
    "ncnn": "ncnn",
    "coreml": "coreml",
}


def export_run(
    run: Path, to: Sequence[str] = ("onnx",), output: Path | None = None
) -> dict[str, Model]:
    """Export a run's network into one bundle; return what it holds.

    Writes `RUN/bundle.zip` (or `output`) and `RUN/parity.json`.

    Args:
        run: a run directory.
        to: formats, each a key of `FORMATS`.
        output: where the bundle goes.

    Raises:
        ConfigError: no such format.
        ToolchainError: a package that a format needs is not installed.
        RunError: the run is not finished, or an fp32 export does not agree with torch.
    """
    if not to:
        raise ConfigError(f"no format is given; choose from {', '.join(FORMATS)}")
    for name in to:
        _require_writer(name, require_format(name))
    metrics = read_json(run / METRICS)
    subject = Subject.of(run)
    pixels, source = subject.held_out()
    answers = subject.answers(pixels)
    models, files = {}, {}
    for name in to:
        converted = converter(name).convert(subject)
        models[name] = _describe(name, converted, subject, (pixels, source, answers))
        files |= {f"models/{name}/{file}": content for file, content in converted.items()}
    path = output or run / BUNDLE
    _write(path, subject, models, files, metrics)
    write_json(run / PARITY, {name: model.parity and asdict(model.parity)
                              for name, model in models.items()})  # fmt: skip
    return models


def converter(name: str) -> ModuleType:
    """The module that writes a format: `convert(subject)` gives its files, PACKAGES made them."""
    return importlib.import_module(f"{__name__}.{CONVERTERS[name]}")


def _require_writer(name: str, known: Format) -> None:
    if importlib.util.find_spec(known.writer) is None:
        raise ToolchainError(
            f"writing {name} needs {known.writer}, which is not installed: "
            f"pip install '{known.install}'"
        )


def _describe(
    name: str, files: dict[str, bytes], subject: Subject, asked: tuple[np.ndarray, str, Answers]
) -> Model:
    """A converted model's description, with its distance from torch measured by its runtime."""
    known = FORMATS[name]
    model = Model(
        engine=known.engine,
        precision=known.precision,
        files=[f"models/{name}/{file}" for file in known.files],
        input=Input(known.input, known.pixel_type, known.layout, known.batch),
        outputs=known.outputs(subject.graph.output_names),
        parity=None,
        made_with={package: importlib.metadata.version(package)
                   for package in ("torch", *converter(name).PACKAGES)},
    )  # fmt: skip
    if known.reader is None:
        return model
    pixels, source, answers = asked
    parity = compare(load_runtime(name, model, files).predict(pixels), answers, source)
    if known.precision == "fp32" and parity.probability > FP32_TOLERANCE:
        raise RunError(
            f"the {name} export of {subject.run} differs from torch by {parity.probability:.2g} of "
            f"a probability (allowed: {FP32_TOLERANCE:g}), so nothing was kept. Leave the format "
            f"out, and please report the network {subject.origin['network']!r} with the versions "
            f"{model.made_with}"
        )
    return Model(**vars(model) | {"parity": parity})


def compare(theirs: Answers, ours: Answers, source: str) -> Parity:
    """How far a runtime's answers are from torch's."""
    return Parity(
        images=len(ours.logits),
        source=source,
        probability=float(np.abs(theirs.probabilities - ours.probabilities).max()),
        top1_agreement=float((theirs.logits.argmax(1) == ours.logits.argmax(1)).mean()),
    )


def _write(
    path: Path, subject: Subject, models: dict[str, Model], files: dict[str, bytes], metrics: dict
) -> None:
    """Gather everything, write it, and open it as a stranger would."""
    network, origin = subject.graph.network, subject.origin
    spec = Preprocessing(
        subject.px, origin["crop"], network.mean.flatten().tolist(), network.std.flatten().tolist()
    )
    files = {CARD: write_card(subject, models).encode(), **golden_files(subject, spec), **files}
    files = dict(sorted(files.items()))
    manifest = Manifest(
        name=subject.run.name,
        classes=origin["classes"],
        preprocessing=spec,
        map_px=subject.map_px,
        models=models,
        files={name: File(hashlib.sha256(content).hexdigest(), len(content))
               for name, content in files.items()},
        provenance={
            **{key: origin[key] for key in ("network", "method", "seed", "commit", "versions")},
            "split": origin["split"], "images": origin["images"],
            "parameters": metrics["cost"]["parameters"],
            "test": {key: metrics["test"][key] for key in
                     ("images", "balanced_accuracy", "accuracy", "macro_auc")},
        },
        **vars(subject.decision),
    )  # fmt: skip
    with atomic_write(path) as temporary:
        write_archive(temporary, {MANIFEST: manifest.to_json(), **files})
        Bundle(temporary)
