"""ONNX with the weights of dense convolutions on coarse maps in 8 bits, and fp32 arithmetic.

ONNX Runtime has no convolution on the CPU that reads 8 bits in a range of each image's own, and one
range for all images costs one or two first answers of a hundred. So this file is as small as the
other 8-bit ones and as fast as the fp32 one: the runtime unpacks the weights once, as it loads.
"""

from collections.abc import Iterator

import numpy as np
import onnx
import torch
from onnx import numpy_helper

from dermdistill.export import onnx as onnx_fp32
from dermdistill.export.subject import Subject
from dermdistill.models import is_coarse
from dermdistill.models.eight_bits import weight_steps

PACKAGES = onnx_fp32.PACKAGES


def convert(subject: Subject) -> dict[str, bytes]:
    """The graph in ONNX with packed weights, uint8 pixels in."""
    model = onnx.load_from_string(onnx_fp32.write(subject.rounded))
    inner = set(_inner_weights(model, subject.px))
    plain = [tensor for tensor in model.graph.initializer if tensor.name in inner]
    for tensor in plain:
        model.graph.initializer.remove(tensor)
        _pack(model.graph, tensor)
    return {"model.onnx": onnx_fp32.bare(model).SerializeToString(deterministic=True)}


def _inner_weights(model: onnx.ModelProto, image_px: int) -> Iterator[str]:
    """Names of the weights that dense convolutions read beside coarse maps, without the head's."""
    graph = onnx.shape_inference.infer_shapes(model).graph
    shapes = {value.name: value.type.tensor_type.shape.dim for value in graph.value_info}
    maker = {output: node for node in graph.node for output in node.output}
    head = maker["logits"]
    while head.op_type not in ("Conv", "Gemm", "MatMul"):
        head = maker[head.input[0]]
    for node in graph.node:
        groups = [each.i for each in node.attribute if each.name == "group"]
        dense = node.op_type == "Conv" and groups in ([], [1]) and node.name != head.name
        if dense and is_coarse(shapes[node.input[0]][2].dim_value, image_px):
            yield node.input[1]


def _pack(graph: onnx.GraphProto, tensor: onnx.TensorProto) -> None:
    """Put a weight into a graph in 8 bits, with a step an output, and what unpacks it.

    As a cast and a product: DequantizeLinear means the same, and the runtime leaves it in place too
    long to lay the weights out for its fastest convolution (2.9 for 2.3 ms).
    """
    weight = numpy_helper.to_array(tensor)
    step = weight_steps(torch.tensor(weight)).view(-1, 1, 1, 1).numpy()
    packed = np.rint(weight / step).astype(np.int8)
    names = [f"{tensor.name}_packed", f"{tensor.name}_step"]
    for name, values in zip(names, (packed, step), strict=True):
        graph.initializer.append(numpy_helper.from_array(values, name))
    wide = f"{tensor.name}_wide"
    cast = onnx.helper.make_node("Cast", names[:1], [wide], to=onnx.TensorProto.FLOAT)
    product = onnx.helper.make_node("Mul", [wide, names[1]], [tensor.name])
    graph.node.insert(0, product)
    graph.node.insert(0, cast)
