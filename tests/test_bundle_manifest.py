"""A manifest that says anything unexpected is refused, with the field's name."""

import copy
import json
from pathlib import Path

import pytest

import small
from bundle_edits import files_of, rebuild
from dermdistill.bundle import Bundle
from dermdistill.bundle.archive import write_archive
from dermdistill.bundle.manifest import MANIFEST
from dermdistill.errors import BundleError


@pytest.fixture(scope="module")
def path() -> Path:
    """A bundle with an ONNX model."""
    return small.exported() / "bundle.zip"


def places(value, at=()):
    """Every place in a JSON value, by its keys."""
    if at:
        yield at
    if isinstance(value, dict | list):
        for key, inner in value.items() if isinstance(value, dict) else enumerate(value):
            yield from places(inner, (*at, key))


def test_any_field_of_another_type_is_refused(path, tmp_path):
    """But what is for people alone: provenance, and words."""
    manifest = json.loads(files_of(path)[MANIFEST])
    tried = 0
    for place in places(manifest):
        if place[0] == "provenance" or isinstance(_at(manifest, place), str):
            continue
        if place[0] in ("calibration", "abstention", "conformal", "files"):
            continue
        changed = copy.deepcopy(manifest)
        _at(changed, place[:-1])[place[-1]] = "a word"
        rebuild(path, tmp_path / "b.zip", {}, lambda m, c=changed: (m.clear(), m.update(c)))
        with pytest.raises(BundleError):
            Bundle(tmp_path / "b.zip")
        tried += 1
    assert tried > 20


def _at(value, place):
    for key in place:
        value = value[key]
    return value


@pytest.mark.parametrize(
    ("field", "value", "said"),
    [
        (("classes",), ["NV", "NV"], "unique"),
        (("classes",), ["NV"], "2 to 1000"),
        (("preprocessing", "px"), 0, "1 to 4096"),
        (("preprocessing", "px"), 10**9, "1 to 4096"),
        (("preprocessing", "std"), [0.0, 1.0, 1.0], "above 0"),
        (("preprocessing", "interpolation"), "nearest", "pillow-bilinear"),
        (("preprocessing", "crop"), "random", "centre"),
        (("models",), {}, "at least one"),
        (("models", "onnx", "files"), ["models/onnx/other.onnx"], "files of this bundle"),
        (("models", "onnx", "files"), ["card.md"], "other files"),
        (("models", "onnx", "outputs"), {"logits": "logits"}, "probabilities"),
        (("calibration",), {"temperature": 0, "fitted_on": "", "images": 1}, "above 0"),
        (("calibration",), {"temperature": 1.0}, "lacks"),
        (("unheard_of",), 1, "unknown"),
    ],
)
def test_a_field_without_sense_is_named(path, tmp_path, field, value, said):
    def edit(manifest):
        _at(manifest, field[:-1])[field[-1]] = value

    rebuild(path, tmp_path / "b.zip", {}, edit)
    with pytest.raises(BundleError, match=said):
        Bundle(tmp_path / "b.zip")


@pytest.mark.parametrize("text", [b"", b"{", b"[]", b"null", b"\xff", b'{"a":1,"a":2}',
                                  b'{"version": NaN}', b"[" * 100_000])  # fmt: skip
def test_a_manifest_that_is_no_strict_json_is_refused(path, tmp_path, text):
    write_archive(tmp_path / "b.zip", files_of(path) | {MANIFEST: text})
    with pytest.raises(BundleError):
        Bundle(tmp_path / "b.zip")
