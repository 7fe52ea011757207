"""ONNX for laptops, servers and browsers: any batch size, standard operators only."""

import contextlib
import io
import logging
import tempfile
from pathlib import Path

import onnx
import torch

from dermdistill.export.subject import Subject

OPSET = 20
PACKAGES = ("onnx", "onnxscript")


def convert(subject: Subject) -> dict[str, bytes]:
    """The graph in ONNX, fp32, uint8 pixels in."""
    graph, px = subject.graph, subject.px
    example = torch.zeros(2, px, px, 3, dtype=torch.uint8)
    batch = torch.export.Dim("batch", min=1)
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    with (
        contextlib.redirect_stdout(io.StringIO()),  # the exporter prints its own progress
        tempfile.TemporaryDirectory() as folder,
    ):
        program = torch.onnx.export(
            graph, (example,), dynamo=True, opset_version=OPSET, input_names=["pixels"],
            output_names=list(graph.output_names), dynamic_shapes=({0: batch},),
            external_data=False,
        )  # fmt: skip
        path = Path(folder) / "model.onnx"
        program.save(str(path), external_data=False)
        return {"model.onnx": bare(onnx.load(path)).SerializeToString(deterministic=True)}


def bare(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model without the exporter's notes, which hold the paths of the machine that made it."""
    del model.metadata_props[:], model.graph.metadata_props[:], model.graph.value_info[:]
    model.doc_string = model.graph.doc_string = ""
    for part in (*model.graph.node, *model.graph.input, *model.graph.output,
                 *model.graph.initializer):  # fmt: skip
        del part.metadata_props[:]
        part.doc_string = ""
    return model
