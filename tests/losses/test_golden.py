"""The golden values of the official code, and that the benchmark notices when one is off."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "golden.py"


@pytest.fixture(scope="module")
def golden():
    spec = importlib.util.spec_from_file_location("golden_benchmark", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def files(shared_folder) -> list[Path]:
    found = sorted((shared_folder / "golden").glob("*.npz"))
    if not found:
        pytest.skip(f"no golden files in {shared_folder}")
    return found


def rewritten(source: Path, target: Path, **changes) -> Path:
    """A copy of a golden file with some arrays replaced, or left out where None."""
    with np.load(source) as archive:
        arrays = {name: archive[name] for name in archive.files} | changes
    np.savez(target, **{name: array for name, array in arrays.items() if array is not None})
    return target


def test_losses_are_the_official_ones(golden, files, capsys):
    assert golden.main([str(path) for path in files]) == 0
    assert capsys.readouterr().out.splitlines()[-1].startswith("PASS")
    for path in files:
        # Far below the bar of 1e-6: another formula that merely comes close is no pass.
        assert max(golden.errors(path).values()) < 1e-12


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("out.rkd_angle", lambda x: x * (1 + 2e-6)),
        ("out.ssd_kd.grad.s_map", lambda x: x + 2e-6 * np.abs(x).max()),
        ("out.kd.grad.s_map", lambda x: x + 1e-12),
        ("out.ssd_kd.keep_ss", lambda x: x[:-1]),
        ("out.ssd_kd.keep_ss", lambda x: x[::-1]),
        ("out.stage1", lambda x: x * np.nan),
        ("in.target", lambda x: (x + 1) % (x.max() + 1)),
    ],
)
def test_a_wrong_value_fails(golden, files, tmp_path, capsys, name, change):
    with np.load(files[0]) as archive:
        changed = change(archive[name])
    path = rewritten(files[0], tmp_path / "wrong.npz", **{name: changed})
    assert golden.main([str(path)]) == 1
    assert capsys.readouterr().out.splitlines()[-1].startswith("FAIL")


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"in.t_map": None}, "in.t_map"),
        ({"out.stage1": None}, "out.stage1"),
        ({"out.other": np.zeros(1)}, "out.other"),
        ({"in.conv_b": np.zeros(3)}, "fit"),
    ],
)
def test_no_golden_file(golden, files, tmp_path, capsys, changes, named):
    path = rewritten(files[0], tmp_path / "broken.npz", **changes)
    assert golden.main([str(path)]) == 2
    assert named in capsys.readouterr().err


@pytest.mark.parametrize("content", [None, b"", b"no archive", b"PK\x03\x04 cut"])
def test_unreadable_file(golden, tmp_path, capsys, content):
    path = tmp_path / "unreadable.npz"
    if content is not None:
        path.write_bytes(content)
    assert golden.main([str(path)]) == 2
    assert str(path) in capsys.readouterr().err
