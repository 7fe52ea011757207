"""Networks trained in 8 bits: by loops of our own, and by what runtimes make of the result."""

import copy
import importlib.util
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import small
from dermdistill.bundle import Bundle, open_runtime
from dermdistill.config import Config, NetworkConfig
from dermdistill.distill import distill
from dermdistill.errors import ConfigError
from dermdistill.export import export_run
from dermdistill.export.card import write_card
from dermdistill.export.subject import Subject
from dermdistill.methods import build_method
from dermdistill.models import Backbone, build_backbone, load_network
from dermdistill.models.eight_bits import EightBits, on_range_grid, on_weight_grid, settle_on_grid
from dermdistill.report.card import model_card
from dermdistill.report.runs import read_run
from dermdistill.run import BEST, HISTORY, METRICS, PROVENANCE, digest_file, read_json
from dermdistill.stages import Stage
from test_resume import through

PX = 32


class Tiny(nn.Module):
    """A stem on a fine map, a depthwise convolution with a shortcut around it, a pointwise one."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3, 8, 1, bias=False)
        self.norm = nn.BatchNorm2d(4)
        self.depthwise = nn.Conv2d(4, 4, 3, 1, 1, groups=4, bias=False)
        self.pointwise = nn.Conv2d(4, 6, 1)

    def forward(self, images):
        x = F.relu6(self.norm(self.stem(images)))
        return F.relu6(self.pointwise(self.depthwise(x) + x))


def tiny() -> Tiny:
    torch.manual_seed(1)
    network = Tiny()
    for tensor in (network.norm.weight, network.norm.running_var):
        nn.init.uniform_(tensor, 0.5, 3)
    nn.init.uniform_(network.norm.running_mean, -1, 1)
    return network.eval()


def loop_conv(x, weight, bias, stride, pad, groups):
    """A convolution, number by number."""
    images, channels, rows, cols = x.shape
    outputs, inputs, side, _ = weight.shape
    wide = np.zeros((images, channels, rows + 2 * pad, cols + 2 * pad))
    wide[:, :, pad : pad + rows, pad : pad + cols] = x
    size = (rows + 2 * pad - side) // stride + 1
    found = np.zeros((images, outputs, size, size))
    for n, o, i, j in np.ndindex(*found.shape):
        first = o // (outputs // groups) * inputs
        patch = wide[n, first : first + inputs, i * stride :, j * stride :][:, :side, :side]
        found[n, o, i, j] = (patch * weight[o]).sum() + (0 if bias is None else bias[o])
    return found


def loop_weights(weight):
    """Whole numbers of steps from -127 to 127, an output at a time."""
    found = np.zeros_like(weight)
    for o, filters in enumerate(weight):
        step = np.abs(filters).max() / 127
        found[o] = np.rint(filters / step) * step
    return found


def loop_range(x):
    """The nearest of the 256 numbers a byte can mean, an image at a time."""
    found = np.zeros_like(x)
    for n, image in enumerate(x):
        low, high = min(image.min(), 0.0), max(image.max(), 0.0)
        step = (high - low) / 255
        zero = np.rint(-low / step)
        found[n] = (np.clip(np.rint(image / step) + zero, 0, 255) - zero) * step
    return found


def by_hand(network: Tiny, images: np.ndarray) -> np.ndarray:
    """What an 8-bit runtime computes, the convolution on the fine map in full."""
    state = {name: value.double().numpy() for name, value in network.state_dict().items()}
    stem = loop_conv(images, state["stem.weight"], None, 8, 1, 1)
    mean, var, scale, shift = (
        state[f"norm.{name}"][:, None, None]
        for name in ("running_mean", "running_var", "weight", "bias")
    )
    x = np.clip((stem - mean) / np.sqrt(var + network.norm.eps) * scale + shift, 0, 6)
    both = loop_range(loop_conv(x, state["depthwise.weight"], None, 1, 1, 4) + x)
    weight, bias = loop_weights(state["pointwise.weight"]), state["pointwise.bias"]
    return np.clip(loop_conv(both, weight, bias, 1, 0, 1), 0, 6)


@torch.no_grad()
def test_a_forward_pass_is_that_of_loops():
    network, images = tiny(), torch.randn(2, 3, PX, PX)
    with EightBits(PX):
        found = network(images).numpy()
    assert np.abs(found - by_hand(network, images.double().numpy())).max() < 1e-4
    plain = network(images).numpy()
    assert 1e-4 < np.abs(found - plain).max() < 0.3, "rounded, and not to something else"


def test_gradients_go_straight_through():
    """As if each rounding were the identity, at the rounded values."""
    network, images = tiny(), torch.randn(2, 3, PX, PX)
    with EightBits(PX):
        network(images).sum().backward()
    x = F.relu6(network.norm(F.conv2d(images, network.stem.weight, None, 8, 1)))
    both = on_range_grid(F.conv2d(x, network.depthwise.weight, None, 1, 1, 1, 4) + x).detach()
    weight = on_weight_grid(network.pointwise.weight).detach().requires_grad_()
    bias = network.pointwise.bias.detach().clone().requires_grad_()
    F.relu6(F.conv2d(both, weight, bias)).sum().backward()
    torch.testing.assert_close(network.pointwise.weight.grad, weight.grad)
    torch.testing.assert_close(network.pointwise.bias.grad, bias.grad)
    for weight in (network.stem.weight, network.depthwise.weight):
        assert weight.grad.isfinite().all()
        assert weight.grad.abs().max() > 0


def test_an_image_is_rounded_alike_in_any_company():
    network, images = tiny(), torch.randn(4, 3, PX, PX)
    images[1] *= 20
    with EightBits(PX):
        together, alone = network(images), network(images[:1])
    torch.testing.assert_close(together[:1], alone)


def test_degenerate_maps_and_filters_stay_finite():
    for values in (torch.zeros(2, 3), torch.full((2, 3), -4.0), torch.full((2, 3), 1e-30)):
        assert torch.allclose(on_range_grid(values), values, atol=1e-6)
        assert torch.allclose(on_weight_grid(values), values, atol=1e-6)


def test_settled_weights_settle_no_further():
    network, images = tiny(), torch.rand(1, 3, PX, PX)
    untouched = network.stem.weight.clone(), network.depthwise.weight.clone()
    settle_on_grid(network, images)
    before = copy.deepcopy(network.state_dict())
    settle_on_grid(network, images)
    assert torch.equal(network.stem.weight, untouched[0]), "fine maps are read in fp32"
    assert torch.equal(network.depthwise.weight, untouched[1])
    for name, value in network.state_dict().items():
        torch.testing.assert_close(value, before[name], rtol=1e-6, atol=0)


@torch.no_grad()
@pytest.mark.parametrize(
    "name", ["test_resnet", "mobilenetv2_050", "mobilenetv3_small_050", "test_efficientnet"]
)
def test_any_network_answers_nearly_the_same_in_8_bits_and_as_before_without(name):
    torch.manual_seed(0)
    network = build_backbone(NetworkConfig(name, "none", int8=True), 5)
    images = torch.rand(4, 3, 64, 64)
    network.train()
    rounded = network(images, stages=True)
    settled = network.eval().settled(64)
    plain = settled(images, stages=True)
    assert not settled.int8
    for one, other in zip(rounded[:3], plain[:3], strict=True):
        apart = (one - other).norm() / other.norm()
        assert 0 < apart < 0.5
    for one, other in zip(rounded.stages, plain.stages, strict=True):
        assert (one - other).norm() / other.norm() < 0.5
    assert torch.equal(network.settled(64)(images).logits, plain.logits), "asking changes nothing"


def test_norms_keep_the_statistics_that_are_deployed():
    network: Backbone = build_backbone(NetworkConfig("test_efficientnet", "none", int8=True), 5)
    network.train()
    before = copy.deepcopy(dict(network.named_buffers()))
    network(torch.rand(4, 3, 32, 32)).logits.sum().backward()
    assert all(torch.equal(value, before[name]) for name, value in network.named_buffers())
    assert all(weight.grad is not None for weight in network.parameters())


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> tuple[Path, Path]:
    """A student, and what becomes of it in 8 bits, with itself for a teacher."""
    output = tmp_path_factory.mktemp("runs")
    first = distill(small.config(output, "supervised"), progress=False)
    return first, distill(in_8_bits(output, first), progress=False)


def in_8_bits(output: Path, first: Path, **network) -> Config:
    """The config that trains a finished run on in 8 bits."""
    settings = small.config(output, "kd", teacher_run=str(first))
    changed = replace(settings.student.network, weights=str(first), int8=True, **network)
    return replace(settings, student=replace(settings.student, network=changed))


def logits(network: Backbone, images: torch.Tensor, in_8_bits: bool = False) -> np.ndarray:
    network.int8 = in_8_bits
    with torch.no_grad():
        return network.train(in_8_bits)(images).logits.numpy()


def test_its_run_is_an_ordinary_one_whose_weights_8_bits_hold(runs):
    first, run = runs
    assert read_json(run / PROVENANCE)["network_config"]["int8"] is True
    before, after = load_network(first), load_network(run)
    assert not after.int8
    assert before.state_dict().keys() == after.state_dict().keys()
    on_grid = []

    def look(conv: nn.Conv2d, inputs: tuple[torch.Tensor]) -> None:
        steps = conv.weight.flatten(1) / (conv.weight.flatten(1).abs().amax(1, keepdim=True) / 127)
        on_grid.append((inputs[0].shape[2], (steps - steps.round()).abs().max() < 1e-3))

    for module in after.modules():
        if isinstance(module, nn.Conv2d) and module.groups == 1:
            module.register_forward_pre_hook(look)
    logits(after, torch.rand(1, 3, small.PX, small.PX))
    coarse = [found for side, found in on_grid if side <= small.PX / 8]
    assert len(coarse) >= 10
    assert all(coarse)
    assert not any(found for side, found in on_grid if side > small.PX / 4)
    assert not torch.equal(before.network.conv_head.weight, after.network.conv_head.weight)
    for name, value in before.named_buffers():
        assert torch.equal(value, after.get_buffer(name)), name
    figures = [read_json(one / METRICS)["validation"]["accuracy"] for one in runs]
    assert figures[1] > figures[0] - 0.15, "it goes on from there, not from the start"


@pytest.mark.slow
def test_its_exports_answer_as_the_training_did(runs, tmp_path):
    """fp32 and packed weights as torch; int8 off by what 8 bits are off in training."""
    run = runs[1]
    formats = ["onnx", "onnx-int8"]
    if importlib.util.find_spec("ai_edge_quantizer"):
        formats.append("litert-int8")
    export_run(run, formats, tmp_path / "bundle.zip")
    bundle, pixels = Bundle(tmp_path / "bundle.zip"), small.dataset().test.pixels(np.arange(24))
    images = pixels.permute(0, 3, 1, 2).float() / 255
    plain, trained = (logits(load_network(run), images, bits) for bits in (False, True))
    found = {name: open_runtime(bundle, name).predict(pixels.numpy()).logits
             for name in bundle.manifest.models}  # fmt: skip
    for name in ("onnx", "onnx-int8"):
        assert np.abs(found[name] - plain).max() < 1e-4

    def off(one: np.ndarray, other: np.ndarray) -> float:
        return float(np.sqrt(np.square(one - other).mean()))

    rounding = off(trained, plain)
    assert 0 < rounding < 0.2 * off(plain, plain.mean(0))
    if "litert-int8" in found:
        assert 0 < off(found["litert-int8"], plain) < 1.5 * rounding + 1e-4


def test_a_kill_in_between_changes_no_bit(tmp_path):
    def run(name: str, stops: tuple[int, ...] = ()) -> Path:
        folder, settings = tmp_path / name, small.fit(ema_decay=0.9)
        return through(
            folder, stops, lambda **how: small.trainer(folder, settings, int8=True, **how)
        )

    whole, killed = run("whole"), run("killed", stops=(4,))
    for file in (BEST, HISTORY):
        assert (whole / file).read_bytes() == (killed / file).read_bytes()


def test_who_starts_from_a_run_has_its_name_and_its_network(runs, tmp_path):
    first = runs[0]
    data = small.dataset()
    stages = [Stage("student", "supervised", config, build_method("supervised"), small.fit(), {})
              for config in (NetworkConfig(small.STUDENT, str(first)),
                             NetworkConfig(small.STUDENT, str(runs[1])),
                             NetworkConfig(small.STUDENT, str(first), int8=True))]  # fmt: skip
    keys = [stage.key(small.config(tmp_path), data)["network"] for stage in stages]
    assert keys[0]["weights"] == keys[2]["weights"] == digest_file(first / BEST)
    assert keys[1]["weights"] != keys[0]["weights"]
    assert "int8" not in keys[0], "runs made before there was a choice are found"
    assert keys[2]["int8"] is True
    with pytest.raises(ConfigError, match=r"mean None, .* \[0\.5, 0\.5, 0\.5\]; give the same"):
        distill(in_8_bits(tmp_path, first, mean=[0.5] * 3), progress=False)
    with pytest.raises(ConfigError, match=r"no weights at .*provenance\.json does not exist"):
        build_backbone(NetworkConfig(small.STUDENT, str(tmp_path)), 8)


def test_cards_say_that_it_was_trained_in_8_bits(runs):
    """The bundle's and the report's, and nothing of the kind of the run before it."""
    for run, said in zip(runs, (False, True), strict=True):
        subject, record = Subject.of(run), read_run(run)
        assert ("8 bits" in write_card(subject, {}).split("##")[0]) == said
        assert any("8 bits" in words for _, words in model_card(record)) == said
