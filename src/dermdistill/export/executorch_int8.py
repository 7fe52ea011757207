"""ExecuTorch in int8: torch's own post-training quantisation for XNNPACK, ranges as seen."""

import torch
from executorch.backends.xnnpack.quantizer.xnnpack_quantizer import (
    XNNPACKQuantizer,
    get_symmetric_quantization_config,
)
from torch.export import export
from torch.fx import GraphModule, Node
from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e
from torchao.quantization.pt2e.quantizer.quantizer import (
    Q_ANNOTATION_KEY,
    QuantizationAnnotation,
    SharedQuantizationSpec,
)

from dermdistill.export import executorch
from dermdistill.export.subject import Subject
from dermdistill.models import is_coarse

PACKAGES = (*executorch.PACKAGES, "torchao")
CONVOLUTION = torch.ops.aten.conv2d.default
CLIPS = {torch.ops.aten.hardtanh.default, torch.ops.aten.hardtanh_.default}
HEADS = {"class_maps", "prototypes"}  # of DeployedGraph


class _Quantiser(XNNPACKQuantizer):
    """XNNPACK's own, but for two things.

    What reads fine maps and the heads on the last one stay in fp32, as in ONNX. And a convolution's
    sums are rounded after they were clipped to [0, 6], not before: its own rules know this of ReLU
    alone, and spend most of the 256 steps on what ReLU6 cuts off.
    """

    def __init__(self, image_px: int):
        super().__init__()
        self._image_px = image_px

    def annotate(self, model: GraphModule) -> GraphModule:
        """As XNNPACKQuantizer."""
        model = super().annotate(model)
        reached = False
        for node in model.graph.nodes:  # in the order of computation: the heads are the end
            modules = node.meta.get("nn_module_stack", {}).values()
            reached = reached or any(not HEADS.isdisjoint(path.split(".")) for path, _ in modules)
            if reached or not self._reads_coarse(node) or _shares_with_none(node):
                node.meta.pop(Q_ANNOTATION_KEY, None)
            elif node.target in CLIPS and len(node.args[0].users) == 1:
                _round_behind(node.args[0], node)
        return model

    def _reads_coarse(self, node: Node) -> bool:
        maps = [one.meta["val"] for one in node.all_input_nodes if "val" in one.meta]
        return all(is_coarse(one.shape[2], self._image_px) for one in maps
                   if isinstance(one, torch.Tensor) and one.ndim == 4)  # fmt: skip


def _shares_with_none(node: Node) -> bool:
    """Whether a node's rounding shall be that of one before it which has none."""
    annotation = node.meta.get(Q_ANNOTATION_KEY)
    spec = annotation and annotation.output_qspec
    if not isinstance(spec, SharedQuantizationSpec):
        return False
    shared = spec.edge_or_node
    return Q_ANNOTATION_KEY not in (shared if isinstance(shared, Node) else shared[1]).meta


def _round_behind(summed: Node, clipped: Node) -> None:
    """Let a pair share the rounding of its second."""
    annotation = summed.meta.get(Q_ANNOTATION_KEY)
    if summed.target == CONVOLUTION and annotation and annotation.output_qspec:
        clipped.meta[Q_ANNOTATION_KEY] = QuantizationAnnotation(
            output_qspec=annotation.output_qspec, _annotated=True
        )
        annotation.output_qspec = None


@torch.no_grad()
def convert(subject: Subject) -> dict[str, bytes]:
    """The graph as a .pte program with quantised convolutions."""
    example = executorch.example(subject)
    settings = get_symmetric_quantization_config(is_per_channel=True)
    quantiser = _Quantiser(subject.px).set_global(settings)
    prepared = prepare_pt2e(export(subject.rounded, (example,)).module(), quantiser)
    for image in subject.calibration_pixels():
        prepared(torch.tensor(image[None]).float())
    return executorch.lower(export(convert_pt2e(prepared), (example,)))
