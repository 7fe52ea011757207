"""The run directory's helpers: whole files or none, canonical digests, errors that say more."""

import hashlib
import json
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dermdistill.errors import RunError
from dermdistill.run import (
    atomic_write,
    digest_file,
    digest_of,
    provenance,
    read_json,
    write_json,
)

LIMIT_BYTES = 4096  # of a file, in a child process: as a full disk, but real and quick
SCRIPT = """
import resource, sys
from pathlib import Path
from dermdistill.errors import RunError
{imports}
resource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, {limit}))
for action in ({actions}):
    try:
        action()
    except RunError as error:
        print(error)
    else:
        sys.exit("it was written")
"""


def under_limit(*actions: str, imports: str) -> str:
    """What a process says, a line an action, whose files may not grow beyond the limit."""
    deferred = "".join(f"lambda: {action}, " for action in actions)
    script = SCRIPT.format(actions=deferred, imports=imports, limit=LIMIT_BYTES)
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_failed_block_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "file.txt"
    path.write_text("old")
    with pytest.raises(ZeroDivisionError), atomic_write(path) as temporary:  # noqa: PT012
        temporary.write_text("half of the ne")
        _ = 1 / 0
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_reader_sees_the_old_file_until_the_block_ends(tmp_path):
    path = tmp_path / "deep" / "file.txt"
    with atomic_write(path) as temporary:
        temporary.write_text("new")
        assert not path.exists()
        assert temporary.parent == path.parent, "a rename is atomic inside one file system only"
    assert path.read_text() == "new"
    assert list(path.parent.iterdir()) == [path]


def test_a_folder_that_cannot_be_made_is_a_run_error(tmp_path):
    (tmp_path / "file").write_text("")
    with (
        pytest.raises(RunError, match=r"cannot write .*inside"),
        atomic_write(tmp_path / "file" / "inside"),
    ):
        pass


def test_a_full_disk_keeps_the_old_text(tmp_path):
    path = tmp_path / "metrics.json"
    write_json(path, {"old": 1})
    said = under_limit(
        f"write_json({str(path)!r}, list(range(5000)))",
        imports="from dermdistill.run import write_json",
    )
    assert "cannot write" in said
    assert "metrics.json" in said
    assert "Free the disk" in said
    assert read_json(path) == {"old": 1}
    assert list(tmp_path.iterdir()) == [path]


def test_a_full_disk_keeps_the_old_weights(tmp_path):
    """torch and safetensors have errors of their own for it, which are no OSError."""
    (tmp_path / "checkpoint.pt").write_bytes(b"old")
    (tmp_path / "best.safetensors").write_bytes(b"old")
    said = under_limit(
        f"save_checkpoint(Path({str(tmp_path)!r}), TENSORS)",
        f"save_weights(Path({str(tmp_path)!r}, 'best.safetensors'), TENSORS)",
        imports="import torch; from dermdistill.train.checkpoint import *\n"
        "TENSORS = {'a': torch.zeros(5000)}",
    )
    for line, name in zip(said.splitlines(), ("checkpoint.pt", "best.safetensors"), strict=True):
        assert "cannot write" in line
        assert name in line
        assert (tmp_path / name).read_bytes() == b"old"
    assert len(list(tmp_path.iterdir())) == 2


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)  # fmt: skip


@given(st.dictionaries(st.text(), JSON, max_size=5))
def test_a_digest_knows_no_order_of_keys_and_survives_json(value):
    turned = dict(reversed(value.items()))
    assert digest_of(value) == digest_of(turned) == digest_of(json.loads(json.dumps(value)))


@given(JSON, JSON)
def test_digests_differ_where_the_canonical_text_does(left, right):
    def canonical(value):
        return json.dumps(value, sort_keys=True)

    assert (digest_of(left) == digest_of(right)) == (canonical(left) == canonical(right))


def test_a_digest_is_the_sha256_of_text_written_by_hand():
    text = '{"a":[1,2.5,null],"é":true}'
    assert digest_of({"é": True, "a": (1, 2.5, None)}) == hashlib.sha256(text.encode()).hexdigest()


def test_the_digest_of_a_file_is_sha256(tmp_path):
    (tmp_path / "abc").write_bytes(b"abc")
    known = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert digest_file(tmp_path / "abc") == known


def test_reading_says_what_is_wrong(tmp_path):
    with pytest.raises(RunError, match=r"metrics\.json does not exist; is .* a finished run"):
        read_json(tmp_path / "metrics.json")
    (tmp_path / "broken.json").write_text('{"half": ')
    with pytest.raises(RunError, match=r"broken\.json is no valid JSON.*delete it"):
        read_json(tmp_path / "broken.json")
    (tmp_path / "bytes.json").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(RunError, match=r"bytes\.json is no valid JSON"):
        read_json(tmp_path / "bytes.json")


def test_json_keeps_order_and_letters(tmp_path):
    write_json(tmp_path / "x.json", {"z": 1, "a": "ü"})
    assert list(read_json(tmp_path / "x.json")) == ["z", "a"]
    assert "ü" in (tmp_path / "x.json").read_text(encoding="utf-8")


def test_provenance_names_seed_inputs_versions_and_machine():
    found = provenance(7, store={"digest": "abc"})
    assert found["seed"] == 7
    assert found["store"] == {"digest": "abc"}
    assert {"torch", "timm", "numpy", "scikit-learn"} <= set(found["versions"])
    assert found["python"] == ".".join(map(str, sys.version_info[:3]))
    assert "commit" in found
