"""Taps, sizes, freezing and loading of networks, and what bridges two of them."""

import copy
import itertools
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from dermdistill.config import NetworkConfig, to_dict
from dermdistill.errors import ConfigError, RunError
from dermdistill.models import (
    ProjectionHead,
    build_backbone,
    connector,
    freeze,
    load_network,
    require_network,
)
from dermdistill.run import BEST, PROVENANCE, write_json
from dermdistill.train.checkpoint import save_weights
from dermdistill.types import Widths

CLASSES = 5
TINY_SWIN = {
    "img_size": 64, "embed_dim": 12, "depths": (1, 1), "num_heads": (1, 2), "window_size": 4,
}  # fmt: skip
# name, timm's options, input side, and map channels, map side, embedding width.
NETWORKS = [
    ("test_resnet", {}, 96, (96, 3, 96)),
    ("test_efficientnet", {}, 96, (256, 3, 256)),
    ("test_vit", {"img_size": 64}, 64, (64, 4, 64)),
    ("mobilenetv3_small_100", {}, 96, (576, 3, 1024)),
    ("test_mambaout", {}, 128, (64, 4, 256)),
    ("swin_tiny_patch4_window7_224", TINY_SWIN, 64, (24, 8, 24)),
]


def network(name="test_resnet", options=None, **settings):
    torch.manual_seed(0)
    return build_backbone(NetworkConfig(name, "none", options or {}, **settings), CLASSES)


def snapshot(module: nn.Module) -> dict:
    return copy.deepcopy(module.state_dict())


def same(module: nn.Module, state: dict) -> bool:
    own = module.state_dict()
    return own.keys() == state.keys() and all(torch.equal(own[k], state[k]) for k in own)


@pytest.mark.parametrize(("name", "options", "px", "sizes"), NETWORKS)
def test_taps(name, options, px, sizes):
    backbone = network(name, options).eval()
    images = torch.rand(2, 3, px, px)
    taps = backbone(images)
    channels, side, width = sizes
    assert taps.map.shape == (2, channels, side, side)
    assert taps.embedding.shape == (2, width)
    assert taps.logits.shape == (2, CLASSES)
    assert backbone.widths(px) == Widths(channels, side, width, CLASSES)
    # timm's own forward pass on what a user of timm would feed it.
    cfg = backbone.network.pretrained_cfg
    mean, std = (torch.tensor(cfg[key]).view(3, 1, 1) for key in ("mean", "std"))
    torch.testing.assert_close(taps.logits, backbone.network((images - mean) / std))
    with_stages = backbone(images, stages=True)
    for asked, plain in zip(with_stages[:3], taps[:3], strict=True):
        torch.testing.assert_close(asked, plain)
    stages = [tuple(stage.shape[1:]) for stage in with_stages.stages]
    assert 2 <= len(stages) <= 4
    assert [(c, rows, rows) for c, rows in backbone.widths(px, stages=True).stages] == stages
    assert all(deep[1] <= shallow[1] for shallow, deep in itertools.pairwise(stages))


@pytest.mark.parametrize(("name", "options", "px", "sizes"), NETWORKS)
def test_the_map_keeps_its_place(name, options, px, sizes):
    """Of the map's corners the one above a changed corner changes most: no turn, no mirror."""
    backbone = network(name, options).eval()
    images = torch.rand(1, 3, px, px)
    changed = images.clone()
    changed[..., : px // 4, px - px // 4 :] = 0
    difference = (backbone(images).map - backbone(changed).map).abs().sum(1)[0]
    corners = [difference[row, col].item() for row in (0, -1) for col in (0, -1)]
    assert max(corners) == corners[1]


def test_mean_of_the_map_is_the_embedding_where_nothing_widens_it():
    taps = network()(torch.rand(2, 3, 96, 96))
    torch.testing.assert_close(taps.map.mean((2, 3)), taps.embedding)


def test_own_colour_statistics():
    plain = network().eval()
    shifted = network(mean=[0.1, 0.2, 0.3], std=[0.5, 0.6, 0.7]).eval()
    assert shifted.mean.flatten().tolist() == pytest.approx([0.1, 0.2, 0.3])
    assert shifted.std.flatten().tolist() == pytest.approx([0.5, 0.6, 0.7])
    images = torch.rand(2, 3, 48, 48)
    expected = plain.network((images - shifted.mean) / shifted.std)
    torch.testing.assert_close(shifted(images).logits, expected)


def test_normalisation_is_no_weight():
    assert not {"mean", "std"} & network().state_dict().keys()


@pytest.mark.parametrize("training", [True, False])
def test_widths_leave_the_network_alone(training):
    backbone = network("test_efficientnet").train(training)
    before = snapshot(backbone)
    backbone.widths(48)
    assert same(backbone, before)
    assert all(module.training == training for module in backbone.modules())
    assert all(p.grad is None for p in backbone.parameters())


def test_frozen_survives_train():
    frozen = freeze(network())
    parent = nn.Sequential(nn.Sequential(frozen, nn.Dropout()))
    parent.train()
    frozen.train()
    frozen.train(True)
    frozen.widths(48)
    assert not any(module.training for module in frozen.modules())
    assert parent[0][1].training
    before = snapshot(frozen)
    assert not frozen(torch.rand(2, 3, 48, 48)).logits.requires_grad
    assert same(frozen, before)


def test_teacher_is_bit_identical_after_steps():
    teacher, student = freeze(network()), network("test_efficientnet").train()
    bridge = connector(student.widths(64), teacher.widths(64))
    before = snapshot(teacher)
    trained = [*student.parameters(), *bridge.parameters()]
    optimiser = torch.optim.SGD(trained, 0.1, momentum=0.9, weight_decay=0.1)
    for _ in range(3):
        images = torch.rand(4, 3, 64, 64)
        loss = (bridge(student(images).map) - teacher(images).map).square().mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    assert same(teacher, before)
    assert all(p.grad is None for p in teacher.parameters())


def written_run(folder: Path, backbone: nn.Module, config: NetworkConfig) -> Path:
    write_json(folder / PROVENANCE, {
        "network_config": to_dict(config), "classes": [f"c{i}" for i in range(CLASSES)],
    })  # fmt: skip
    save_weights(folder / BEST, backbone.state_dict())
    return folder


def test_load_network_round_trip(tmp_path):
    config = NetworkConfig("test_efficientnet", "none", {"drop_rate": 0.1}, mean=[0.4, 0.5, 0.6])
    trained = build_backbone(config, CLASSES)
    trained.train()(torch.rand(4, 3, 48, 48))  # statistics that are not a fresh network's
    # The weights it started from may be long gone: they are not asked for again.
    gone = NetworkConfig(config.name, "gone.safetensors", config.options, config.mean)
    loaded = load_network(written_run(tmp_path, trained, gone))
    assert not loaded.training
    assert same(loaded, trained.state_dict())
    images = torch.rand(2, 3, 48, 48)
    assert torch.equal(loaded(images).logits, trained.eval()(images).logits)


def test_load_network_refuses(tmp_path):
    with pytest.raises(RunError, match=r"does not exist; is .* a finished run"):
        load_network(tmp_path)
    written_run(tmp_path, network(), NetworkConfig("test_efficientnet"))
    with pytest.raises(RunError, match=f"{BEST} cannot be used"):
        load_network(tmp_path)
    (tmp_path / BEST).write_bytes(b"cut")
    with pytest.raises(RunError, match=f"{BEST} cannot be used"):
        load_network(tmp_path)
    (tmp_path / BEST).unlink()
    with pytest.raises(RunError, match=f"{BEST} cannot be used"):
        load_network(tmp_path)


def test_unknown_network_suggests():
    with pytest.raises(ConfigError, match=r"network 'resnet5o'; did you mean .*'resnet50'"):
        require_network("resnet5o")
    with pytest.raises(ConfigError, match=r"did you mean .*'mobilenetv2_100'"):
        build_backbone(NetworkConfig("mobilenet_v2_100", "none"), CLASSES)


def test_unknown_option_is_named():
    with pytest.raises(ConfigError, match=r"does not take these options: .*'drop_rat'"):
        network(options={"drop_rat": 0.1})


def test_two_heads_are_refused():
    options = {"img_size": 32, "depth": 1, "embed_dim": 24, "num_heads": 2}
    with pytest.raises(ConfigError, match="deit_tiny_distilled_patch16_224 has no single"):
        network("deit_tiny_distilled_patch16_224", options)


@settings(max_examples=40, deadline=None)
@given(s=st.integers(1, 15), t=st.integers(1, 15), channels=st.tuples(*[st.integers(1, 4)] * 2))
def test_connector_reaches_any_size(s, t, channels):
    student, teacher = (Widths(c, px, c, 2) for c, px in zip(channels, (s, t), strict=True))
    bridge = connector(student, teacher)
    maps = torch.randn(2, channels[0], s, s, requires_grad=True)
    bridged = bridge(maps)
    assert bridged.shape == (2, channels[1], t, t)
    assert (bridged >= 0).all()
    bridged.sum().backward()
    assert maps.grad is not None
    assert all(p.grad is not None for p in bridge.parameters())


@pytest.mark.parametrize(
    ("s", "t", "kind", "kernel", "stride", "padding"),
    [
        (7, 7, nn.Conv2d, 1, 1, 0),
        (14, 7, nn.Conv2d, 3, 2, 1),
        (7, 14, nn.ConvTranspose2d, 4, 2, 1),
        (9, 7, nn.Conv2d, 3, 1, 0),
        (7, 9, nn.ConvTranspose2d, 3, 1, 0),
    ],
)
def test_connector_is_the_official_one(s, t, kind, kernel, stride, padding):
    bridge = connector(Widths(4, s, 4, 2), Widths(6, t, 6, 2))
    assert [type(layer) for layer in bridge] == [kind, nn.BatchNorm2d, nn.ReLU]
    assert bridge[0].kernel_size == (kernel, kernel)
    assert bridge[0].stride == (stride, stride)
    assert bridge[0].padding == (padding, padding)
    assert bridge[0].bias is not None


def test_projection_head():
    head = ProjectionHead(6).double()
    rows = torch.randn(5, 6, dtype=torch.float64)
    first, second = head[0], head[2]
    hidden = (rows @ first.weight.T + first.bias).clamp(min=0)
    torch.testing.assert_close(head(rows), hidden @ second.weight.T + second.bias)
    assert len(list(head.parameters())) == 4
