"""The formats that a bundle can hold: whose they are, their files, and what reads them."""

from dataclasses import dataclass
from typing import Literal

from dermdistill.errors import unknown_name


@dataclass(frozen=True)
class Format:
    """One format.

    Args:
        engine: the runtime that loads it.
        precision: of weights and arithmetic.
        files: names under `models/<format>/`; the first is the one to open.
        pixel_type: number type of its input; "image" is the platform's own image object.
        layout: order of its input's axes.
        batch: images at once, 0 for any number.
        input: its input's name in the runtime.
        output: its outputs' names, from their meaning and their place.
        install: what pip must install to write and run it.
        writer, reader: Python modules by which both are known to be installed; no reader where
            only another kind of machine can run it.
    """

    engine: str
    precision: Literal["fp32", "fp16", "int8"]
    files: tuple[str, ...]
    pixel_type: Literal["uint8", "float32", "image"]
    layout: Literal["NHWC", "NCHW"]
    batch: Literal[0, 1]
    input: str
    output: str
    install: str
    writer: str
    reader: str | None

    def outputs(self, meanings: tuple[str, ...]) -> dict[str, str]:
        """Meaning -> the tensor's name, in the runtime's order."""
        return {
            meaning: self.output.format(meaning=meaning, place=place)
            for place, meaning in enumerate(meanings)
        }


def _onnx(precision: Literal["fp32", "int8"]) -> Format:
    return Format("onnxruntime", precision, ("model.onnx",), "uint8", "NHWC", 0, "pixels",
                  "{meaning}", "dermdistill", "onnxscript", "onnxruntime")  # fmt: skip


def _litert(precision: Literal["fp32", "int8"]) -> Format:
    # Whole numbers as float32: LiteRT.js takes neither 8-bit input.
    return Format("litert", precision, ("model.tflite",), "float32", "NHWC", 1, "args_0",
                  "output_{place}", "dermdistill[litert]", "litert_torch",
                  "ai_edge_litert")  # fmt: skip


def _executorch(precision: Literal["fp32", "int8"]) -> Format:
    # Whole numbers as float32: 8-bit pixels are converted by slow portable kernels.
    return Format("executorch", precision, ("model.pte",), "float32", "NHWC", 1, "0", "{place}",
                  "dermdistill[executorch]", "executorch", "executorch")  # fmt: skip


FORMATS = {
    "onnx": _onnx("fp32"),
    "onnx-int8": _onnx("int8"),
    "openvino": Format(
        "openvino", "fp32", ("model.xml", "model.bin"), "uint8", "NHWC", 0, "pixels", "{meaning}",
        "dermdistill[openvino]", "openvino", "openvino",
    ),
    "litert": _litert("fp32"),
    "litert-int8": _litert("int8"),
    "executorch": _executorch("fp32"),
    "executorch-int8": _executorch("int8"),
    "ncnn": Format(
        "ncnn", "fp32", ("model.param", "model.bin"), "float32", "NCHW", 1, "in0", "out{place}",
        "dermdistill[ncnn]", "pnnx", "ncnn",
    ),
    "coreml": Format(
        "coreml", "fp16",
        ("model.mlpackage/Manifest.json",
         "model.mlpackage/Data/com.apple.CoreML/model.mlmodel",
         "model.mlpackage/Data/com.apple.CoreML/weights/weight.bin"),
        "image", "NCHW", 1, "pixels", "{meaning}", "dermdistill[coreml]", "coremltools", None,
    ),
}  # fmt: skip


def require_format(name: str) -> Format:
    """The format of a name.

    Raises:
        ConfigError: there is none; the message has the nearest names.
    """
    if name not in FORMATS:
        raise unknown_name("export format", name, FORMATS)
    return FORMATS[name]
