"""1x1 convolutions as products: as near to float64 as torch's own, and only where it is faster."""

import copy

import pytest
import torch
from torch import nn

from dermdistill.models.pointwise import MOST_PLACES, PointwiseConv, speed_up_pointwise


def learnt(conv: nn.Conv2d, maps: torch.Tensor, grad: torch.Tensor, half: bool) -> list:
    """Answer and gradients."""
    conv.zero_grad()
    leaf = maps.clone().requires_grad_()
    with torch.autocast("cpu", torch.bfloat16, enabled=half):
        answer = conv(leaf)
    answer.backward(grad.to(answer.dtype))
    return [answer, leaf.grad, *(p.grad.clone() for p in conv.parameters())]


@pytest.mark.parametrize("memory_format", [torch.channels_last, torch.contiguous_format], ids=str)
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("px", [1, 7])
def test_answers_and_gradients_are_torchs_to_rounding(px, bias, memory_format):
    torch.manual_seed(0)
    plain = nn.Conv2d(48, 80, 1, bias=bias)
    ours, exact = speed_up_pointwise(copy.deepcopy(plain)), copy.deepcopy(plain).double()
    maps = torch.randn(6, 48, px, px).bfloat16().contiguous(memory_format=memory_format)
    grad = torch.randn(6, 80, px, px).bfloat16()
    truth = learnt(exact, maps.double(), grad.double(), False)
    found = [learnt(conv, maps, grad, True) for conv in (ours, plain)]
    for one, other, right in zip(*found, truth, strict=True):
        assert (one.dtype, one.shape) == (other.dtype, other.shape)
        assert (one - right).norm() <= 1.1 * (other - right).norm()
    assert found[0][0].is_contiguous(memory_format=torch.channels_last)


def test_in_fp32_without_gradient_and_on_large_maps_it_is_torchs():
    torch.manual_seed(0)
    plain = nn.Conv2d(8, 8, 1)
    ours = speed_up_pointwise(copy.deepcopy(plain))
    small, large = torch.randn(2, 8, 5, 5), torch.randn(2, 8, 1, MOST_PLACES + 1)
    assert torch.equal(ours(small), plain(small))
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(ours(large), plain(large))
        with torch.no_grad():
            assert torch.equal(ours(small), plain(small))


def test_only_plain_1x1_convolutions_are_changed():
    given = [
        nn.Conv2d(8, 8, 1), nn.Conv2d(8, 8, 1, stride=2), nn.Conv2d(8, 8, 1, groups=2),
        nn.Conv2d(8, 8, 1, padding=1), nn.Conv2d(8, 8, 3), nn.ConvTranspose2d(8, 8, 1),
    ]  # fmt: skip
    kinds = [type(module) for module in speed_up_pointwise(nn.Sequential(*given))]
    assert kinds == [PointwiseConv, *[nn.Conv2d] * 4, nn.ConvTranspose2d]
