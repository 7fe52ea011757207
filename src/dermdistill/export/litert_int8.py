"""LiteRT in int8: static ranges, the widest seen; input and output stay float for the browser.

The quantiser's own calibration averages the ranges of the batches, which clips what is rare, and
its public call cannot be told otherwise; hence its Calibrator with an update of its own.

Tensors are named by every module on their way, which makes 140 kB of 2.9 MB; here they get short
names, which say only whether eight bits are meant to touch them.
"""

import contextlib
import io
import re

import numpy as np
from ai_edge_litert.schema_py_generated import BuiltinOperator, ModelT, SubGraphT
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

PACKAGES = (*litert.PACKAGES, "ai-edge-quantizer")
SIGNATURE = "serving_default"
# Of the deployed graph itself: its own tensors, whose names have no module path, and its two heads.
HEADS = r"^[^/]*$|class_maps|prototypes"
EDGE, INNER = "edge", "inner"  # in fp32, as in ONNX; in 8 bits
CONVOLUTIONS = {BuiltinOperator.CONV_2D, BuiltinOperator.DEPTHWISE_CONV_2D}


def convert(subject: Subject) -> dict[str, bytes]:
    """The graph as a .tflite file with quantised convolutions."""
    content = with_short_names(litert.write(subject.rounded))
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


def with_short_names(content: bytes) -> bytes:
    """The same model with tensors called EDGE or INNER and their number; signatures keep theirs."""
    model = read_model_from_bytearray(content)
    for graph in model.subgraphs:
        edges = _stem(model, graph)
        for place, tensor in enumerate(graph.tensors):
            outside = place in edges or re.search(HEADS, tensor.name.decode())
            tensor.name = f"{EDGE if outside else INNER}{place}".encode()
    return bytes(convert_object_to_bytearray(model))


def _stem(model: ModelT, graph: SubGraphT) -> set[int]:
    """Places of the tensors that are made before the second convolution."""
    made, convolutions = set(), 0
    for operation in graph.operators:  # in the order of computation
        code = model.operatorCodes[operation.opcodeIndex].builtinCode
        convolutions += code in CONVOLUTIONS
        if convolutions == 2:
            break
        made.update(operation.outputs)
    return made
