"""How precise a loss computes, whatever autocast or the inputs' type would choose."""

import torch
from torch import Tensor


def at_least_single(*tensors: Tensor) -> tuple[Tensor, ...]:
    """The tensors in one floating type, float32 or wider: half types lose a loss's small terms."""
    wide = torch.float32
    for tensor in tensors:
        wide = torch.promote_types(wide, tensor.dtype)
    return tuple(tensor.to(wide) for tensor in tensors)


def double(tensor: Tensor) -> Tensor:
    """The tensor in float64, in which squares neither overflow nor cancel.

    For what is small beside the maps (embeddings, pairs of samples), where it costs next to
    nothing. Apple's GPU has no float64; there it is float32.
    """
    return tensor.to(torch.float32 if tensor.device.type == "mps" else torch.float64)


def double_pair(student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
    """Both in float64, the teacher without gradient."""
    return double(student), double(teacher.detach())


def like_inputs(loss: Tensor, *inputs: Tensor) -> Tensor:
    """A loss computed in float64, in the inputs' own type, float32 or wider."""
    return loss.to(at_least_single(*inputs)[0].dtype)


def no_autocast(tensor: Tensor) -> torch.autocast:
    """Autocast switched off on the tensor's device: its matrix products would round to bfloat16."""
    return torch.autocast(tensor.device.type, enabled=False)
