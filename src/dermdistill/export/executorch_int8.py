"""ExecuTorch in int8: dense convolutions on coarse maps read 8 bits, in a range of each image."""

import torch
from executorch.backends.xnnpack.quantizer.xnnpack_quantizer import (
    XNNPACKQuantizer,
    get_symmetric_quantization_config,
)
from torch.export import export
from torch.fx import GraphModule, Node
from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e
from torchao.quantization.pt2e.quantizer.quantizer import Q_ANNOTATION_KEY

from dermdistill.export import executorch
from dermdistill.export.subject import Subject
from dermdistill.models import is_coarse

PACKAGES = (*executorch.PACKAGES, "torchao")
CONVOLUTION = torch.ops.aten.conv2d.default
HEADS = {"class_maps", "prototypes"}  # of DeployedGraph, which read the last map in fp32


class _Quantiser(XNNPACKQuantizer):
    """XNNPACK's own, on coarse maps alone."""

    def __init__(self, image_px: int):
        super().__init__()
        self._image_px = image_px

    def annotate(self, model: GraphModule) -> GraphModule:
        """As XNNPACKQuantizer."""
        model = super().annotate(model)
        for node in model.graph.nodes:
            if not (node.target == CONVOLUTION and self._is_inner(node)):
                node.meta.pop(Q_ANNOTATION_KEY, None)
        return model

    def _is_inner(self, convolution: Node) -> bool:
        modules = convolution.meta.get("nn_module_stack", {}).values()
        if any(not HEADS.isdisjoint(path.split(".")) for path, _ in modules):
            return False
        return is_coarse(convolution.args[0].meta["val"].shape[2], self._image_px)


@torch.no_grad()
def convert(subject: Subject) -> dict[str, bytes]:
    """The graph as a .pte program with quantised convolutions."""
    example = executorch.example(subject)
    settings = get_symmetric_quantization_config(is_per_channel=True, is_dynamic=True)
    quantiser = _Quantiser(subject.px).set_global(settings)
    prepared = prepare_pt2e(export(subject.rounded, (example,)).module(), quantiser)
    prepared(example)
    return executorch.lower(export(convert_pt2e(prepared), (example,)))
