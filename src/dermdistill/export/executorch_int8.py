"""ExecuTorch in int8: torch's own post-training quantisation for XNNPACK, ranges as seen."""

import torch
from executorch.backends.xnnpack.quantizer.xnnpack_quantizer import (
    XNNPACKQuantizer,
    get_symmetric_quantization_config,
)
from torch.export import export
from torch.fx import GraphModule
from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e
from torchao.quantization.pt2e.quantizer.quantizer import Q_ANNOTATION_KEY

from dermdistill.export import executorch
from dermdistill.export.subject import Subject

PACKAGES = (*executorch.PACKAGES, "torchao")
HEADS = {"class_maps", "prototypes"}  # of DeployedGraph


class _AllButTheHead(XNNPACKQuantizer):
    """XNNPACK's quantiser; the heads on the last map stay in fp32, as in ONNX."""

    def annotate(self, model: GraphModule) -> GraphModule:
        """As XNNPACKQuantizer."""
        model = super().annotate(model)
        reached = False
        for node in model.graph.nodes:  # in the order of computation: the head is the end
            modules = node.meta.get("nn_module_stack", {}).values()
            reached = reached or any(not HEADS.isdisjoint(path.split(".")) for path, _ in modules)
            if reached:
                node.meta.pop(Q_ANNOTATION_KEY, None)
        return model


@torch.no_grad()
def convert(subject: Subject) -> dict[str, bytes]:
    """The graph as a .pte program with quantised convolutions."""
    example = executorch.example(subject)
    settings = get_symmetric_quantization_config(is_per_channel=True)
    quantiser = _AllButTheHead().set_global(settings)
    prepared = prepare_pt2e(export(subject.graph, (example,)).module(), quantiser)
    for image in subject.calibration_pixels():
        prepared(torch.tensor(image[None]).float())
    return executorch.lower(export(convert_pt2e(prepared), (example,)))
