"""Layers that become one: the same answers, and never at the price of other ones."""

import copy
from collections.abc import Callable

import pytest
import torch
from torch import nn

from dermdistill.config import NetworkConfig
from dermdistill.models import Backbone, build_backbone, fold_norms, freeze, merge_branches

PX, CLASSES = 64, 5


def used(network: nn.Module) -> nn.Module:
    """In evaluation mode, with statistics and scales as training leaves them: none is 0 or 1."""
    torch.manual_seed(3)
    for norm in network.modules():
        if isinstance(norm, nn.BatchNorm2d):
            for tensor in (norm.running_mean, norm.bias):
                tensor.data.uniform_(-1, 1)
            for tensor in (norm.running_var, norm.weight):
                tensor.data.uniform_(0.5, 1.5)
    return network.eval()


def norms(network: nn.Module) -> int:
    return sum(isinstance(module, nn.BatchNorm2d) for module in network.modules())


def before_and_after(change: Callable, name: str) -> tuple[Backbone, Backbone]:
    """A used network, which a change leaves as it was, and what the change makes of it."""
    network = used(build_backbone(NetworkConfig(name, "none"), CLASSES))
    before = copy.deepcopy(network.state_dict())
    changed = change(network, PX)
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())
    return network, changed


@torch.no_grad()
@pytest.mark.parametrize("name", ["test_resnet", "test_efficientnet", "mobilenetv3_small_050"])
def test_answers_stay_and_no_norm_does(name):
    network, folded = before_and_after(fold_norms, name)
    assert norms(network) > 0
    assert norms(folded) == 0
    images = torch.rand(2, 3, PX, PX, dtype=torch.float64)
    for one, other in zip(network.double()(images)[:3], folded.double()(images)[:3], strict=True):
        # The fold was computed in fp32.
        torch.testing.assert_close(one, other, rtol=0, atol=1e-5 * float(one.abs().max()))


def test_frozen_after_it_is_folded():
    folded = freeze(fold_norms(used(build_backbone(NetworkConfig("test_resnet", "none"), 5)), PX))
    folded.train()
    assert not folded.training
    assert not any(weight.requires_grad for weight in folded.parameters())


@torch.no_grad()
def test_a_network_without_batch_norm_is_left_as_it_is():
    network = build_backbone(NetworkConfig("test_convnext", "none"), CLASSES).eval()
    assert fold_norms(network, PX) is network


class TwoReaders(nn.Module):
    """A convolution's answer goes to its norm, and past it."""

    def __init__(self):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)
        self.classifier = nn.Linear(4, CLASSES)

    def forward_features(self, images):
        seen = self.conv(images)
        return self.norm(seen) + seen

    def forward_head(self, features, pre_logits):
        return features.mean((2, 3))

    def get_classifier(self):
        return self.classifier


@torch.no_grad()
def test_a_map_with_a_second_reader_is_noticed():
    network = used(Backbone(TwoReaders(), (0.5,) * 3, (0.5,) * 3))
    with pytest.warns(UserWarning, match="TwoReaders answers otherwise"):
        assert fold_norms(network, PX) is network


def convolutions(network: nn.Module) -> int:
    return sum(isinstance(module, nn.Conv2d) for module in network.modules())


@torch.no_grad()
@pytest.mark.parametrize("name", ["mobileone_s0", "repvit_m0_9", "repghostnet_050"])
def test_branches_become_one_convolution(name):
    network, merged = before_and_after(merge_branches, name)
    assert convolutions(merged) + norms(merged) < convolutions(network) + norms(network) - 10
    images = torch.rand(2, 3, PX, PX)
    for one, other in zip(network(images)[:3], merged(images)[:3], strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-4 * float(one.abs().max()))


@pytest.mark.parametrize("name", ["mobilenetv2_035", "ghostnet_100"])
def test_a_network_without_branches_is_left_as_it_is(name):
    network = used(build_backbone(NetworkConfig(name, "none"), CLASSES))
    assert merge_branches(network, PX) is network


def test_a_network_that_timm_merges_wrongly_is_left_as_it_is():
    """EfficientViT's fused classifier is none any more."""
    network = used(build_backbone(NetworkConfig("efficientvit_m0", "none"), CLASSES))
    with pytest.warns(UserWarning, match="answers otherwise with its branches merged"):
        assert merge_branches(network, PX) is network
