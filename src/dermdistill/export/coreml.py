"""Core ML for iOS: converted here, run nowhere but on Apple's systems, so labelled unverified."""

import contextlib
import io
import tempfile
from pathlib import Path

import coremltools as ct
import torch

from dermdistill.bundle.formats import FORMATS
from dermdistill.export.ncnn import Planes
from dermdistill.export.subject import Subject

PACKAGES = ("coremltools",)


def convert(subject: Subject) -> dict[str, bytes]:
    """The graph as an ML program in fp16 for iOS 15 and later, an image in."""
    example = torch.zeros(1, 3, subject.px, subject.px)
    program = torch.export.export(Planes(subject.graph).eval(), (example,)).run_decompositions({})
    with contextlib.redirect_stderr(io.StringIO()):  # a progress bar for every pass
        model = ct.convert(
            program, inputs=[ct.ImageType("pixels", shape=tuple(example.shape))],
            outputs=[ct.TensorType(name) for name in subject.graph.output_names],
            minimum_deployment_target=ct.target.iOS15,
        )  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        model.save(f"{folder}/model.mlpackage")
        return {name: (Path(folder) / name).read_bytes() for name in FORMATS["coreml"].files}
