"""The kernels of this folder's C++ files: what torch does in more passes over a map than needed."""

import ctypes
import functools
import os
import platform
import subprocess
import tempfile
from pathlib import Path

from torch import Tensor

from dermdistill.errors import ToolchainError

# -fno-trapping-math lets both sides of a choice be computed, without which loops are not parallel.
FLAGS = "-std=c++20 -O3 -march=native -fno-math-errno -fno-trapping-math -fopenmp -shared -fPIC"
WIDE = {"x86_64": ["-mprefer-vector-width=512"]}  # by default compilers take half of it


@functools.cache
def compiled_kernels() -> ctypes.CDLL:
    """The kernels, compiled for this very processor: four seconds, once a process.

    Raises:
        ToolchainError: that does not work here.
    """
    sources = sorted(map(str, Path(__file__).parent.glob("*.cpp")))
    command = [os.environ.get("CXX", "g++"), *FLAGS.split(), *WIDE.get(platform.machine(), [])]
    with tempfile.TemporaryDirectory() as folder:
        made = str(Path(folder) / "kernels.so")
        try:
            command += ["-o", made, *sources]
            subprocess.run(command, check=True, capture_output=True, text=True)
            return ctypes.CDLL(made)
        except (OSError, subprocess.CalledProcessError) as error:
            reason = getattr(error, "stderr", None) or str(error)
            raise ToolchainError(
                f"the student cannot be compiled ({reason.strip().partition(chr(10))[0]}); install "
                "a C++ compiler such as g++, or set compile_student to false"
            ) from error


def pointers(*tensors: Tensor) -> list[ctypes.c_void_p]:
    """Where tensors begin, as kernels are told."""
    return [ctypes.c_void_p(tensor.data_ptr()) for tensor in tensors]
