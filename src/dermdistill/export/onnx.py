"""ONNX for laptops, servers and browsers: any batch size, standard operators only."""

import contextlib
import functools
import io
import logging
import tempfile
from pathlib import Path

import onnx
import torch

from dermdistill.export.graph import DeployedGraph
from dermdistill.export.subject import Subject

OPSET = 20
PACKAGES = ("onnx", "onnxscript")


def convert(subject: Subject) -> dict[str, bytes]:
    """The graph in ONNX, fp32, uint8 pixels in."""
    return {"model.onnx": write(subject.graph)}


@functools.lru_cache(maxsize=1)  # OpenVINO starts from the same file
def write(graph: DeployedGraph) -> bytes:
    """A graph in ONNX."""
    example = torch.zeros(2, graph.input_px, graph.input_px, 3, dtype=torch.uint8)
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
        return bare(onnx.load(path)).SerializeToString(deterministic=True)


def bare(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model without what its makers noted and did not need.

    The exporter's notes hold paths of the machine that made it; ONNX Runtime's optimiser declares
    every family of operators that it knows.
    """
    needed = {node.domain for node in model.graph.node}
    kept = [entry for entry in model.opset_import if entry.domain in needed]
    del model.opset_import[:]
    model.opset_import.extend(kept)
    del model.metadata_props[:], model.graph.metadata_props[:], model.graph.value_info[:]
    model.doc_string = model.graph.doc_string = ""
    for part in (*model.graph.node, *model.graph.input, *model.graph.output,
                 *model.graph.initializer):  # fmt: skip
        del part.metadata_props[:]
        part.doc_string = ""
    return model
