"""The runtimes that load a bundle's models: pixels in, answers out, whatever runs them."""

import importlib
import importlib.util

from dermdistill.bundle.formats import FORMATS
from dermdistill.bundle.manifest import Model
from dermdistill.bundle.reader import Bundle
from dermdistill.bundle.runtimes.base import Answers, Runtime
from dermdistill.errors import ToolchainError

__all__ = ["Answers", "Runtime", "can_run", "load_runtime", "open_runtime"]

ENGINES = {
    "onnxruntime": "onnxruntime:OnnxRuntime",
    "openvino": "openvino:OpenVino",
    "litert": "litert:LiteRt",
    "executorch": "executorch:ExecuTorch",
    "ncnn": "ncnn:Ncnn",
}


def can_run(format_name: str) -> bool:
    """Whether what runs a format is installed, found without importing it."""
    known = FORMATS[format_name]
    return known.reader is not None and importlib.util.find_spec(known.reader) is not None


def open_runtime(bundle: Bundle, format_name: str, threads: int = 1) -> Runtime:
    """Load one of a bundle's models.

    Args:
        bundle: a verified bundle.
        format_name: one of its formats.
        threads: how many the runtime may use.

    Raises:
        ConfigError: the bundle does not hold this format.
        ToolchainError: what runs it is not installed, or does not exist for this machine.
    """
    model, files = bundle.model(format_name)
    return load_runtime(format_name, model, files, threads)


def load_runtime(
    format_name: str, model: Model, files: dict[str, bytes], threads: int = 1
) -> Runtime:
    """Load a model from its description and its files' contents. As `open_runtime`."""
    known = FORMATS[format_name]
    if known.reader is None:
        raise ToolchainError(
            f"{format_name} does not run on this kind of machine; a device must. Choose another "
            "runtime"
        )
    if not can_run(format_name):
        raise ToolchainError(
            f"{format_name} needs {known.engine}, which is not installed: "
            f"pip install '{known.install}'"
        )
    module, _, name = ENGINES[known.engine].partition(":")
    engine = getattr(importlib.import_module(f"{__name__}.{module}"), name)
    return engine(model, files, threads)
