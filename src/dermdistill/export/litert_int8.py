"""LiteRT in int8: static ranges, the widest seen; input and output stay float for the browser.

The quantiser's own calibration averages the ranges of the batches, which clips what is rare, and
its public call cannot be told otherwise; hence its Calibrator with an update of its own.
"""

import contextlib
import io
import re

import numpy as np
from ai_edge_quantizer import calibrator, quantizer
from ai_edge_quantizer.algorithm_manager import AlgorithmName
from ai_edge_quantizer.qtyping import TFLOperationName
from ai_edge_quantizer.recipe_manager import RecipeManager
from ai_edge_quantizer.utils import tfl_flatbuffer_utils as tflite
from ai_edge_quantizer.utils.qsv_utils import min_max_update

from dermdistill.bundle.formats import FORMATS
from dermdistill.export import litert
from dermdistill.export.subject import Subject

PACKAGES = (*litert.PACKAGES, "ai-edge-quantizer")
SIGNATURE = "serving_default"
# Of the deployed graph itself: its own tensors, whose names have no module path, and its two heads.
HEADS = r"^[^/]*$|class_maps|prototypes"
CONVOLUTIONS = {TFLOperationName.CONV_2D, TFLOperationName.DEPTHWISE_CONV_2D}


def convert(subject: Subject) -> dict[str, bytes]:
    """The graph as a .tflite file with quantised convolutions."""
    content = litert.write(subject.rounded)
    recipe = RecipeManager()
    operations = TFLOperationName
    recipe.add_static_config(".*", operations.ALL_SUPPORTED, 8, 8)
    edges = f"{HEADS}|{_stem(content)}"  # in fp32, as in ONNX
    for regex, operation in ((edges, operations.ALL_SUPPORTED), (".*", operations.INPUT),
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


def _stem(content: bytes) -> str:
    """What matches the names of all that comes before the second convolution."""
    model = tflite.read_model(content)
    graph, scopes, convolutions = model.subgraphs[0], [], 0
    for operation in graph.operators:  # in the order of computation
        code = model.operatorCodes[operation.opcodeIndex].builtinCode
        convolutions += tflite.TFL_OP_CODE_TO_NAME.get(code) in CONVOLUTIONS
        if convolutions == 2:
            break
        scopes.append(re.escape(tflite.get_op_scope(operation, graph.tensors)))
    return f"^(?:{'|'.join(scopes)})$"
