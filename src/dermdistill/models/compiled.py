"""Networks as machine code: what follows a convolution is done while its map is at hand."""

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch._dynamo.exc import TorchDynamoException
from torch._inductor import config as inductor

from dermdistill.errors import ToolchainError
from dermdistill.models.backbone import Backbone
from dermdistill.models.depthwise import use_depthwise_kernel
from dermdistill.models.fused_norm import fuse_norms
from dermdistill.models.kernels import compiled_kernels


def compile_frozen(network: Backbone, half: bool) -> Backbone:
    """A copy of a frozen network that torch.compile makes machine code of.

    That happens when it sees the first images of a size, and takes seconds. Weights become
    constants, laid out as the kernels read them. Answers are the network's to rounding, and the
    same each time.

    Args:
        network: in evaluation mode, without gradient to its weights; it stays as it is.
        half: it is asked under autocast to bf16.

    Returns:
        A network to be asked without gradient. Asked for the first time it raises ToolchainError
        where nothing can be compiled.
    """
    made = copy.deepcopy(network)
    if half:
        # To the bit what autocast makes of the weights for every batch anew; and the compiler lays
        # out constants alone, not what is cast on the way.
        for module in made.network.modules():
            if isinstance(module, nn.Conv2d):
                module.to(torch.bfloat16)
    for name in ("forward_features", "forward_intermediates"):
        setattr(made.network, name, _machine_code(getattr(made.network, name)))
    return made


def _machine_code(forward: Callable[..., Any]) -> Callable[..., Any]:
    compiled = torch.compile(forward)

    def run(*args: Any, **settings: Any) -> Any:
        try:
            with inductor.patch(freezing=True):
                return compiled(*args, **settings)
        except TorchDynamoException as error:
            reason = str(error).strip().partition("\n")[0]
            raise ToolchainError(
                f"the teacher cannot be compiled ({reason}); install a C++ compiler such as g++, "
                "or set compile_teacher to false"
            ) from error

    return run


def compile_learning(module: nn.Module) -> nn.Module:
    """Let a module that is trained use our own kernels, in bf16 on the CPU.

    Names, weights and copies stay what they were; numbers are the same to rounding.

    Raises:
        ToolchainError: there is no C++ compiler.
    """
    compiled_kernels()
    use_depthwise_kernel(module)
    return fuse_norms(module)
