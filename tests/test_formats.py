"""Every format whose tools are installed here, from a trained run to answers and back."""

import importlib.util
import json
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

import small
from dermdistill import export
from dermdistill.bundle import FORMATS, Bundle, can_run, check_golden, open_runtime
from dermdistill.config import NetworkConfig
from dermdistill.export.graph import DeployedGraph
from dermdistill.export.subject import Subject
from dermdistill.models import build_backbone

INSTALLED = [name for name, known in FORMATS.items() if importlib.util.find_spec(known.writer)]
RUNNABLE = [name for name in INSTALLED if can_run(name)]
# Of a probability, on a network of an epoch whose answers are all near an eighth.
TOLERANCES = {"fp32": 1e-5, "int8": 0.02}


@pytest.fixture(scope="module")
def bundle(tmp_path_factory) -> Bundle:
    """One bundle with every format that can be written here."""
    path = tmp_path_factory.mktemp("formats") / "bundle.zip"
    export.export_run(small.exported(), INSTALLED, path)
    return Bundle(path)


def noise(count: int) -> np.ndarray:
    return np.random.default_rng(1).integers(0, 256, (count, small.PX, small.PX, 3), np.uint8)


def test_every_format_has_its_converter():
    assert list(FORMATS) == list(export.CONVERTERS)
    for name, module in export.CONVERTERS.items():
        assert importlib.util.find_spec(f"dermdistill.export.{module}"), name


@pytest.mark.slow
@pytest.mark.parametrize("name", RUNNABLE)
def test_answers_are_torchs(bundle, name):
    """On images that nothing was calibrated on, in batches and alone, with all outputs."""
    images = small.dataset().test.pixels(np.arange(5)).numpy()
    wanted = Subject.of(small.exported()).answers(images)
    runtime = open_runtime(bundle, name)
    found = runtime.predict(images)
    tolerance = TOLERANCES[FORMATS[name].precision]
    assert np.abs(found.probabilities - wanted.probabilities).max() < tolerance
    assert np.allclose(found.probabilities.sum(1), 1, atol=1e-5)
    assert found.cam.shape == wanted.cam.shape
    assert np.allclose(found.cam.mean((2, 3)), found.logits, atol=1e-4), "a map's mean is its logit"
    assert found.ood_score.shape == (5, 1)
    assert np.abs(found.ood_score - wanted.ood_score).max() < tolerance
    alone = runtime.predict(images[2:3])
    assert np.allclose(alone.probabilities, found.probabilities[2:3], atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in RUNNABLE if FORMATS[name].precision == "int8"])
def test_int8_models_are_smaller_and_not_the_same(bundle, name):
    """A quantiser that silently left all in fp32 would agree, and be of no use."""
    plain = bundle.manifest.models[name.removesuffix("-int8")]
    sizes = [sum(bundle.manifest.files[file].bytes for file in model.files)
             for model in (bundle.manifest.models[name], plain)]  # fmt: skip
    assert sizes[0] < 0.75 * sizes[1]
    apart = np.abs(
        open_runtime(bundle, name).predict(noise(4)).logits
        - open_runtime(bundle, name.removesuffix("-int8")).predict(noise(4)).logits
    )
    assert apart.max() > 1e-6


def other(network: str) -> Subject:
    """The exported run with another, untrained network in its place."""
    built = build_backbone(NetworkConfig(network, "none"), len(small.dataset().classes))
    graph = DeployedGraph(built.eval(), small.PX).eval()
    return replace(Subject.of(small.exported()), graph=graph)


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in RUNNABLE if FORMATS[name].precision == "int8"])
def test_8_bits_whatever_follows_a_convolution(name):
    """A quantiser that leaves out what stands before a ReLU keeps most of a ResNet in fp32."""
    subject = other("test_resnet")
    weights = sum(value.numel() for value in subject.graph.network.state_dict().values())
    files = export.converter(name).convert(subject)
    assert sum(map(len, files.values())) < 1.5 * weights


@pytest.mark.slow
@pytest.mark.skipif(
    "executorch-int8" not in RUNNABLE, reason="pip install 'dermdistill[executorch]'"
)
def test_executorch_answers_behind_attention():
    """A map that was tokens before cannot be read in 8 bits there; the rest of its network can."""
    from executorch.runtime import Runtime

    from dermdistill.export import executorch_int8

    subject = other("efficientvit_b0")
    (content,) = executorch_int8.convert(subject).values()
    method = Runtime.get().load_program(content).load_method("forward")
    images = noise(3)
    found = [method.execute([torch.from_numpy(one[None]).float()])[0][0] for one in images]
    assert np.abs(np.stack(found) - subject.answers(images).probabilities).max() < 0.02
    plain = sum(value.numel() for value in subject.graph.network.state_dict().values()) * 4
    assert len(content) < 0.8 * plain


@pytest.mark.slow
def test_the_bundle_proves_itself_and_labels_what_it_cannot(bundle):
    found = {finding.what: finding for finding in check_golden(bundle)}
    for name in INSTALLED:
        assert found[name].ok is (True if name in RUNNABLE else None), found[name]
        parity = bundle.manifest.models[name].parity
        assert (parity is None) == (name not in RUNNABLE)
        assert parity is None or parity.source == "test images"


@pytest.mark.slow
@pytest.mark.skipif("litert-int8" not in RUNNABLE, reason="pip install 'dermdistill[litert]'")
def test_litert_has_8_bits_for_dense_convolutions_on_coarse_maps(bundle):
    from ai_edge_litert.interpreter import Interpreter

    (file,) = bundle.manifest.models["litert-int8"].files
    model = Interpreter(model_content=bundle.read(file))
    tensors = {tensor["index"]: tensor for tensor in model.get_tensor_details()}
    found: dict[tuple[str, bool], set] = {}
    *inner, head = (
        (operation["op_name"], *(tensors[place] for place in operation["inputs"][:2]))
        for operation in model._get_ops_details()
        if operation["op_name"] in ("CONV_2D", "DEPTHWISE_CONV_2D")
    )
    assert head[2]["dtype"] == np.float32
    for kind, read, weight in inner:
        coarse = bool(read["shape"][1] <= small.PX / 6)
        found.setdefault((kind, coarse), set()).add(weight["dtype"])
        assert read["dtype"] == np.float32, "each image is rounded in the convolution itself"
    assert found.pop(("CONV_2D", True)) == {np.int8}
    assert set.union(*found.values()) == {np.float32}
    assert len(inner) > 10


@pytest.mark.slow
@pytest.mark.skipif("litert-int8" not in RUNNABLE, reason="pip install 'dermdistill[litert]'")
def test_a_channel_that_is_nothing_but_its_bias_keeps_it_in_litert():
    """Counted in steps of weights that are 0 it would overflow, and come back with another sign."""
    from ai_edge_litert.interpreter import Interpreter

    from dermdistill.export import litert_int8

    subject = Subject.of(small.exported())
    with torch.no_grad():
        norm = [one for one in subject.graph.modules() if isinstance(one, nn.BatchNorm2d)][-2]
        norm.weight[:4], norm.bias[:4] = 0, 3
    images = subject.dataset.test.pixels(np.arange(5)).numpy()
    (content,) = litert_int8.convert(subject).values()
    runner = Interpreter(model_content=content).get_signature_runner()
    found = [runner(args_0=one[None].astype(np.float32))["output_0"][0] for one in images]
    assert np.abs(found - subject.answers(images).probabilities).max() < TOLERANCES["int8"]


@pytest.mark.slow
@pytest.mark.skipif("litert-int8" not in RUNNABLE, reason="pip install 'dermdistill[litert]'")
def test_names_of_tensors_take_no_room_in_litert(bundle):
    """A tensor's own name lists all modules on its way: 140 kB of MobileNetV2's 2.9 MB."""
    from ai_edge_litert.tools.flatbuffer_utils import read_model_from_bytearray

    content = bundle.read("models/litert-int8/model.tflite")
    (graph,) = read_model_from_bytearray(content).subgraphs
    assert max(len(tensor.name) for tensor in graph.tensors) < 40


@pytest.mark.slow
def test_bench_measures_each_model_in_a_process_of_its_own(bundle, tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "dermdistill", "bench", str(bundle.path), "--threads", "1",
         "--rounds", "20", "--formats", "onnx,onnx-int8", "--output", str(tmp_path / "bench")],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    lines = (tmp_path / "bench.csv").read_text().splitlines()
    assert len(lines) == 3
    rows = [dict(zip(lines[0].split(","), line.split(","), strict=True)) for line in lines[1:]]
    for row in rows:
        times = [float(row[key]) for key in ("p50_ms", "p90_ms", "p99_ms")]
        assert 0 < times[0] <= times[1] <= times[2]
        assert float(row["cold_start_ms"]) > times[0], "the first answer waits for the runtime"
        assert float(row["peak_mb"]) > 1
        assert float(row["download_mb"]) <= float(row["file_mb"])
    assert (tmp_path / "bench.png").read_bytes().startswith(b"\x89PNG")
    assert all(row["format"] in done.stdout for row in rows)


def test_what_is_not_installed_is_listed_with_its_command():
    """Formats whose tools are absent here are named, never silently dropped."""
    for name, known in FORMATS.items():
        assert known.install.startswith("dermdistill"), name
        assert json.dumps(known.outputs(("probabilities", "logits", "cam")))
