"""The snippets of docs/integrate.md, as they stand there, answer as the bundle says."""

import io
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from PIL import Image

import dermdistill.bundle
import small
from dermdistill.bundle import Bundle

HERE = Path(__file__).parent
PAGE = (HERE.parent / "docs" / "integrate.md").read_text(encoding="utf-8")
BLOCK = re.compile(r"(?:<!-- test: (\w+) -->\n)?```(\w+)\n(.*?)```", re.DOTALL)
MODULES = HERE / "node" / "node_modules"
MOST_LINES = 30
TOLERANCE = 1e-4
# Named, fetched by `make toolchains` (cpp/headers.sh), or a system's own.
FOLDERS = (os.environ.get("ONNXRUNTIME_INCLUDE"), f"{sys.prefix}/include/onnxruntime",
           "/usr/include/onnxruntime")  # fmt: skip
HEADERS = next((f for f in FOLDERS if f and Path(f, "onnxruntime_cxx_api.h").is_file()), None)


@pytest.fixture(scope="module")
def bundle() -> Bundle:
    """A bundle with an ONNX model."""
    return Bundle(small.exported() / "bundle.zip")


def snippet(name: str) -> str:
    """The block that a test is named for."""
    (found,) = [text for tested, _, text in BLOCK.findall(PAGE) if tested == name]
    return found


def answers_of(command: list, cwd: Path | None = None) -> list[float]:
    """A program's last word on each line, as numbers."""
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False,
                          cwd=cwd, timeout=300)  # fmt: skip
    assert done.returncode == 0, done.stderr
    return [float(line.split()[-1]) for line in done.stdout.splitlines()]


def test_every_language_is_there_and_short():
    blocks = {language: text for _, language, text in BLOCK.findall(PAGE)}
    assert blocks.keys() == {"python", "javascript", "cpp", "kotlin", "swift"}
    assert all(text.count("\n") < MOST_LINES for text in blocks.values())


def test_python(bundle, tmp_path):
    case = bundle.golden[0]
    (tmp_path / "image.png").write_bytes(bundle.read(case.image))
    (tmp_path / "ask.py").write_text(snippet("python"))
    found = answers_of([sys.executable, tmp_path / "ask.py", bundle.path, tmp_path / "image.png"])
    assert np.allclose(found, case.probabilities, atol=TOLERANCE)


@pytest.mark.skipif(shutil.which("node") is None, reason="node is not installed")
@pytest.mark.skipif(not MODULES.is_dir(), reason="run `npm ci` in tests/node first")
def test_node(bundle, tmp_path):
    (tmp_path / "node_modules").symlink_to(MODULES)
    for name in ("preprocess.mjs", "reader.mjs"):
        shutil.copy(Path(dermdistill.bundle.__file__).parent / name, tmp_path)
    (tmp_path / "ask.mjs").write_text(snippet("node"))
    case = bundle.golden[0]
    with Image.open(io.BytesIO(bundle.read(case.image))) as image:
        (tmp_path / "image.rgba").write_bytes(image.convert("RGBA").tobytes())
        width, height = image.size
    command = ["node", tmp_path / "ask.mjs", bundle.path, tmp_path / "image.rgba", width, height]
    assert np.allclose(answers_of(command), case.probabilities, atol=TOLERANCE)
    damaged = bytearray(bundle.path.read_bytes())
    damaged[damaged.index(bundle.read("models/onnx/model.onnx")) + 1000] ^= 1
    (tmp_path / "damaged.zip").write_bytes(damaged)
    command[2] = tmp_path / "damaged.zip"
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert "models/onnx/model.onnx is damaged" in done.stderr


@pytest.mark.skipif(shutil.which("g++") is None, reason="g++ is not installed")
@pytest.mark.skipif(HEADERS is None, reason="run tests/cpp/headers.sh, or set ONNXRUNTIME_INCLUDE")
def test_cpp(bundle, tmp_path):
    """Against the library that the Python package brings, under the name that linkers know."""
    (library,) = (Path(onnxruntime.__file__).parent / "capi").glob("libonnxruntime.so.*")
    for name in ("libonnxruntime.so", "libonnxruntime.so.1"):
        (tmp_path / name).symlink_to(library)
    (tmp_path / "ask.cpp").write_text(snippet("cpp"))
    subprocess.run(
        ["g++", "-std=c++17", "-O1", "ask.cpp", "-o", "ask", f"-I{HEADERS}", "-L.",
         "-lonnxruntime", f"-Wl,-rpath,{tmp_path}"],
        cwd=tmp_path, check=True,
    )  # fmt: skip
    (tmp_path / "model.onnx").write_bytes(bundle.read("models/onnx/model.onnx"))
    case = bundle.golden[0]
    (tmp_path / "pixels.rgb").write_bytes(bundle.read(case.pixels))
    px = bundle.manifest.preprocessing.px
    found = answers_of([tmp_path / "ask", "model.onnx", "pixels.rgb", px], cwd=tmp_path)
    assert np.allclose(found, case.probabilities, atol=TOLERANCE)
