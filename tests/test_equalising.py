"""Scaled channels: the same answers, by hand on a small network and at large on timm's."""

import copy
import warnings

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dermdistill.config import NetworkConfig
from dermdistill.models import build_backbone
from dermdistill.models.equalising import MOST, equalise

TOP = 6.0


class Blocks(nn.Module):
    """A stem behind ReLU6, a depthwise convolution, a projection with a shortcut, and a reader."""

    def __init__(self):
        super().__init__()
        self.stem, self.stem_norm = nn.Conv2d(3, 6, 3, 2, 1), nn.BatchNorm2d(6)
        self.deep, self.deep_norm = nn.Conv2d(6, 6, 3, 1, 1, groups=6), nn.BatchNorm2d(6)
        self.first, self.first_norm = nn.Conv2d(6, 4, 1), nn.BatchNorm2d(4)
        self.second, self.second_norm = nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4)
        self.last = nn.Conv2d(4, 5, 1)

    def maps(self, images: Tensor) -> dict[str, Tensor]:
        stem = F.relu6(self.stem_norm(self.stem(images)))
        deep = F.relu6(self.deep_norm(self.deep(stem)))
        first = self.first_norm(self.first(deep))
        second = self.second_norm(self.second(first))
        return {"stem": stem, "deep": deep, "first": first, "second": second, "sum": first + second}

    def forward(self, images: Tensor) -> tuple[Tensor]:
        return (self.last(self.maps(images)["sum"]),)


def blocks(seed: int = 0) -> Blocks:
    torch.manual_seed(seed)
    network = Blocks()
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.1, 3)
            nn.init.uniform_(module.bias, -1, 1)
            nn.init.uniform_(module.running_var, 0.2, 2)
    return network.eval()


@torch.no_grad()
@pytest.mark.parametrize("seed", range(3))
def test_answers_stay_and_channels_come_to_their_maps_range(seed):
    network, images = blocks(seed), torch.rand(70, 3, 16, 16)
    before, answer = network.maps(images), network(images)[0]
    equalise(network, images)
    after = network.maps(images)
    assert torch.allclose(network(images)[0], answer, rtol=1e-4, atol=1e-4)

    def peaks(maps: Tensor) -> Tensor:
        return maps.abs().amax((0, 2, 3))

    for name in ("stem", "deep"):
        wanted = (TOP / peaks(before[name])).clamp(1, MOST)
        scaled = before[name] * wanted.view(1, -1, 1, 1)
        assert torch.allclose(after[name], scaled, rtol=1e-4, atol=1e-4)
    shared = [
        peaks(before[name]).max() / peaks(before[name]) for name in ("first", "second", "sum")
    ]
    wanted = torch.stack(shared).amin(0).clamp(1, MOST)
    for name in ("first", "second", "sum"):
        scaled = before[name] * wanted.view(1, -1, 1, 1)
        assert torch.allclose(after[name], scaled, rtol=1e-4, atol=1e-4)
        assert after[name].abs().max() <= before[name].abs().max() * 1.0001, "no range grows"


@torch.no_grad()
def test_a_silent_channel_stays_as_it_is():
    network, images = blocks(), torch.rand(4, 3, 16, 16)
    network.stem_norm.weight[2], network.stem_norm.bias[2] = 0, -1
    before = copy.deepcopy(network.state_dict())
    equalise(network, images)
    assert torch.equal(network.stem_norm.bias[2], before["stem_norm.bias"][2])
    assert torch.equal(network.deep.weight[2], before["deep.weight"][2])
    assert not torch.equal(network.deep.weight, before["deep.weight"])


@torch.no_grad()
def test_what_something_else_reads_is_left_alone():
    """A mean cannot divide, so neither the map nor what it is added to may change."""

    class Read(Blocks):
        def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
            maps = self.maps(images)
            return self.last(maps["sum"]), maps["first"].mean((2, 3))

    network = Read()
    network.load_state_dict(blocks().state_dict())
    network.eval()
    before = copy.deepcopy(network.state_dict())
    equalise(network, torch.rand(4, 3, 16, 16))
    for name in ("first_norm.weight", "second_norm.weight", "last.weight"):
        assert torch.equal(network.state_dict()[name], before[name])
    assert not torch.equal(network.stem_norm.weight, before["stem_norm.weight"])


@torch.no_grad()
def test_a_network_that_would_answer_otherwise_is_given_back_with_a_warning():
    """A norm that two maps share would be scaled twice."""

    class Twice(Blocks):
        def maps(self, images: Tensor) -> dict[str, Tensor]:
            first = self.first_norm(self.first(F.relu6(self.stem_norm(self.stem(images)))))
            return {"sum": first + self.first_norm(self.second(first))}

    network = Twice()
    network.load_state_dict(blocks().state_dict())
    network.eval()
    before = copy.deepcopy(network.state_dict())
    with pytest.warns(UserWarning, match="answers otherwise with its channels scaled"):
        equalise(network, torch.rand(4, 3, 16, 16))
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


@torch.no_grad()
@pytest.mark.parametrize(
    ("name", "moved"),
    [("mobilenetv2_050", 30), ("test_resnet", 1), ("mobilenetv3_small_050", 3),
     ("test_efficientnet", 1), ("mobilenetv4_conv_small_035", 5), ("test_vit", 0)],
)  # fmt: skip
def test_networks_of_all_kinds_answer_as_before(name, moved):
    torch.manual_seed(0)
    network = build_backbone(NetworkConfig(name, "none"), 5).eval()
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.3, 2)
            nn.init.uniform_(module.bias, -0.5, 0.5)
    side = network.network.pretrained_cfg["input_size"][-1] if name == "test_vit" else 64
    images = torch.rand(8, 3, side, side)
    before, state = network(images).logits, copy.deepcopy(network.state_dict())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        equalise(network, images)
    assert (network(images).logits - before).abs().max() < 1e-4 * before.abs().max()
    changed = {key for key, value in network.state_dict().items()
               if value.ndim == 1 and not torch.equal(value, state[key])}  # fmt: skip
    assert len([key for key in changed if key.endswith("weight")]) >= moved
    assert bool(changed) == bool(moved)
