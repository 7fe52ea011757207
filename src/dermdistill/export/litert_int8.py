"""LiteRT in int8: dense convolutions on coarse maps read 8 bits, in a range of each image's own.

Weights have a scale a channel. Input, output and all between the convolutions stay in fp32, so that
no range has to be known beforehand, and the browser's runtime computes what Python's does.

Tensors are named by every module on their way, which makes 140 kB of 2.9 MB; here they get short
names, which say only whether eight bits are meant to touch them.
"""

import contextlib
import io
import re

from ai_edge_litert.schema_py_generated import BuiltinOperator, ModelT, SubGraphT
from ai_edge_litert.tools.flatbuffer_utils import (
    convert_object_to_bytearray,
    read_model_from_bytearray,
)
from ai_edge_quantizer.qtyping import TFLOperationName
from ai_edge_quantizer.quantizer import Quantizer
from ai_edge_quantizer.recipe_manager import RecipeManager

from dermdistill.export import litert
from dermdistill.export.subject import Subject
from dermdistill.models import is_coarse

PACKAGES = (*litert.PACKAGES, "ai-edge-quantizer")
HEADS = r"class_maps|prototypes"  # of the deployed graph, which read the last map in fp32
EDGE, INNER = "edge", "inner"  # in fp32; in 8 bits


def convert(subject: Subject) -> dict[str, bytes]:
    """The graph as a .tflite file with quantised convolutions."""
    content = with_short_names(litert.write(subject.rounded), subject.px)
    recipe = RecipeManager()
    recipe.add_dynamic_config(f"^{INNER}", TFLOperationName.CONV_2D, 8)
    with contextlib.redirect_stdout(io.StringIO()):  # it prints sizes of its own counting
        done = Quantizer(content, recipe.get_quantization_recipe()).quantize()
    return {"model.tflite": bytes(done.quantized_model)}


def with_short_names(content: bytes, image_px: int) -> bytes:
    """The same model with tensors called EDGE or INNER and their number; signatures keep theirs."""
    model = read_model_from_bytearray(content)
    for graph in model.subgraphs:
        inner = _convolved(model, graph, image_px)
        for place, tensor in enumerate(graph.tensors):
            outside = place not in inner or re.search(HEADS, tensor.name.decode())
            tensor.name = f"{EDGE if outside else INNER}{place}".encode()
    return bytes(convert_object_to_bytearray(model))


def _convolved(model: ModelT, graph: SubGraphT, image_px: int) -> set[int]:
    """Places of the tensors that dense convolutions make of coarse maps."""
    made: set[int] = set()
    for operation in graph.operators:
        if model.operatorCodes[operation.opcodeIndex].builtinCode == BuiltinOperator.CONV_2D:
            read = graph.tensors[operation.inputs[0]]  # [samples rows cols channels]
            if is_coarse(read.shape[1], image_px):
                made.update(operation.outputs)
    return made
