"""Rounded weights by the definition of the best correction, on the grid that runtimes look for."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from dermdistill.models.rounding import DAMPING, STEPS, on_grid, round_weights

GROUPS, OUTPUTS, INPUTS = 2, 5, 7


def problem(seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Weights, and moments of inputs that are far from independent and from zero mean."""
    rng = np.random.default_rng(seed)
    weight = rng.normal(size=(GROUPS, OUTPUTS, INPUTS))
    mixed = rng.normal(size=(GROUPS, 40, INPUTS)) @ rng.normal(size=(GROUPS, INPUTS, INPUTS)) + 3
    return torch.from_numpy(weight), torch.from_numpy(mixed.transpose(0, 2, 1) @ mixed / 40)


def each_on_grid(weight: torch.Tensor, moments: torch.Tensor) -> torch.Tensor:
    """Of several maps side by side."""
    return torch.stack([on_grid(*one) for one in zip(weight, moments, strict=True)])


def corrected(weight: np.ndarray, moments: np.ndarray) -> np.ndarray:
    """One output's weights: round one, then solve for the best of those still free."""
    step = np.abs(weight).max() / STEPS
    inside = moments + DAMPING * np.mean(np.diag(moments)) * np.eye(len(weight))
    current, done = weight.copy(), weight.copy()
    for place in range(len(weight)):
        top = np.abs(weight[place]) == np.abs(weight).max()
        wanted = weight[place] if top else current[place]
        done[place] = np.clip(np.round(wanted / step), -STEPS, STEPS) * step
        fixed, free = np.arange(place + 1), np.arange(place + 1, len(weight))
        if len(free):
            pull = inside[np.ix_(free, fixed)] @ (done - weight)[fixed]
            current[free] = weight[free] - np.linalg.solve(inside[np.ix_(free, free)], pull)
    return done


@pytest.mark.parametrize("seed", range(5))
def test_each_weight_makes_up_for_those_before_it(seed):
    weight, moments = problem(seed)
    found = each_on_grid(weight, moments).numpy()
    for group in range(GROUPS):
        for output in range(OUTPUTS):
            wanted = corrected(weight[group, output].numpy(), moments[group].numpy())
            assert np.allclose(found[group, output], wanted, atol=1e-9)


def test_answers_move_less_than_by_the_nearest_steps():
    def error(rounded: torch.Tensor) -> float:
        off = rounded - weight
        return float((off @ moments * off).sum())

    ours = theirs = 0.0
    for seed in range(20):
        weight, moments = problem(seed)
        step = weight.abs().amax(2, keepdim=True) / STEPS
        ours += error(each_on_grid(weight, moments))
        theirs += error((weight / step).round() * step)
    assert ours < 0.6 * theirs


def test_independent_inputs_leave_nothing_to_make_up_for():
    weight, _ = problem(1)
    step = weight.abs().amax(2, keepdim=True) / STEPS
    found = each_on_grid(weight, torch.eye(INPUTS).double().repeat(GROUPS, 1, 1))
    assert torch.allclose(found, (weight / step).round() * step)


def test_dead_inputs_and_dead_outputs_stay_finite():
    weight, moments = problem(2)
    weight[0, 0], moments[1] = 0, 0
    found = each_on_grid(weight, moments)
    assert found.isfinite().all()
    assert (found[0, 0] == 0).all()


def test_a_network_lies_on_the_grid_that_a_quantiser_finds_behind_its_batch_norms():
    torch.manual_seed(0)
    pairs = [
        (nn.Conv2d(3, 8, 3, 8, 1, bias=False), nn.BatchNorm2d(8)),
        (nn.Conv2d(8, 8, 3, 1, 1, groups=8, bias=False), nn.BatchNorm2d(8)),
        (nn.Conv2d(8, 8, 3, 1, 1, bias=False), nn.BatchNorm2d(8)),
        (nn.Conv2d(8, 6, 1), nn.BatchNorm2d(6)),
    ]
    for _, norm in pairs:
        nn.init.uniform_(norm.running_var, 0.01, 4)
        nn.init.uniform_(norm.weight, -3, 3)
    network = nn.Sequential(*(part for pair in pairs for part in (*pair, nn.ReLU6()))).eval()
    images = torch.rand(4, 3, 64, 64)
    before = [conv.weight.clone() for conv, _ in pairs]
    round_weights(network, images)
    assert torch.equal(pairs[0][0].weight, before[0]), "fine maps are read in fp32"
    assert torch.equal(pairs[1][0].weight, before[1]), "and so are depthwise convolutions"
    for (conv, norm), old in list(zip(pairs, before, strict=True))[2:]:
        folded = fuse_conv_bn_eval(conv, norm).weight.detach().double().flatten(1)
        steps = folded / (folded.abs().amax(1, keepdim=True) / STEPS)
        assert (steps - steps.round()).abs().max() < 1e-3, "nothing is left to round"
        assert 0 < (conv.weight - old).abs().max() < 0.2 * old.abs().max()
    again = [conv.weight.clone() for conv, _ in pairs]
    network(images)
    assert all(torch.equal(conv.weight, kept)
               for (conv, _), kept in zip(pairs, again, strict=True)), "hooks are gone"  # fmt: skip
