"""ExecuTorch in int8: dense convolutions on coarse maps read 8 bits, in a range of each image."""

import torch
from executorch.backends.xnnpack.quantizer.xnnpack_quantizer import (
    get_symmetric_quantization_config,
)
from torch.export import export
from torch.fx import GraphModule, Node
from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e
from torchao.quantization.pt2e.quantizer.quantizer import (
    Q_ANNOTATION_KEY,
    QuantizationAnnotation,
    Quantizer,
)

from dermdistill.export import executorch
from dermdistill.export.subject import Subject
from dermdistill.models import is_coarse

PACKAGES = (*executorch.PACKAGES, "torchao")
aten = torch.ops.aten
CONVOLUTION = aten.conv2d.default
# What gives a map another layout than a convolution's: ExecuTorch 1.5 does not put it back before
# it reads 8 bits, and its program then stops (the attention of EfficientViT).
LAYING_OUT = {aten.reshape.default, aten.view.default, aten.transpose.int, aten.permute.default}
PASSING = {aten.dropout.default, aten.contiguous.default}
HEADS = {"class_maps", "prototypes"}  # of DeployedGraph, which read the last map in fp32


class _Quantiser(Quantizer):
    """Dense convolutions on coarse maps, whatever follows: XNNPACK's own quantiser leaves out those
    before a ReLU where each image has its own range.
    """

    def __init__(self, image_px: int):
        self._image_px = image_px
        settings = get_symmetric_quantization_config(is_per_channel=True, is_dynamic=True)
        self._read, self._weight = settings.input_activation, settings.weight

    def annotate(self, model: GraphModule) -> GraphModule:
        """Mark what becomes 8 bits."""
        for node in model.graph.nodes:
            if node.target == CONVOLUTION and self._is_inner(node):
                read, weight = node.args[:2]
                node.meta[Q_ANNOTATION_KEY] = QuantizationAnnotation(
                    {read: self._read, weight: self._weight}, _annotated=True
                )
        return model

    def validate(self, model: GraphModule) -> None:
        """Nothing to ask: `annotate` names the convolutions one by one."""

    def _is_inner(self, convolution: Node) -> bool:
        maker = convolution.args[0]
        while maker.target in PASSING:
            maker = maker.args[0]
        if maker.target in LAYING_OUT:
            return False
        read, weight = (node.meta["val"].shape for node in convolution.args[:2])
        modules = convolution.meta.get("nn_module_stack", {}).values()
        head = any(not HEADS.isdisjoint(path.split(".")) for path, _ in modules)
        return not head and read[1] == weight[1] and is_coarse(read[2], self._image_px)


@torch.no_grad()
def convert(subject: Subject) -> dict[str, bytes]:
    """The graph as a .pte program with quantised convolutions."""
    example = executorch.example(subject)
    exported = export(subject.rounded, (example,)).module()
    prepared = prepare_pt2e(exported, _Quantiser(subject.px))
    prepared(example)
    return executorch.lower(export(convert_pt2e(prepared), (example,)))
