"""A compiled teacher answers as the plain one, and each time alike; it says what it needs."""

import copy
import os
import subprocess
import sys

import pytest
import torch

import small
from dermdistill.config import Config, NetworkConfig
from dermdistill.distill import distill
from dermdistill.errors import ConfigError
from dermdistill.models import build_backbone, compile_frozen, freeze
from dermdistill.run import BEST

pytestmark = pytest.mark.slow  # compiling takes seconds
PX = 64


@pytest.mark.parametrize("half", [False, True], ids=["fp32", "bf16"])
def test_answers_are_the_plain_ones_to_rounding(half):
    torch.manual_seed(0)
    network = freeze(build_backbone(NetworkConfig("test_resnet", "none"), 5))
    before = copy.deepcopy(network.state_dict())
    compiled = compile_frozen(network, half)
    images = torch.rand(6, 3, PX, PX).contiguous(memory_format=torch.channels_last)
    with torch.no_grad():
        exact = network.double()(images.double(), True)
        network.float()
        with torch.autocast("cpu", torch.bfloat16, enabled=half):
            plain, made, again = (one(images, True) for one in (network, compiled, compiled))
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())
    for one, other in zip((*made[:3], *made.stages), (*again[:3], *again.stages), strict=True):
        assert torch.equal(one, other)
    for name in ("map", "embedding", "logits"):
        right, ours, theirs = (getattr(taps, name) for taps in (exact, made, plain))
        assert ours.dtype == theirs.dtype
        off, plain_off = ((x.double() - right).norm() / right.norm() for x in (ours, theirs))
        assert off < max(1.5 * plain_off, 1e-6)
    assert len(made.stages) == len(plain.stages) > 0


def test_a_student_of_a_compiled_teacher_is_the_same_each_time(tmp_path):
    teacher = distill(small.config(tmp_path, "supervised"), progress=False)
    runs = [
        distill(small.config(tmp_path / name, "kd", compile_teacher=name != "plain",
                             teacher_run=str(teacher)), progress=False)
        for name in ("one", "other", "plain")
    ]  # fmt: skip
    one, other, plain = runs
    assert (one / BEST).read_bytes() == (other / BEST).read_bytes()
    assert one.name == other.name != plain.name


def test_without_a_compiler_it_says_what_to_do(tmp_path):
    code = (
        "import torch\n"
        "from dermdistill.config import NetworkConfig\n"
        "from dermdistill.models import build_backbone, compile_frozen, freeze\n"
        "network = compile_frozen(freeze(build_backbone(NetworkConfig('test_resnet', 'none'), 5)), "
        "False)\n"
        "with torch.no_grad(): network(torch.rand(1, 3, 64, 64))\n"
    )
    nowhere = {"CXX": str(tmp_path / "none"), "TORCHINDUCTOR_CACHE_DIR": str(tmp_path / "cache")}
    done = subprocess.run([sys.executable, "-c", code], env=os.environ | nowhere,
                          capture_output=True, text=True)  # fmt: skip
    assert done.returncode != 0
    assert "set compile_teacher to false" in done.stderr.splitlines()[-1]


def test_a_compiled_student_is_the_same_each_time(tmp_path):
    teacher = distill(small.config(tmp_path, "supervised"), progress=False)
    settings = {"teacher_run": str(teacher), "precision": "bf16"}
    plain = distill(small.config(tmp_path / "plain", "kd", **settings), progress=False)
    settings["compile_student"] = True
    one = distill(small.config(tmp_path / "one", "kd", **settings), progress=False)
    other = distill(small.config(tmp_path / "other", "kd", **settings), progress=False)
    assert (one / BEST).read_bytes() == (other / BEST).read_bytes()
    assert (one / BEST).read_bytes() != (plain / BEST).read_bytes()
    assert one.name == other.name != plain.name
    losses = [small.history(run)[-1]["loss"] for run in (one, plain)]
    assert losses[0] == pytest.approx(losses[1], rel=0.05)


def test_fp32_has_no_compiled_student():
    with pytest.raises(ConfigError, match="compile_student is True; it must be false"):
        Config(compile_student=True)
