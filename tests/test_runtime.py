"""What a run computes on: the layout of its tensors, and the pages that they lie in."""

import os
import subprocess
import sys

import pytest
import torch

from dermdistill.runtime import layout, start_fabric


def test_fp32_on_the_cpu_keeps_torchs_own_layout():
    assert layout(start_fabric("fp32", "cpu")) is torch.contiguous_format
    assert layout(start_fabric("bf16", "cpu")) is torch.channels_last


@pytest.mark.parametrize(("given", "found"), [(None, "1"), ("0", "0")])
def test_large_pages_are_asked_for_before_torch_unless_the_user_said_otherwise(given, found):
    script = ("import sys, os, dermdistill; assert 'torch' not in sys.modules;"
              "print(os.environ['THP_MEM_ALLOC_ENABLE'])")  # fmt: skip
    env = {k: v for k, v in os.environ.items() if k != "THP_MEM_ALLOC_ENABLE"}
    env |= {} if given is None else {"THP_MEM_ALLOC_ENABLE": given}
    done = subprocess.run([sys.executable, "-c", script], env=env, capture_output=True, text=True,
                          check=True)  # fmt: skip
    assert done.stdout.strip() == found
