"""Batch norm over all processes, here one; benchmarks/parallel.py compares two with one."""

from collections.abc import Iterator

import pytest
import torch
import torch.distributed as dist
from timm.layers import BatchNormAct2d
from torch import nn

from dermdistill.models.norm import globalise


@pytest.fixture(autouse=True)
def group() -> Iterator[None]:
    """This process as all there are."""
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


def pair(kind: type[nn.Module], dtype: torch.dtype) -> tuple[nn.Module, nn.Module]:
    """A norm with weights of its own, plain and over all processes."""
    torch.manual_seed(0)
    plain, ours = (nn.Sequential(kind(5, eps=1e-3)).to(dtype) for _ in range(2))
    nn.init.uniform_(plain[0].weight, 0.5, 1.5)
    nn.init.normal_(plain[0].bias)
    ours.load_state_dict(plain.state_dict())
    globalise(ours)
    return plain, ours


@pytest.mark.parametrize("kind", [nn.BatchNorm1d, nn.BatchNorm2d, BatchNormAct2d])
@pytest.mark.parametrize(
    ("dtype", "rows_dtype", "atol"),
    [
        (torch.float64, torch.float64, 1e-12),
        (torch.float32, torch.float32, 1e-5),
        (torch.float32, torch.bfloat16, 5e-2),
    ],
)
def test_of_one_process_it_is_torchs_own(kind, dtype, rows_dtype, atol):
    """Output, gradients and what is remembered; rows far off 0, where sums of squares cancel."""
    places = () if kind is nn.BatchNorm1d else (3, 4)
    found = []
    for module in pair(kind, dtype):
        torch.manual_seed(1)
        rows = (5 + torch.randn(6, 5, *places, dtype=torch.float64)).to(rows_dtype)
        rows.requires_grad_()
        out = module(rows)
        (out * torch.randn(out.shape).to(out)).sum().backward()
        gradients = [rows.grad, *(p.grad for p in module.parameters())]
        module.eval()
        found.append([out, *gradients, *module.state_dict().values(), module(rows)])
    for theirs, ours in zip(*found, strict=True):
        assert ours.dtype == theirs.dtype
        torch.testing.assert_close(ours.double(), theirs.double(), rtol=0, atol=atol)
