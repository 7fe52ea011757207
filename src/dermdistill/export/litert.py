"""LiteRT for phones and browsers: one image at a time, pixels as float32 from 0 to 255."""

import contextlib
import io
import tempfile
from pathlib import Path

import litert_torch
import torch

from dermdistill.export.graph import DeployedGraph
from dermdistill.export.subject import Subject

PACKAGES = ("litert-torch", "ai-edge-litert")


def convert(subject: Subject) -> dict[str, bytes]:
    """The graph as a .tflite file in fp32."""
    return {"model.tflite": write(subject.graph)}


def write(graph: DeployedGraph) -> bytes:
    """A graph as a .tflite file."""
    example = torch.zeros(1, graph.input_px, graph.input_px, 3)
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
        path = Path(folder) / "model.tflite"
        litert_torch.convert(graph, (example,)).export(str(path))
        return path.read_bytes()
