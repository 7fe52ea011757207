"""Exported networks answer as torch does, on a run that really was trained."""

import shutil
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

import small
from dermdistill.distill import distill
from dermdistill.errors import ConfigError, RunError
from dermdistill.export import export_run
from dermdistill.export import onnx as onnx_export
from dermdistill.models import load_network
from dermdistill.run import BEST, PROVENANCE, digest_file, read_json

LOGIT_TOLERANCE = 1e-3


@pytest.fixture(scope="module")
def exported(tmp_path_factory) -> Path:
    """A student trained for an epoch, and its ONNX."""
    config = small.config(tmp_path_factory.mktemp("exported"), "supervised",
                          student_fit=small.fit(epochs=1))  # fmt: skip
    run = distill(config, progress=False)
    export_run(run, "onnx")
    return run


@pytest.fixture
def run(exported, tmp_path) -> Path:
    """A copy to damage."""
    return Path(shutil.copytree(exported, tmp_path / "run"))


@pytest.fixture(scope="module")
def session(exported) -> onnxruntime.InferenceSession:
    """The export as another program would open it."""
    return onnxruntime.InferenceSession(
        str(exported / "onnx" / "model.onnx"), providers=["CPUExecutionProvider"]
    )  # fmt: skip


@pytest.mark.parametrize("batch", [1, 3, 64])
def test_any_batch_size_answers_as_torch_does(exported, session, batch):
    images = torch.rand(batch, 3, small.PX, small.PX, generator=torch.Generator().manual_seed(0))
    (theirs,) = session.run(["logits"], {"images": images.numpy()})
    with torch.no_grad():
        ours = load_network(exported)(images).logits.numpy()
    assert theirs.shape == (batch, len(small.dataset().classes))
    assert np.abs(theirs - ours).max() < LOGIT_TOLERANCE


def test_pixels_through_onnx_give_the_scored_probabilities(exported, session):
    """The whole road again with numpy alone: stored bytes, /255, graph, softmax, CSV."""
    part = small.dataset().test
    pixels = np.asarray(part.store.images)[part.rows]
    assert pixels.dtype == np.uint8
    images = np.ascontiguousarray(pixels.transpose(0, 3, 1, 2)).astype(np.float32) / 255
    (logits,) = session.run(["logits"], {"images": images})
    powers = np.exp(logits.astype(np.float64) - logits.max(axis=1, keepdims=True))
    scored = small.predictions(exported, "test")
    assert scored.ids == part.ids
    assert np.allclose(powers / powers.sum(axis=1, keepdims=True), scored.probabilities, atol=1e-4)


def test_the_graph_says_what_it_takes_and_gives(exported, session):
    model = onnx.load(exported / "onnx" / "model.onnx")
    onnx.checker.check_model(model, full_check=True)
    assert {entry.domain: entry.version for entry in model.opset_import}[""] == onnx_export.OPSET
    (images,), (logits,) = session.get_inputs(), session.get_outputs()
    assert (images.name, images.type) == ("images", "tensor(float)")
    assert images.shape[1:] == [3, small.PX, small.PX]
    assert isinstance(images.shape[0], str), "a batch of any size"
    assert (logits.name, logits.type) == ("logits", "tensor(float)")
    assert logits.shape[1] == len(small.dataset().classes)
    assert {path.name for path in (exported / "onnx").iterdir()} == {"model.onnx", "parity.json"}


def test_parity_is_measured_on_held_out_images(exported):
    parity = read_json(exported / "onnx" / "parity.json")
    assert parity["source"] == "test images"
    assert parity["images"] == min(onnx_export.PARITY_IMAGES, len(small.dataset().test))
    assert 0 <= parity["largest_logit_difference"] < LOGIT_TOLERANCE
    assert parity["top1_agreement"] == 1.0
    assert parity["onnxruntime"] == onnxruntime.__version__


def test_without_the_store_parity_is_measured_on_noise(run):
    origin = (run / PROVENANCE).read_text()
    folder = read_json(run / PROVENANCE)["store"]["folder"]
    (run / PROVENANCE).write_text(origin.replace(folder, folder + "-gone"))
    assert export_run(run, "onnx")["source"] == "random noise"


def test_an_export_that_disagrees_is_not_kept(run, monkeypatch):
    """No difference is below a negative bar; what stood there before stays."""
    before = digest_file(run / "onnx" / "model.onnx")
    monkeypatch.setattr(onnx_export, "PARITY_TOLERANCE", -1.0)
    with pytest.raises(RunError, match=r"differs from torch.*it was not kept"):
        export_run(run, "onnx")
    assert digest_file(run / "onnx" / "model.onnx") == before
    assert {path.name for path in (run / "onnx").iterdir()} == {"model.onnx", "parity.json"}


@pytest.mark.parametrize("damage", ["half", "empty", "missing"])
def test_damaged_weights_are_named(run, damage):
    path = run / BEST
    content = path.read_bytes()
    path.unlink()
    if damage != "missing":
        path.write_bytes(content[: len(content) // 2] if damage == "half" else b"")
    before = digest_file(run / "onnx" / "model.onnx")
    with pytest.raises(RunError, match=r"best\.safetensors.*Train the run again"):
        export_run(run, "onnx")
    assert digest_file(run / "onnx" / "model.onnx") == before


def test_what_is_no_run_or_no_format_is_named(run, tmp_path):
    with pytest.raises(RunError, match=r"nowhere.*does not exist"):
        export_run(tmp_path / "nowhere", "onnx")
    with pytest.raises(ConfigError, match=r"no export format 'onx'; did you mean 'onnx'"):
        export_run(run, "onx")
