"""Students with fewer channels: what is taken out, and that all else copes with what is left."""

import copy
import json
import subprocess
import sys

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

import small
from dermdistill.config import NetworkConfig, to_dict
from dermdistill.distill import distill
from dermdistill.errors import ConfigError, RunError, ToolchainError
from dermdistill.export import export_run
from dermdistill.models import build_backbone, load_network, pruning
from dermdistill.models.pruning import narrow
from dermdistill.run import BEST, METRICS, PROVENANCE, read_json, write_json

CLASSES, RATIO = 5, 0.5
# Inverted residuals, plain residuals, squeeze and excitation, ghost features, branches that merge.
NETWORKS = ("test_efficientnet", "test_resnet", "mobilenetv3_small_050", "ghostnet_050",
            "mobileone_s0")  # fmt: skip
WITHOUT = """
import sys
sys.modules["torch_pruning"] = None
import numpy as np
from pathlib import Path
from dermdistill.export import export_run
from dermdistill.models import load_network
import torch
run = Path(sys.argv[1])
print(load_network(run)(torch.from_numpy(np.load(sys.argv[2]))).logits.tolist())
export_run(run, ["onnx"], Path(sys.argv[3]))
"""


def fresh(name="test_efficientnet", seed=0, **changes):
    torch.manual_seed(seed)
    return build_backbone(NetworkConfig(name, "none", **changes), CLASSES).eval()


def size(network):
    return sum(parameter.numel() for parameter in network.parameters())


def pruned_student(config, ratio, weights, method="kd"):
    """A config whose student starts from a run, with a share of its channels taken out."""
    values = vars(config.student.network) | {"prune_ratio": ratio, "weights": str(weights)}
    student = type(config.student)(NetworkConfig(**values), method, {}, small.fit(epochs=1))
    return type(config)(**vars(config) | {"student": student})


@pytest.mark.parametrize("name", NETWORKS)
def test_the_shapes_of_its_tensors_say_all_about_a_pruned_network(name):
    """Also those of depthwise convolutions, whose groups go with them."""
    network, whole = fresh(name, prune_ratio=RATIO), fresh(name, seed=1)
    assert 0.1 < size(network) / size(whole) < 0.5
    narrow(whole, network.state_dict())
    whole.load_state_dict(network.state_dict())
    images = torch.rand(2, 3, 64, 64)
    taps = network(images)
    assert torch.equal(taps.logits, whole(images).logits)
    assert taps.logits.shape == (2, CLASSES)
    assert network.network.num_features == taps.map.shape[1]
    assert network.widths(64).embedding == taps.embedding.shape[1]


def test_every_layer_loses_its_share_and_the_smallest_weights_go_first():
    whole, network = fresh("test_resnet"), fresh("test_resnet")
    conv = "network.layer1.0.conv1"
    with torch.no_grad():
        for state in (whole, network):
            weight = state.get_submodule(conv).weight
            weight[::2] *= 0.01
    pruning.prune(network.network, RATIO)
    kept = network.get_submodule(conv).weight
    assert len(kept) == len(whole.get_submodule(conv).weight) // 2
    assert kept.abs().amax((1, 2, 3)).min() > 0.1 * kept.abs().max(), "small ones went"


def test_a_network_of_tokens_is_refused():
    with pytest.raises(ConfigError, match=r"VisionTransformer cannot be pruned.*prune_ratio to 0"):
        fresh("test_vit", prune_ratio=RATIO)


def test_a_share_out_of_range_is_refused_before_anything_is_read(tmp_path):
    config = small.config(tmp_path)
    for ratio in (-0.1, 1.0):
        with pytest.raises(ConfigError, match=rf"student\.network\.prune_ratio is {ratio}"):
            pruned_student(config, ratio, "none")


def test_without_the_library_pruning_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setattr(pruning, "LIBRARY", "no_such_library")
    with pytest.raises(ToolchainError, match=r"pip install 'dermdistill\[prune\]'"):
        distill(pruned_student(small.config(tmp_path), RATIO, "none"), progress=False)
    assert not list(tmp_path.iterdir())


def test_narrow_leaves_alone_what_is_not_narrower():
    network = fresh()
    before = copy.deepcopy(network.state_dict())
    narrow(network, fresh("test_resnet").state_dict())
    narrow(network, before | {"network.conv_stem.weight": torch.zeros(999, 3, 3, 3)})
    assert all(torch.equal(before[key], value) for key, value in network.state_dict().items())


def test_runs_made_before_there_was_a_share_are_found():
    run = small.exported()
    assert "prune_ratio" not in read_json(run / PROVENANCE)["key"]["network"]


def test_a_pruned_run_lends_its_widths_to_its_own_classes_alone(tmp_path):
    """A head of other classes would have to be a new one, of a width that nobody wrote down."""
    run = tmp_path / "run"
    run.mkdir()
    network = fresh(prune_ratio=RATIO)
    save_file(network.state_dict(), run / BEST)
    config = NetworkConfig("test_efficientnet", "none", prune_ratio=RATIO)
    write_json(run / PROVENANCE, {"network_config": to_dict(config)})
    started = build_backbone(NetworkConfig("test_efficientnet", str(run)), CLASSES).eval()
    images = torch.rand(2, 3, 64, 64)
    assert torch.equal(started(images).logits, network(images).logits)
    for classes in (CLASSES - 1, CLASSES + 1):
        with pytest.raises(ConfigError, match=r"do not fit.*classifier\.weight"):
            build_backbone(NetworkConfig("test_efficientnet", str(run)), classes)


@pytest.mark.parametrize("classes", [3, 8, 11])
def test_a_whole_run_lends_its_body_to_any_classes(classes):
    found = build_backbone(NetworkConfig(small.STUDENT, str(small.exported())), classes)
    assert found(torch.rand(2, 3, 64, 64)).logits.shape == (2, classes)


def test_a_directory_that_is_no_finished_run_is_refused(tmp_path):
    with pytest.raises(RunError, match="no finished run"):
        distill(pruned_student(small.config(tmp_path / "out"), RATIO, tmp_path), progress=False)


@pytest.mark.slow
def test_a_student_is_pruned_and_recovers_and_needs_the_library_no_more(tmp_path):
    """The whole way: a finished student, half of its channels, a teacher; then an ordinary run."""
    start = small.exported()
    config = pruned_student(small.config(tmp_path), RATIO, start)
    run = distill(config, progress=False)
    sizes = [read_json(folder / METRICS)["cost"]["parameters"] for folder in (start, run)]
    assert 0.1 < sizes[1] / sizes[0] < 0.5
    assert read_json(run / PROVENANCE)["network_config"]["prune_ratio"] == RATIO
    assert distill(config, progress=False) == run, "found again"

    images = np.random.default_rng(0).random((4, 3, small.PX, small.PX), np.float32)
    np.save(tmp_path / "images.npy", images)
    command = [sys.executable, "-c", WITHOUT, run, tmp_path / "images.npy", tmp_path / "b.zip"]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found = torch.tensor(json.loads(done.stdout.splitlines()[0]))
    with torch.no_grad():
        assert torch.allclose(found, load_network(run)(torch.from_numpy(images)).logits, atol=1e-6)
    assert (tmp_path / "b.zip").is_file()

    again = distill(pruned_student(config, 0.0, run, "supervised"), progress=False)
    assert read_json(again / METRICS)["cost"]["parameters"] == sizes[1], "widths are taken over"
    less = distill(pruned_student(config, RATIO, again, "simkd"), progress=False)
    models = export_run(less, ["onnx"])
    assert models["onnx"].parity.probability < 1e-4
    assert to_dict(config.student.network)["weights"] == str(start)
