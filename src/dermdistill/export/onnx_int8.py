"""ONNX in int8 for laptops and servers: static ranges, found on training images of every class.

Weights are signed and have a scale a channel, activations are unsigned: on x86 signed ones run no
faster than fp32. What reads fine maps (`is_coarse`) and the heads on the last one stay in fp32.
"""

import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
from onnxruntime.quantization import (
    CalibrationDataReader,
    CalibrationMethod,
    QuantFormat,
    QuantType,
    quantize_static,
)
from onnxruntime.quantization.shape_inference import quant_pre_process

from dermdistill.export import onnx as onnx_fp32
from dermdistill.export.subject import Subject
from dermdistill.models import is_coarse

PACKAGES = (*onnx_fp32.PACKAGES, "onnxruntime")
BATCH = 16
QUANTISED = ["Conv", "Add", "MatMul", "Gemm", "GlobalAveragePool", "Mul", "HardSigmoid",
             "HardSwish", "Concat", "MaxPool", "AveragePool",
             "Relu", "Clip"]  # fmt: skip


class _Reader(CalibrationDataReader):
    """Pixels in batches, as the quantiser asks for them."""

    def __init__(self, pixels: np.ndarray):
        self._batches: Iterator[np.ndarray] = iter(
            np.array_split(pixels, max(1, -(-len(pixels) // BATCH)))
        )

    def get_next(self) -> dict[str, np.ndarray] | None:
        """The next batch, None after the last."""
        batch = next(self._batches, None)
        return None if batch is None else {"pixels": batch}


def convert(subject: Subject) -> dict[str, bytes]:
    """The graph in ONNX with quantised convolutions, uint8 pixels in."""
    pixels = subject.calibration_pixels()
    with tempfile.TemporaryDirectory() as folder:
        plain, ready, done = (Path(folder) / name for name in ("plain", "ready", "done"))
        plain.write_bytes(onnx_fp32.write(subject.rounded))
        quant_pre_process(str(plain), str(ready), skip_symbolic_shape=True)
        quantize_static(
            str(ready), str(done), _Reader(pixels), quant_format=QuantFormat.QDQ,
            op_types_to_quantize=QUANTISED, per_channel=True, activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8, calibrate_method=CalibrationMethod.MinMax,
            nodes_to_exclude=_edges(onnx.load(ready), subject.px),
        )  # fmt: skip
        model = onnx_fp32.bare(onnx.load(done))
        return {"model.onnx": model.SerializeToString(deterministic=True)}


def _edges(model: onnx.ModelProto, image_px: int) -> list[str]:
    """The nodes that read fine maps, and all that follows from the last features."""
    nodes = list(model.graph.node)  # each after what it needs
    maker = {output: node for node in nodes for output in node.output}
    head = maker["logits"]
    while head.op_type not in ("Conv", "Gemm", "MatMul"):
        head = maker[head.input[0]]
    reached, after = {head.input[0]}, []
    for node in nodes:
        if reached & set(node.input):
            reached |= set(node.output)
            after.append(node.name)
    sides = _sides(model)
    fine = {name for name, side in sides.items() if not is_coarse(side, image_px)}
    return [node.name for node in nodes if fine & set(node.input)] + after


def _sides(model: onnx.ModelProto) -> dict[str, int]:
    """Rows of every map of the graph, by name."""
    graph = onnx.shape_inference.infer_shapes(model).graph
    shapes = {value.name: value.type.tensor_type.shape.dim for value in graph.value_info}
    return {name: shape[2].dim_value for name, shape in shapes.items() if len(shape) == 4}
