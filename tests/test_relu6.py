"""ReLU6 that keeps its answer: torch's numbers to the bit, and less kept."""

import copy

import pytest
import torch
from torch import nn

from dermdistill.config import NetworkConfig
from dermdistill.models import build_backbone
from dermdistill.models.relu6 import LeanReLU6, slim_relu6

EDGES = (0.0, -0.0, 6.0, -1.0, 7.0, 3.0, torch.inf, -torch.inf, torch.nan)


@pytest.mark.parametrize("inplace", [False, True])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_answers_and_gradients_are_torchs(dtype, inplace):
    torch.manual_seed(0)
    edges = torch.tensor(EDGES, dtype=dtype)
    around = [torch.nextafter(edges, torch.tensor(to, dtype=dtype)) for to in (-9.0, 9.0)]
    x = torch.cat([edges, *around, 6 * torch.randn(500, dtype=dtype)])
    grad = torch.randn_like(x)
    found = []
    for module in (nn.ReLU6(), LeanReLU6(inplace)):
        leaf = x.clone().requires_grad_()
        answer = module(leaf * 1)
        answer.backward(grad)
        found.append((answer.detach(), leaf.grad))
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=0, equal_nan=True)


def test_a_second_derivative_is_right():
    x = torch.tensor([-1.0, 0.5, 3.0, 8.0], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradgradcheck(lambda x: LeanReLU6()(x) ** 3, (x,))


def kept(network: nn.Module, images: torch.Tensor) -> int:
    """Bytes that a forward pass keeps for the backward one."""
    parts: dict[int, int] = {}

    def keep(tensor):
        storage = tensor.untyped_storage()
        parts[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        answer = network(images)
    assert answer[0].requires_grad
    return sum(parts.values())


def test_a_mobilenet_learns_the_same_and_keeps_a_quarter_less():
    torch.manual_seed(0)
    lean = build_backbone(NetworkConfig("mobilenetv2_035", "none"), 5).train()
    plain = copy.deepcopy(lean)
    for module in plain.modules():
        if isinstance(module, LeanReLU6):
            module.__class__ = nn.ReLU6
    images = torch.rand(4, 3, 64, 64)
    grads = []
    for network in (lean, plain):
        network(images).logits.square().sum().backward()
        grads.append([weight.grad for weight in network.parameters()])
    assert all(torch.equal(one, other) for one, other in zip(*grads, strict=True))
    assert kept(lean, images) < 0.75 * kept(plain, images)


def test_only_plain_relu6_is_changed():
    class Own(nn.ReLU6):
        pass

    network = slim_relu6(nn.Sequential(nn.ReLU6(), nn.ReLU(), Own()))
    assert [type(module) for module in network] == [LeanReLU6, nn.ReLU, Own]
