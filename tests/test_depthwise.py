"""The depthwise convolution's own bf16 backward pass, against autograd's."""

import copy

import pytest
import torch
import torch.nn.functional as F
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from timm.layers import Conv2dSame
from torch import nn

from dermdistill.config import NetworkConfig
from dermdistill.models import build_backbone
from dermdistill.models.depthwise import (
    FastDepthwise,
    FastDepthwiseSame,
    _DepthwiseBf16,
    _weight_gradient_by_kernel,
    speed_up_depthwise,
    use_depthwise_kernel,
)

BF16_EPS = 2.0**-8


@st.composite
def convolutions(draw):
    """Kernel, stride, padding, rows and columns that fit together."""
    kernel = draw(st.sampled_from([1, 2, 3, 5, 7]))
    padding = draw(st.integers(0, kernel - 1))
    smallest = max(1, kernel - 2 * padding)
    size = st.integers(smallest, smallest + 9)
    return kernel, draw(st.integers(1, 3)), padding, draw(size), draw(size)


@settings(max_examples=80, deadline=None)
@given(convolution=convolutions(), dtype=st.sampled_from([torch.float32, torch.float64]))
def test_gradients_are_autograds(convolution, dtype):
    kernel, stride, padding, rows, cols = convolution
    torch.manual_seed(0)
    channels = 3
    x = torch.randn(2, channels, rows, cols, dtype=dtype, requires_grad=True)
    weight = torch.randn(channels, 1, kernel, kernel, dtype=dtype, requires_grad=True)
    ours = _DepthwiseBf16.apply(x, weight, stride, padding)
    theirs = F.conv2d(x, weight, None, stride, padding, groups=channels)
    assert torch.equal(ours, theirs)
    grad = torch.randn_like(theirs)
    found = torch.autograd.grad(ours, (x, weight), grad)
    expected = torch.autograd.grad(theirs, (x, weight), grad)
    # The weight's gradient is summed in float32 whatever comes in: that is what it is for.
    exact = 1e-12 if dtype == torch.float64 else 1e-4
    torch.testing.assert_close(found[0], expected[0], rtol=exact, atol=exact)
    torch.testing.assert_close(found[1], expected[1], rtol=1e-4, atol=1e-4)


@settings(max_examples=60, deadline=None)
@given(
    kernel=st.sampled_from([3, 5, 7]), stride=st.integers(1, 3), padding=st.integers(0, 6),
    channels=st.sampled_from([32, 40, 64, 100]), rows=st.integers(1, 20), cols=st.integers(1, 20),
    images=st.integers(1, 3),
)  # fmt: skip
def test_the_kernel_sums_the_weights_gradient(
    kernel, stride, padding, channels, rows, cols, images
):
    padding = min(padding, kernel - 1)
    assume(min(rows, cols) + 2 * padding >= kernel)
    torch.manual_seed(0)
    maps = torch.randn(images, channels, rows, cols).bfloat16()
    weight = torch.randn(channels, 1, kernel, kernel).bfloat16()
    exact = weight.double().requires_grad_()
    answer = F.conv2d(maps.double(), exact, None, stride, padding, groups=channels)
    grad = torch.randn_like(answer).bfloat16().contiguous(memory_format=torch.channels_last)
    answer.backward(grad.double())
    found = _weight_gradient_by_kernel(grad, maps, weight, stride, padding)
    torch.testing.assert_close(found, exact.grad, rtol=1e-5, atol=1e-5)


def test_the_kernel_is_used_where_there_is_one():
    torch.manual_seed(0)
    made = [nn.Conv2d(c, c, k, padding=k // 2, groups=c, bias=False)
            for c, k in ((32, 3), (32, 7), (24, 3), (32, 9))]  # fmt: skip
    convs = speed_up_depthwise(nn.Sequential(*made))
    use_depthwise_kernel(convs)
    assert [conv.by_kernel for conv in convs] == [True, True, False, False]
    ours = convs[0]
    plain = copy.deepcopy(ours)
    plain.by_kernel = False
    for conv in (ours, plain):
        with torch.autocast("cpu", torch.bfloat16):
            conv(torch.linspace(0, 1, 32 * 81).view(1, 32, 9, 9)).square().sum().backward()
    torch.testing.assert_close(ours.weight.grad, plain.weight.grad, rtol=BF16_EPS, atol=1e-3)


@pytest.mark.parametrize("wanted", ["x", "weight"])
def test_only_the_gradient_that_is_asked_for(wanted):
    tensors = {"x": torch.randn(1, 2, 6, 6), "weight": torch.randn(2, 1, 3, 3)}
    tensors[wanted].requires_grad_()
    _DepthwiseBf16.apply(tensors["x"], tensors["weight"], 2, 1).sum().backward()
    assert tensors[wanted].grad is not None


def depthwise(**options):
    return nn.Conv2d(4, 4, **{"kernel_size": 3, "padding": 1, "groups": 4, "bias": False} | options)


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("kernel", [3, 5, 7])
def test_plain_depthwise_is_swapped(kernel, stride):
    conv = depthwise(kernel_size=kernel, padding=kernel // 2, stride=stride)
    assert type(speed_up_depthwise(nn.Sequential(conv))[0]) is FastDepthwise
    same = Conv2dSame(4, 4, kernel, stride, groups=4, bias=False)
    assert type(speed_up_depthwise(nn.Sequential(same))[0]) is FastDepthwiseSame


@pytest.mark.parametrize(
    "conv",
    [
        depthwise(groups=2),
        depthwise(groups=1),
        nn.Conv2d(4, 8, 3, padding=1, groups=4, bias=False),
        nn.Conv2d(1, 1, 3, padding=1, bias=False),
        depthwise(dilation=2),
        depthwise(bias=True),
        depthwise(kernel_size=(3, 5), padding=(1, 2)),
        depthwise(stride=(1, 2)),
        depthwise(padding=(0, 1)),
        depthwise(padding=3),
        depthwise(padding="same"),
        depthwise(padding_mode="reflect"),
        nn.ConvTranspose2d(4, 4, 3, groups=4, bias=False),
        nn.Conv1d(4, 4, 3, groups=4, bias=False),
    ],
    ids=str,
)
def test_nothing_else_is_swapped(conv):
    kind = type(conv)
    assert type(speed_up_depthwise(nn.Sequential(conv))[0]) is kind


def gradients(conv: nn.Module, images: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """Output, input's gradient and weight's under bf16 autocast."""
    x = images.clone().requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        out = conv(x)
    torch.manual_seed(1)
    grad = torch.randn(out.shape).to(out.dtype)
    return out.detach(), *torch.autograd.grad(out, (x, conv.weight), grad)


@pytest.mark.parametrize("px", [9, 12, 13])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("kernel", [3, 5])
@pytest.mark.parametrize("kind", [nn.Conv2d, Conv2dSame])
def test_under_autocast(kind, kernel, stride, px):
    torch.manual_seed(0)
    padding = {} if kind is Conv2dSame else {"padding": kernel // 2}
    plain = kind(4, 4, kernel, stride, groups=4, bias=False, **padding)
    fast = speed_up_depthwise(nn.Sequential(copy.deepcopy(plain)))[0]
    assert type(fast) is not kind
    images = torch.randn(2, 4, px, px)
    wide, x = copy.deepcopy(plain), images.clone().requires_grad_()
    out, found_x, found_weight = gradients(fast, images)
    assert out.dtype == torch.bfloat16
    assert torch.equal(out, gradients(plain, images)[0])
    assert found_x.dtype == found_weight.dtype == torch.float32
    truth = wide(x)
    torch.manual_seed(1)
    grad = torch.randn(truth.shape)
    truth_x, truth_weight = torch.autograd.grad(truth, (x, wide.weight), grad)
    for found, wanted in ((found_x, truth_x), (found_weight, truth_weight)):
        error = (found - wanted).norm() / wanted.norm()
        assert error < 2 * BF16_EPS


@pytest.mark.parametrize("kind", [nn.Conv2d, Conv2dSame])
def test_nothing_changes_in_fp32_or_without_gradient(kind):
    conv = kind(4, 4, 3, 2, groups=4, bias=False)
    fast = speed_up_depthwise(nn.Sequential(copy.deepcopy(conv)))[0]
    x = torch.randn(2, 4, 9, 9)
    assert torch.equal(fast(x), conv(x))
    assert "_DepthwiseBf16" not in type(fast(x).grad_fn).__name__
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(fast(x), conv(x))


def test_swap_survives_a_copy_and_keeps_the_names():
    torch.manual_seed(0)
    conv = nn.Sequential(depthwise(), nn.BatchNorm2d(4))
    names = list(conv.state_dict())
    fast = speed_up_depthwise(copy.deepcopy(conv))
    copied = copy.deepcopy(fast)
    assert type(copied[0]) is FastDepthwise
    assert list(fast.state_dict()) == list(copied.state_dict()) == names
    assert copied[0].weight is not fast[0].weight
    fast.load_state_dict(conv.state_dict())
    assert speed_up_depthwise(fast) is fast
    assert type(fast[0]) is FastDepthwise


@pytest.mark.parametrize("name", ["mobilenetv2_050", "test_efficientnet"])
def test_whole_network_within_bf16(name):
    """Its gradients stray from fp32's no further than those of timm's own bf16 network."""
    torch.manual_seed(0)
    fast = build_backbone(NetworkConfig(name, "none"), 4)
    plain = copy.deepcopy(fast)
    swapped = [m for m in plain.modules() if isinstance(m, FastDepthwise | FastDepthwiseSame)]
    assert swapped
    for conv in swapped:
        conv.__class__ = conv.__class__.__mro__[1]
    images, target = torch.rand(8, 3, 48, 48), torch.arange(8) % 4

    def gradient(network, bf16):
        network = copy.deepcopy(network).train()
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            loss = F.cross_entropy(network(images).logits, target)
        found = torch.autograd.grad(loss, list(network.parameters()))
        return torch.cat([g.flatten() for g in found])

    truth = gradient(plain, bf16=False)
    ours, theirs = gradient(fast, bf16=True), gradient(plain, bf16=True)
    assert torch.equal(gradient(fast, bf16=False), truth)
    error, allowed = (ours - truth).norm() / truth.norm(), (theirs - truth).norm() / truth.norm()
    assert error < 1.2 * allowed + BF16_EPS
