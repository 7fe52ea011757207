"""Depthwise convolutions whose bf16 backward pass is fast on the CPU.

oneDNN's bf16 gradients of a depthwise convolution can be slower than its fp32 ones: 4x to 70x for
the input's at stride 2, 3x to 4x for the weight's at 5x5 (torch 2.14; see docs/log.md). The same
gradients through kernels that are fast: the input's as a forward convolution with the flipped
kernel, the weight's in fp32 unless the kernel is 3x3, whose bf16 gradient is fast and needs no
copies. Where a student is compiled `depthwise.cpp` gives the weight's, two to thirty times faster
again. On other devices and in fp32 nothing changes.
"""

import ctypes

import torch
import torch.nn.functional as F
from timm.layers import Conv2dSame
from timm.layers.padding import pad_same
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from dermdistill.models.kernels import compiled_kernels, pointers

BF16_KERNEL = 3  # the side of the only kernel whose weight has a fast gradient in bf16
KERNELS, LEAST_CHANNELS = (3, 5, 7), 32  # that depthwise.cpp knows


class _Sizes(ctypes.Structure):
    """As `Depthwise` in depthwise.cpp."""

    _fields_ = [
        (name, ctypes.c_int64)
        for name in ("images", "rows", "cols", "channels", "kernel", "stride", "padding",
                     "out_rows", "out_cols", "threads")
    ]  # fmt: skip


class _DepthwiseBf16(torch.autograd.Function):
    """A depthwise convolution without dilation, on bf16 tensors."""

    @staticmethod
    def forward(
        ctx, x: Tensor, weight: Tensor, stride: int, padding: int, by_kernel: bool = False
    ) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.stride, ctx.padding, ctx.by_kernel = stride, padding, by_kernel
        return F.conv2d(x, weight, None, stride, padding, groups=x.shape[1])

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor):
        x, weight = ctx.saved_tensors
        grad = grad.contiguous(memory_format=torch.channels_last)
        grad_x = grad_weight = None
        if ctx.needs_input_grad[0]:
            grad_x = _input_gradient(grad, weight, x.shape, ctx.stride, ctx.padding)
        if ctx.needs_input_grad[1]:
            gradient = _weight_gradient_by_kernel if ctx.by_kernel else _weight_gradient
            grad_weight = gradient(grad, x, weight, ctx.stride, ctx.padding).to(weight.dtype)
        return grad_x, grad_weight, None, None, None


def _weight_gradient(grad: Tensor, x: Tensor, weight: Tensor, stride: int, padding: int) -> Tensor:
    dtype = weight.dtype if weight.shape[-1] == BF16_KERNEL else torch.float32
    _, gradient, _ = torch.ops.aten.convolution_backward(
        grad.to(dtype), x.to(dtype), weight.to(dtype), None, [stride] * 2, [padding] * 2, [1, 1],
        False, [0, 0], x.shape[1], [False, True, False],
    )  # fmt: skip
    return gradient


def _weight_gradient_by_kernel(
    grad: Tensor, x: Tensor, weight: Tensor, stride: int, padding: int
) -> Tensor:
    """The same in one pass over both maps."""
    x = x.contiguous(memory_format=torch.channels_last)
    images, channels, rows, cols = x.shape
    kernel = weight.shape[-1]
    sizes = _Sizes(images, rows, cols, channels, kernel, stride, padding, *grad.shape[-2:],
                   torch.get_num_threads())  # fmt: skip
    gradient = torch.empty(kernel, kernel, channels, dtype=torch.float64)
    compiled_kernels().depthwise_weight(sizes, *pointers(grad, x, gradient))
    return gradient.permute(2, 0, 1)[:, None]


def _input_gradient(
    grad: Tensor, weight: Tensor, shape: torch.Size, stride: int, padding: int
) -> Tensor:
    """The gradient of the input: zeros between the output's gradients, then the flipped kernel."""
    kernel = weight.shape[-1]
    rows, cols = shape[-2:]
    spread = grad
    if stride > 1:
        # As large as a stride-1 output would be, so that one padding serves every input size.
        full = (rows + 2 * padding - kernel + 1, cols + 2 * padding - kernel + 1)
        spread = torch.empty(
            (*shape[:2], *full), dtype=grad.dtype, memory_format=torch.channels_last
        ).zero_()  # fmt: skip
        spread[:, :, ::stride, ::stride] = grad
    return F.conv2d(spread, weight.flip(2, 3), None, 1, kernel - 1 - padding, groups=shape[1])


def trains_in_bf16(x: Tensor) -> bool:
    """Whether what is computed on x is so in bf16 on the CPU, and may be asked for a gradient."""
    return (
        x.device.type == "cpu"
        and torch.is_grad_enabled()
        and torch.is_autocast_enabled("cpu")
        and torch.get_autocast_dtype("cpu") == torch.bfloat16
    )


def _takes_fast_road(conv: nn.Conv2d, x: Tensor) -> bool:
    return conv.bias is None and trains_in_bf16(x)  # a folded norm gives it one


class FastDepthwise(nn.Conv2d):
    """A depthwise convolution with fixed padding, fast under bf16 on the CPU."""

    by_kernel = False  # whether ours gives the weight's gradient

    def forward(self, x: Tensor) -> Tensor:
        """As nn.Conv2d."""
        if not _takes_fast_road(self, x):
            return super().forward(x)
        weight = self.weight.bfloat16()
        sizes = (self.stride[0], self.padding[0])
        return _DepthwiseBf16.apply(x.bfloat16(), weight, *sizes, self.by_kernel)


class FastDepthwiseSame(Conv2dSame):
    """The same with TensorFlow's padding, which timm's Conv2dSame computes from the input."""

    by_kernel = False

    def forward(self, x: Tensor) -> Tensor:
        """As timm's Conv2dSame."""
        if not _takes_fast_road(self, x):
            return super().forward(x)
        padded = pad_same(x.bfloat16(), self.kernel_size, self.stride)
        weight = self.weight.bfloat16()
        return _DepthwiseBf16.apply(padded, weight, self.stride[0], 0, self.by_kernel)


FAST_CLASS = {nn.Conv2d: FastDepthwise, Conv2dSame: FastDepthwiseSame}


def speed_up_depthwise(network: nn.Module) -> nn.Module:
    """Give every plain depthwise convolution of a network its fast bf16 backward pass.

    Only the modules' classes change: names, weights and copies stay what they were.
    """
    for conv in network.modules():
        if type(conv) in FAST_CLASS and _is_plain_depthwise(conv):
            conv.__class__ = FAST_CLASS[type(conv)]
    return network


def use_depthwise_kernel(module: nn.Module) -> None:
    """Let the weight's gradient come from a kernel of ours wherever there is one."""
    for conv in module.modules():
        if isinstance(conv, FastDepthwise | FastDepthwiseSame):
            known = conv.kernel_size[0] in KERNELS and conv.out_channels >= LEAST_CHANNELS
            conv.by_kernel = known


def _is_plain_depthwise(conv: nn.Conv2d) -> bool:
    """Whether the kernels above say all there is to say about this convolution."""
    return (
        conv.groups == conv.in_channels == conv.out_channels > 1
        and conv.bias is None
        and conv.dilation == (1, 1)
        and conv.padding_mode == "zeros"
        and not isinstance(conv.padding, str)
        and all(len(set(pair)) == 1 for pair in (conv.kernel_size, conv.stride, conv.padding))
        and conv.padding[0] < conv.kernel_size[0]
    )
