"""LiteRT in int8: static ranges, the widest seen; input and output stay float for the browser.

The quantiser's own calibration averages the ranges of the batches, which clips what is rare, and
its public call cannot be told otherwise; hence its Calibrator with an update of its own.

Tensors are named by every module on their way, which makes 140 kB of 2.9 MB; here they get short
names, which say only whether eight bits are meant to touch them. And it counts a channel's bias in
steps of its weights: where these are all but nothing the count overflows, to the opposite of the
bias, so such channels get a weight that shows in nothing else.
"""

import contextlib
import io
import re
from collections.abc import Sequence

import numpy as np
from ai_edge_litert.schema_py_generated import BufferT, BuiltinOperator, SubGraphT
from ai_edge_litert.tools.flatbuffer_utils import (
    convert_object_to_bytearray,
    read_model_from_bytearray,
)
from ai_edge_quantizer import calibrator, quantizer
from ai_edge_quantizer.algorithm_manager import AlgorithmName
from ai_edge_quantizer.qtyping import TFLOperationName
from ai_edge_quantizer.recipe_manager import RecipeManager
from ai_edge_quantizer.utils.qsv_utils import min_max_update

from dermdistill.bundle.formats import FORMATS
from dermdistill.export import litert
from dermdistill.export.subject import Subject
from dermdistill.models import is_coarse

PACKAGES = (*litert.PACKAGES, "ai-edge-quantizer")
SIGNATURE = "serving_default"
# Of the deployed graph itself: its own tensors, whose names have no module path, and its two heads.
HEADS = r"^[^/]*$|class_maps|prototypes"
CHANNEL_AXIS = {BuiltinOperator.CONV_2D: 0, BuiltinOperator.DEPTHWISE_CONV_2D: 3}  # of weights
# Of a channel's bias, or of 1 if that is less: counts stay below 2^31 where inputs range over 1.
LEAST = 2.0**-15
EDGE, INNER = "edge", "inner"  # in fp32, as in ONNX; in 8 bits


def convert(subject: Subject) -> dict[str, bytes]:
    """The graph as a .tflite file with quantised convolutions."""
    content = made_ready(litert.write(subject.rounded), subject.px)
    recipe = RecipeManager()
    operations = TFLOperationName
    recipe.add_static_config(".*", operations.ALL_SUPPORTED, 8, 8)
    for regex, operation in ((f"^{EDGE}", operations.ALL_SUPPORTED), (".*", operations.INPUT),
                             (".*", operations.OUTPUT)):  # fmt: skip
        recipe.add_quantization_config(regex, operation, algorithm_key=AlgorithmName.NO_QUANTIZE)
    name = FORMATS["litert-int8"].input
    images = [{name: image[None].astype(np.float32)} for image in subject.calibration_pixels()]
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        seen = calibrator.Calibrator(content, qsv_update_func=min_max_update)
        seen.calibrate({SIGNATURE: images}, recipe)
        made = quantizer.Quantizer(content, recipe.get_quantization_recipe())
        done = made.quantize(seen.get_model_qsvs(), enable_progress_report=False)
    return {"model.tflite": bytes(done.quantized_model)}


def made_ready(content: bytes, image_px: int) -> bytes:
    """The same model with tensors called EDGE or INNER and their number; signatures keep theirs.

    And with a weight in every channel that its bias can be counted in.
    """
    model = read_model_from_bytearray(content)
    for graph in model.subgraphs:
        edges = _on_fine(graph, image_px)
        for place, tensor in enumerate(graph.tensors):
            outside = place in edges or re.search(HEADS, tensor.name.decode())
            tensor.name = f"{EDGE if outside else INNER}{place}".encode()
        for operation in graph.operators:
            code = model.operatorCodes[operation.opcodeIndex].builtinCode
            if code in CHANNEL_AXIS:
                weight, bias = (graph.tensors[place].buffer for place in operation.inputs[1:3])
                axis = CHANNEL_AXIS[code]
                shape = graph.tensors[operation.inputs[1]].shape
                _lift(model.buffers[weight], model.buffers[bias], shape, axis)
    return bytes(convert_object_to_bytearray(model))


def _lift(weight: BufferT, bias: BufferT, shape: Sequence[int], axis: int) -> None:
    """Give a weight to channels that have next to none for their bias."""
    rows = np.moveaxis(_numbers(weight).reshape(shape), axis, 0).reshape(shape[axis], -1).copy()
    least = LEAST * np.maximum(np.abs(_numbers(bias)), 1)
    empty = np.abs(rows).max(1) < least
    rows[empty, 0] = least[empty]
    moved = [shape[axis], *(side for place, side in enumerate(shape) if place != axis)]
    weight.data = np.moveaxis(rows.reshape(moved), 0, axis).tobytes()


def _numbers(buffer: BufferT) -> np.ndarray:
    return np.frombuffer(bytes(buffer.data), np.float32)


def _on_fine(graph: SubGraphT, image_px: int) -> set[int]:
    """Places of the tensors that are made of fine maps; channels may be first or last there."""
    made: set[int] = set()
    for operation in graph.operators:
        shapes = [graph.tensors[place].shape for place in operation.inputs if place >= 0]
        sides = [shape[2] for shape in shapes if shape is not None and len(shape) == 4]
        if not all(is_coarse(side, image_px) for side in sides):
            made.update(operation.outputs)
    return made
