"""ReLU6 that keeps its answer for the backward pass and nothing else.

torch keeps its input, and where it works in place, as in timm's networks, a copy of it made for the
purpose. But the convolution behind keeps the answer anyway, and the answer alone says where the
slope is 1: so a third of what a MobileNetV2 keeps of a batch, and a pass over it, can go. Answers
and gradients are torch's to the bit.
"""

import torch
from torch import Tensor, nn

TOP = 6.0


class _Relu6(torch.autograd.Function):
    """min(max(x, 0), 6), of any shape."""

    @staticmethod
    def forward(ctx, x: Tensor) -> Tensor:
        answer = x.clamp(0.0, TOP)
        ctx.save_for_backward(answer)
        return answer

    @staticmethod
    def backward(ctx, grad: Tensor) -> Tensor:
        # torch's own kernel asks whether 0 < x < 6, which holds of the answer where it holds of x.
        return torch.ops.aten.hardtanh_backward(grad, *ctx.saved_tensors, 0.0, TOP)


class LeanReLU6(nn.ReLU6):
    """As nn.ReLU6, but never in place where there is a gradient."""

    def forward(self, x: Tensor) -> Tensor:
        """As nn.ReLU6; what traces a network sees torch's operator."""
        learning = torch.is_grad_enabled() and x.requires_grad
        if not learning or torch.compiler.is_compiling() or torch.jit.is_tracing():
            return super().forward(x)
        return _Relu6.apply(x)


def slim_relu6(network: nn.Module) -> nn.Module:
    """Let every ReLU6 of a network keep its answer alone; only the modules' classes change."""
    for module in network.modules():
        if type(module) is nn.ReLU6:
            module.__class__ = LeanReLU6
    return network
