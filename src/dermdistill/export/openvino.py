"""OpenVINO for Intel processors: its own files from the ONNX graph, weights kept in fp32."""

import tempfile
from pathlib import Path

import openvino

from dermdistill.export import onnx as onnx_fp32
from dermdistill.export.subject import Subject

PACKAGES = (*onnx_fp32.PACKAGES, "openvino")


def convert(subject: Subject) -> dict[str, bytes]:
    """The graph as OpenVINO's IR, uint8 pixels in, any batch size."""
    with tempfile.TemporaryDirectory() as folder:
        source, target = Path(folder) / "model.onnx", Path(folder) / "model.xml"
        source.write_bytes(onnx_fp32.convert(subject)["model.onnx"])
        openvino.save_model(openvino.convert_model(source), target, compress_to_fp16=False)
        return {path.name: path.read_bytes() for path in (target, target.with_suffix(".bin"))}
