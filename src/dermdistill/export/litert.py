"""LiteRT for phones and browsers: one image at a time, pixels as float32 from 0 to 255."""

import contextlib
import io
import tempfile
from pathlib import Path

import litert_torch
import torch

from dermdistill.export.subject import Subject

PACKAGES = ("litert-torch", "ai-edge-litert")


def convert(subject: Subject) -> dict[str, bytes]:
    """The graph as a .tflite file in fp32."""
    example = torch.zeros(1, subject.px, subject.px, 3)
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
        path = Path(folder) / "model.tflite"
        litert_torch.convert(subject.graph, (example,)).export(str(path))
        return {path.name: path.read_bytes()}
