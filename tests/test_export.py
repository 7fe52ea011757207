"""Exported networks answer as torch does, on a run that really was trained."""

import hashlib
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
import torch.nn.functional as F
from safetensors.numpy import load_file
from torch import nn

import small
from dermdistill import export
from dermdistill.bundle import Bundle, open_runtime
from dermdistill.bundle.formats import FORMATS
from dermdistill.bundle.predict import predict_files
from dermdistill.commands import deploy
from dermdistill.config import NetworkConfig
from dermdistill.errors import ConfigError, DataError, RunError, ToolchainError
from dermdistill.evaluate.calibration import Scaling
from dermdistill.export import onnx as onnx_export
from dermdistill.export.graph import DeployedGraph
from dermdistill.export.subject import Subject
from dermdistill.models import build_backbone, load_network
from dermdistill.run import BEST, PROVENANCE, digest_file, read_json, write_json

PROBABILITY_TOLERANCE, LOGIT_TOLERANCE = 1e-5, 1e-4


@pytest.fixture(scope="module")
def exported() -> Path:
    """A student trained for an epoch, and its bundle."""
    return small.exported()


@pytest.fixture
def run(exported, tmp_path) -> Path:
    """A copy to damage."""
    return Path(shutil.copytree(exported, tmp_path / "run"))


@pytest.fixture(scope="module")
def session(exported) -> onnxruntime.InferenceSession:
    """The ONNX model as another program would open it."""
    content = Bundle(exported / "bundle.zip").read("models/onnx/model.onnx")
    return onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])


def noise(count: int, px: int = small.PX) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, px, px, 3), np.uint8)


def temperature_of(run: Path) -> float:
    return read_json(run / "decision.json")["calibration"]["temperature"]


def oracle(network: nn.Module, pixels: np.ndarray, temperature: float = 1.0) -> tuple:
    """Probabilities, logits and class maps by the definition, in float64, place after place."""
    with torch.no_grad():
        taps = network(torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 255)
    classifier = network.network.get_classifier()
    weight, bias = (part.detach().double().numpy() for part in (classifier.weight, classifier.bias))
    maps = taps.map.double().numpy()
    cam = np.zeros((len(maps), len(weight), *maps.shape[2:]))
    for row in range(maps.shape[2]):
        for column in range(maps.shape[3]):
            cam[:, :, row, column] = maps[:, :, row, column] @ weight.T + bias
    logits = taps.logits.double().numpy()
    powers = np.exp((logits - logits.max(1, keepdims=True)) / temperature)
    return powers / powers.sum(1, keepdims=True), logits, cam


@pytest.mark.parametrize("batch", [1, 3])
def test_any_batch_size_answers_by_the_definition(exported, session, batch):
    pixels = noise(batch)
    found = session.run(["probabilities", "logits", "cam"], {"pixels": pixels})
    wanted = oracle(load_network(exported), pixels, temperature_of(exported))
    assert len(found) == len(wanted)
    for theirs, ours in zip(found, wanted, strict=True):
        assert theirs.shape == ours.shape
        assert np.abs(theirs - ours).max() < LOGIT_TOLERANCE
    assert np.allclose(found[2].mean((2, 3)), found[1], atol=1e-5), "a map's mean is its logit"


def test_the_graph_knows_how_unlike_an_image_is(exported, session):
    """As the score's own definition, from stored arrays and torch's embedding, in float64."""
    pixels = np.concatenate([noise(3), small.dataset().test.pixels(np.arange(3)).numpy()])
    (found,) = session.run(["ood_score"], {"pixels": pixels})
    fitted = load_file(exported / "prototypes.safetensors")
    with torch.no_grad():
        taps = load_network(exported)(torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 255)
    assert found.shape == (6, 1)
    for row, embedding in zip(found[:, 0], taps.embedding.double().numpy(), strict=True):
        unit = embedding / np.linalg.norm(embedding)
        centres = fitted["prototypes"].astype(float) @ fitted["axes"].astype(float)
        assert row == pytest.approx(min(1 - centre @ unit for centre in centres), abs=1e-5)


def test_image_files_give_the_scored_probabilities(exported):
    """The whole road again: JPEG, Pillow, graph, temperature, CSV; against training's scoring."""
    raw = small.predictions(exported, "test")
    scale = np.full(len(raw.classes), 1 / temperature_of(exported))
    scored = Scaling(scale, np.zeros_like(scale)).apply(raw)
    files = [str(next(small.images().rglob(f"{name}.jpg"))) for name in scored.ids]
    found, doubts = predict_files(exported / "bundle.zip", files)
    assert found.ids == scored.ids
    assert found.classes == scored.classes
    assert np.abs(found.probabilities - scored.probabilities).max() < PROBABILITY_TOLERANCE
    least = Bundle(exported / "bundle.zip").manifest.abstention.least_probability
    assert np.array_equal(doubts.unsure, found.probabilities.max(axis=1) < least)


def test_the_graph_says_what_it_takes_and_gives(exported, session):
    model = onnx.load_model_from_string(
        Bundle(exported / "bundle.zip").read("models/onnx/model.onnx")
    )
    onnx.checker.check_model(model, full_check=True)
    assert {entry.domain: entry.version for entry in model.opset_import}[""] == onnx_export.OPSET
    (pixels,) = session.get_inputs()
    assert (pixels.name, pixels.type) == ("pixels", "tensor(uint8)")
    assert pixels.shape[1:] == [small.PX, small.PX, 3]
    assert isinstance(pixels.shape[0], str), "a batch of any size"
    outputs = [one.name for one in session.get_outputs()]
    assert outputs == ["probabilities", "logits", "cam", "ood_score"]
    content = model.SerializeToString()
    assert str(Path.cwd()).encode() not in content, "no path of the machine that made it"
    assert b"site-packages" not in content


def test_the_normalised_pixels_inside_the_graph_are_the_golden_ones(exported):
    """Exactly: the first convolution of the graph reads what the manifest's digest says."""
    bundle = Bundle(exported / "bundle.zip")
    model = onnx.load_model_from_string(bundle.read("models/onnx/model.onnx"))
    first = next(node for node in model.graph.node if node.op_type == "Conv")
    feed = next(node for node in model.graph.node if first.input[0] in node.output)
    source = feed.input[0] if feed.op_type == "Pad" else first.input[0]
    model.graph.output.append(onnx.helper.make_tensor_value_info(source, 1, None))
    options = onnxruntime.SessionOptions()
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    for case in bundle.golden:
        (inside,) = session.run([source], {"pixels": bundle.golden_pixels(case)[None]})
        rows = np.ascontiguousarray(inside[0].transpose(1, 2, 0))
        assert hashlib.sha256(rows.tobytes()).hexdigest() == case.normalised_sha256


def test_parity_is_measured_on_held_out_images(exported):
    parity = read_json(exported / "parity.json")["onnx"]
    assert parity["source"] == "test images"
    assert parity["images"] == min(64, len(small.dataset().test))
    assert 0 <= parity["probability"] < PROBABILITY_TOLERANCE
    assert parity["top1_agreement"] == 1.0


def test_the_same_run_gives_the_same_bytes(exported, run):
    export.export_run(run, ["onnx"], run / "again.zip")
    named = Bundle(run / "again.zip").manifest
    first = Bundle(exported / "bundle.zip").manifest
    assert {k: v for k, v in named.files.items() if k != "card.md"} == {
        k: v for k, v in first.files.items() if k != "card.md"
    }  # the card has the folder's name
    before = digest_file(run / "again.zip")
    export.export_run(run, ["onnx"], run / "again.zip")
    assert digest_file(run / "again.zip") == before


def test_without_its_images_a_run_is_compared_on_noise(run):
    origin = read_json(run / PROVENANCE)
    origin["key"]["data"]["store"] = "another"
    write_json(run / PROVENANCE, origin)
    subject = Subject.of(run)
    assert subject.held_out()[1] == "noise"
    with pytest.raises(RunError, match=r"training images of .* are gone"):
        subject.fitting_pixels()


def test_8_bits_are_fitted_to_every_class_of_the_training_part(exported):
    """As many of each, no held-out image among them."""
    subject = Subject.of(exported)
    train = subject.dataset.train
    pixels = subject.fitting_pixels(per_class=3)
    counts = np.bincount(train.labels, minlength=len(subject.dataset.classes))
    assert len(pixels) == np.minimum(counts, 3).sum()
    known = {image.tobytes() for image in train.pixels(np.arange(len(train))).numpy()}
    assert all(image.tobytes() in known for image in pixels)


def test_a_fitted_temperature_is_inside_and_in_the_manifest(run):
    decision = {
        "calibration": {"temperature": 2.5, "fitted_on": "validation images", "images": 30},
        "abstention": {"least_probability": 0.99, "fitted_on": "validation images",
                       "answered_ratio": 0.1},
    }  # fmt: skip
    write_json(run / "decision.json", decision)
    export.export_run(run, ["onnx"])
    bundle = Bundle(run / "bundle.zip")
    assert bundle.manifest.calibration.temperature == 2.5
    pixels = noise(4)
    answers = open_runtime(bundle, "onnx").predict(pixels)
    wanted = F.softmax(torch.from_numpy(oracle(load_network(run), pixels)[1]) / 2.5, dim=1)
    assert np.abs(answers.probabilities - wanted.numpy()).max() < PROBABILITY_TOLERANCE
    files = [str(path) for path in sorted(small.images().rglob("*.jpg"))[:3]]
    assert predict_files(run / "bundle.zip", files)[1].unsure.all(), "an epoch makes nobody sure"
    write_json(run / "decision.json", {"calibration": {"temperatur": 2.5}})
    with pytest.raises(RunError, match=r"decision\.json cannot be used.*temperatur"):
        Subject.of(run)


@pytest.mark.parametrize(
    ("name", "linear"),
    [("test_efficientnet", True), ("test_resnet", True), ("mobilenetv3_small_050", False)],
)
def test_class_maps_exist_where_they_are_exact(name, linear):
    network = build_backbone(NetworkConfig(name, weights="none"), 5)
    graph = DeployedGraph(network, 64).eval()
    pixels = noise(2, 64)
    outputs = [tensor.numpy() for tensor in graph(torch.from_numpy(pixels))]
    assert len(outputs) == (3 if linear else 2)
    if linear:
        for found, wanted in zip(outputs, oracle(network.eval(), pixels), strict=True):
            assert np.abs(found - wanted).max() < LOGIT_TOLERANCE


def test_an_export_that_disagrees_is_not_kept(run, monkeypatch):
    """No difference is below a negative bar; what stood there before stays."""
    before = digest_file(run / "bundle.zip")
    monkeypatch.setattr(export, "FP32_TOLERANCE", -1.0)
    with pytest.raises(RunError, match=r"differs from torch.*nothing was kept"):
        export.export_run(run, ["onnx"])
    assert digest_file(run / "bundle.zip") == before


@pytest.mark.parametrize("damage", ["half", "missing"])
def test_damaged_weights_are_named(run, damage):
    path = run / BEST
    content = path.read_bytes()
    path.unlink()
    if damage != "missing":
        path.write_bytes(content[: len(content) // 2])
    before = digest_file(run / "bundle.zip")
    with pytest.raises(RunError, match=r"best\.safetensors.*Train the run again"):
        export.export_run(run, ["onnx"])
    assert digest_file(run / "bundle.zip") == before


def test_what_is_no_run_or_no_format_is_named(run, tmp_path, monkeypatch):
    with pytest.raises(RunError, match=r"nowhere.*does not exist"):
        export.export_run(tmp_path / "nowhere", ["onnx"])
    with pytest.raises(ConfigError, match=r"no export format 'onix'; did you mean 'onnx'"):
        export.export_run(run, ["onix"])
    with pytest.raises(ConfigError, match="no format is given"):
        export.export_run(run, [])
    with pytest.raises(DataError, match="no images"):
        predict_files(run / "bundle.zip", [])


def test_an_absent_toolchain_says_what_to_install(run, monkeypatch):
    """As on a machine without it: the format asks for modules that nobody has."""
    absent = replace(FORMATS["onnx"], writer="no_such_writer", reader="no_such_reader",
                     install="dermdistill[x]")  # fmt: skip
    monkeypatch.setitem(FORMATS, "onnx", absent)
    with pytest.raises(ToolchainError, match=r"pip install 'dermdistill\[x\]'"):
        export.export_run(run, ["onnx"])
    with pytest.raises(ToolchainError, match=r"pip install 'dermdistill\[x\]'"):
        predict_files(run / "bundle.zip", ["any.jpg"])


@pytest.mark.parametrize(("least", "told"), [(0.0, False), (1.01, True)])
def test_where_8_bits_cost_answers_the_way_out_is_named(run, monkeypatch, capsys, least, told):
    """fp32 formats are held to more than this, so only the 8-bit one is named."""
    monkeypatch.setattr(deploy, "LEAST_AGREEMENT", least)
    deploy.export(str(run), "onnx,onnx-int8")
    last = capsys.readouterr().out.splitlines()[-1]
    assert last.startswith("onnx-int8: under 101%") is told
    assert ("--student.network.int8 true" in last) is told
