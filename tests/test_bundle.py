"""A bundle is whole or refused, with the reason; nothing in it runs."""

import io
import os
import pickle
import random
import struct
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import small
from bundle_edits import files_of, rebuild
from dermdistill.bundle import Bundle, check_golden
from dermdistill.bundle.archive import Archive, write_archive
from dermdistill.bundle.golden import normalise
from dermdistill.bundle.manifest import MANIFEST
from dermdistill.errors import BundleError, ConfigError

MODEL, PIXELS = "models/onnx/model.onnx", "golden/nv.rgb"
CONTENT_FLIPS = 60
# A process that dies when anything is unpickled or started while it checks a bundle.
GUARDED = """
import sys
from dermdistill.cli import main
import numpy, onnx, onnxruntime, PIL.Image
def stop(event, arguments):
    if event.startswith(("pickle.", "subprocess.", "os.system", "os.exec", "os.posix_spawn")):
        raise SystemExit(f"a bundle caused {event} {arguments}")
sys.addaudithook(stop)
sys.exit(main(["bundle", "check", sys.argv[1]]))
"""


@pytest.fixture(scope="module")
def path() -> Path:
    """A bundle with an ONNX model."""
    return small.exported() / "bundle.zip"


class Payload:
    """What would write a file if it were unpickled."""

    def __init__(self, marker: Path):
        self.marker = marker

    def __reduce__(self):
        return os.mkdir, (str(self.marker),)


def test_a_whole_bundle_opens_and_proves_itself(path):
    bundle = Bundle(path)
    assert bundle.manifest.classes == list(small.dataset().classes)
    assert all(finding.ok for finding in check_golden(bundle))
    assert len(bundle.golden) == 2
    with zipfile.ZipFile(path) as archive:
        assert archive.testzip() is None
        assert archive.namelist()[0] == MANIFEST, "a reader of a stream meets it first"


def test_every_flipped_byte_is_refused(path, tmp_path):
    """Every byte outside of the contents, and a sample of those inside."""
    whole = path.read_bytes()
    inside = set()
    with zipfile.ZipFile(path) as archive:
        for info in archive.infolist():
            start = info.header_offset + 30 + len(info.filename)
            inside |= set(range(start, start + info.file_size))
    outside = sorted(set(range(len(whole))) - inside)
    assert len(outside) > 500
    chosen = outside + random.Random(0).sample(sorted(inside), CONTENT_FLIPS)
    damaged = tmp_path / "damaged.zip"
    damaged.write_bytes(whole)
    with open(damaged, "r+b", buffering=0) as file:
        for place in chosen:
            os.pwrite(file.fileno(), bytes([whole[place] ^ 1 << (place % 8)]), place)
            with pytest.raises(BundleError):
                Bundle(damaged)
            os.pwrite(file.fileno(), whole[place : place + 1], place)
    Bundle(damaged)


@pytest.mark.parametrize("cut", [0, 1, 21, 22, 1000, -1, -22])
def test_a_cut_or_lengthened_bundle_is_refused(path, tmp_path, cut):
    whole = path.read_bytes()
    changed = tmp_path / "cut.zip"
    changed.write_bytes(whole[:cut])
    with pytest.raises(BundleError, match=r"no zip archive|cut off"):
        Bundle(changed)
    changed.write_bytes(whole + whole[:cut] + b"x")
    with pytest.raises(BundleError, match="added to"):
        Bundle(changed)


@pytest.mark.parametrize("name", [MANIFEST, MODEL, PIXELS, "golden/golden.json", "card.md"])
def test_a_missing_file_is_named(path, tmp_path, name):
    files = files_of(path)
    del files[name]
    write_archive(tmp_path / "b.zip", files)
    with pytest.raises(BundleError, match=f"{name}.* is missing"):
        Bundle(tmp_path / "b.zip")


def test_a_file_that_nobody_listed_is_named(path, tmp_path):
    write_archive(tmp_path / "b.zip", files_of(path) | {"extra.md": b"hello"})
    with pytest.raises(BundleError, match=r"extra\.md is not in its manifest"):
        Bundle(tmp_path / "b.zip")
    rebuild(path, tmp_path / "b.zip", {"extra.md": b"hello"})
    with pytest.raises(BundleError, match=r"extra\.md has no place in a bundle"):
        Bundle(tmp_path / "b.zip")


@pytest.mark.parametrize("version", [0, 2, "1", None, True, 1.0])
def test_another_version_is_refused(path, tmp_path, version):
    rebuild(path, tmp_path / "b.zip", {}, lambda manifest: manifest.update(version=version))
    with pytest.raises(BundleError, match="version"):
        Bundle(tmp_path / "b.zip")


@pytest.mark.parametrize(
    "name", ["../out.md", "/etc/out", "a/../../out.md", "a\\..\\out.md", "C:/out.md", ".hidden",
             "a//b", "a/", "", "a/./b", "é.md", "a\x00b", "x" * 200]
)  # fmt: skip
def test_a_name_that_climbs_out_is_refused(path, tmp_path, name):
    with pytest.raises(BundleError):
        write_archive(tmp_path / "ours.zip", {name: b"content"})
    with zipfile.ZipFile(tmp_path / "b.zip", "w") as archive:
        for kept, content in files_of(path).items():
            archive.writestr(kept, content)
        archive.writestr(zipfile.ZipInfo(name or "../x"), b"content")
    with pytest.raises(BundleError):
        Bundle(tmp_path / "b.zip")
    assert not (tmp_path.parent / "out.md").exists()


def test_a_name_in_two_cases_is_refused(path, tmp_path):
    with pytest.raises(BundleError, match="stands there twice"):
        write_archive(tmp_path / "b.zip", {"card.md": b"1", "Card.md": b"2"})


def test_a_link_is_refused(path, tmp_path):
    info = zipfile.ZipInfo("card.md")
    info.external_attr = 0o120777 << 16
    with zipfile.ZipFile(tmp_path / "b.zip", "w") as archive:
        archive.writestr(info, "/etc/passwd")
    with pytest.raises(BundleError, match="no plain file"):
        Bundle(tmp_path / "b.zip")


def test_bombs_are_refused_unread(path, tmp_path):
    """A compressed one, one that lies about sizes, and one whose entries overlap."""
    bomb = tmp_path / "bomb.zip"
    with zipfile.ZipFile(bomb, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(MANIFEST, b"{}")
        archive.writestr(MODEL, bytes(300_000_000))
    assert bomb.stat().st_size < 1_000_000
    with pytest.raises(BundleError, match="is compressed"):
        Bundle(bomb)
    plain = io.BytesIO()
    with zipfile.ZipFile(plain, "w") as archive:
        archive.writestr(MODEL, b"tiny")
    whole = plain.getvalue()
    place = whole.index(b"PK\x01\x02") + 20
    bomb.write_bytes(whole[:place] + struct.pack("<II", 2**31, 2**31) + whole[place + 8 :])
    with pytest.raises(BundleError):
        Bundle(bomb)
    place = whole.index(b"PK\x01\x02")
    row, end = whole[place:-22], whole[-22:]
    rows = row.replace(b"model.onnx", b"modem.onnx") + row
    bomb.write_bytes(whole[:place] + rows + end[:8] + struct.pack("<HHI", 2, 2, len(rows))
                     + end[16:])  # fmt: skip
    with pytest.raises(BundleError):
        Bundle(bomb)


def payloads(marker: Path) -> dict[str, bytes]:
    """Pickles in several wrappings."""
    saved, numpy = io.BytesIO(), io.BytesIO()
    torch.save({"weights": torch.zeros(2), "payload": Payload(marker)}, saved)
    np.save(numpy, np.array([Payload(marker)], dtype=object), allow_pickle=True)
    return {
        "protocol 2": pickle.dumps(Payload(marker), 2),
        "protocol 5": pickle.dumps(Payload(marker), 5),
        "protocol 0": pickle.dumps(Payload(marker), 0),
        "torch.save": saved.getvalue(),
        "numpy": numpy.getvalue(),
    }


@pytest.mark.parametrize("kind", ["protocol 2", "protocol 5", "protocol 0", "torch.save", "numpy"])
@pytest.mark.parametrize("name", [MODEL, PIXELS, "golden/nv.png", "models/onnx/model.pt"])
def test_a_pickled_payload_is_refused_and_never_runs(path, tmp_path, kind, name):
    marker = tmp_path / "ran"
    rebuild(path, tmp_path / "b.zip", {name: payloads(marker)[kind]})
    done = subprocess.run(
        [sys.executable, "-c", GUARDED, str(tmp_path / "b.zip")], capture_output=True, text=True,
        check=False,
    ) if name == MODEL else None  # fmt: skip
    with pytest.raises(BundleError) as error:
        Bundle(tmp_path / "b.zip")
    assert error.value.reason
    assert not marker.exists()
    if done is not None:
        assert done.returncode == 2, done.stderr
        assert "is refused" in done.stderr
        assert "Traceback" not in done.stderr


def test_a_whole_bundle_starts_and_unpickles_nothing(path):
    done = subprocess.run(
        [sys.executable, "-c", GUARDED, str(path)], capture_output=True, text=True, check=False
    )  # fmt: skip
    assert done.returncode == 0, done.stderr + done.stdout


def _with_external_weights(model: onnx.ModelProto) -> None:
    tensor = model.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = onnx.TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="../../../etc/passwd")


def _with_foreign_operator(model: onnx.ModelProto) -> None:
    model.opset_import.add(domain="evil.example", version=1)
    model.graph.node[0].domain = "evil.example"


@pytest.mark.parametrize(
    ("edit", "reason"),
    [(_with_external_weights, "outside of the bundle"), (_with_foreign_operator, "operators of")],
)
def test_a_model_that_reaches_out_is_refused(path, tmp_path, edit, reason):
    model = onnx.load_model_from_string(files_of(path)[MODEL])
    edit(model)
    rebuild(path, tmp_path / "b.zip", {MODEL: model.SerializeToString()})
    with pytest.raises(BundleError, match=reason):
        Bundle(tmp_path / "b.zip")


def test_what_is_no_file_is_refused(tmp_path):
    for path in (tmp_path, tmp_path / "absent.zip"):
        with pytest.raises(BundleError, match="cannot be read"):
            Bundle(path)


def test_a_bundle_that_changes_after_it_was_opened_is_noticed(path, tmp_path):
    copied = tmp_path / "b.zip"
    copied.write_bytes(path.read_bytes())
    bundle = Bundle(copied)
    content = bytearray(copied.read_bytes())
    content[content.index(bundle.read(MODEL)) + 100] ^= 1
    copied.write_bytes(content)
    with pytest.raises(BundleError, match="damaged"):
        bundle.read(MODEL)
    with pytest.raises(ConfigError, match="did you mean 'onnx'"):
        bundle.model("onx")


@given(st.lists(st.binary(max_size=60), max_size=6))
def test_any_files_go_in_and_out_and_every_zip_reader_agrees(contents):
    files = {f"folder_{k}/file-{k}.bin": content for k, content in enumerate(contents)}
    folder = small.scratch() / "archives"
    folder.mkdir(exist_ok=True)
    write_archive(folder / "any.zip", files)
    archive = Archive(folder / "any.zip")
    assert {name: archive.read(name) for name in archive.names} == files
    with zipfile.ZipFile(folder / "any.zip") as other:
        assert other.testzip() is None
        assert {name: other.read(name) for name in other.namelist()} == files


def test_normalising_is_what_torch_does_bit_for_bit(path):
    spec = Bundle(path).manifest.preprocessing
    pixels = np.random.default_rng(0).integers(0, 256, (2, 5, 5, 3), np.uint8)
    images = torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 255
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (spec.mean, spec.std))
    assert np.array_equal(normalise(pixels, spec), ((images - mean) / std).permute(0, 2, 3, 1))
