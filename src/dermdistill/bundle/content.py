"""What each file of a bundle must be by its content; no file is run, unpickled or unpacked."""

import re
from collections.abc import Callable

from dermdistill.bundle.formats import FORMATS
from dermdistill.bundle.manifest import CARD, GOLDEN
from dermdistill.bundle.strict import load_json

# Programs and containers of programs, by their first bytes.
PROGRAMS = {b"\x7fELF": "a program", b"MZ": "a program", b"#!": "a script", b"PK": "a zip archive",
            b"\xca\xfe\xba\xbe": "a program", b"\xcf\xfa\xed\xfe": "a program",
            b"\x1f\x8b": "a gzip archive"}  # fmt: skip
PICKLE = re.compile(rb"\x80[\x02-\x05].*\.\Z", re.DOTALL)  # protocol 2 to 5, to its STOP
GOLDEN_FILE = re.compile(r"golden/[a-z0-9_]+\.(png|jpg|rgb)")
ONNX_DOMAINS = {"", "ai.onnx"}  # an operator of another domain is code that somebody must supply


def check_content(name: str, content: bytes) -> None:
    """Refuse a file that has no place in a bundle, or is not what its place says.

    Raises:
        ValueError: says what is wrong; the end of a sentence that begins with the file's name.
    """
    if not _has_place(name):
        raise ValueError("has no place in a bundle")
    kind = next((what for start, what in PROGRAMS.items() if content.startswith(start)), None)
    if kind or PICKLE.match(content):
        raise ValueError(f"is {kind or 'a pickle, which can run code'}, not what its name says")
    suffix = name.rpartition(".")[2]
    if suffix in CHECKS:
        CHECKS[suffix](content)


def _has_place(name: str) -> bool:
    if name in (CARD, GOLDEN) or GOLDEN_FILE.fullmatch(name):
        return True
    top, _, rest = name.partition("/")
    format_name, _, file = rest.partition("/")
    return top == "models" and format_name in FORMATS and file in FORMATS[format_name].files


def _check_json(content: bytes) -> None:
    try:
        load_json(content)
    except ValueError as error:
        raise ValueError(f"is no strict JSON ({error})") from error


def _check_text(content: bytes) -> None:
    try:
        content.decode()
    except UnicodeDecodeError as error:
        raise ValueError("is no UTF-8 text") from error


def _starts(start: bytes, what: str, at: int = 0) -> Callable[[bytes], None]:
    def check(content: bytes) -> None:
        if content[at : at + len(start)] != start:
            raise ValueError(f"is no {what}")

    return check


def _check_onnx(content: bytes) -> None:
    """Only standard operators, and every weight inside the file: others name paths and code."""
    import onnx
    from google.protobuf.message import DecodeError

    try:
        model = onnx.load_model_from_string(content)
    except DecodeError as error:
        raise ValueError(f"is no ONNX model ({error})") from error
    foreign = {entry.domain for entry in model.opset_import} - ONNX_DOMAINS
    if foreign:
        raise ValueError(f"needs operators of {sorted(foreign)}, which are code from elsewhere")
    if _external(model):
        raise ValueError("keeps weights in files outside of the bundle")


def _external(message) -> bool:
    """Whether any tensor, at any depth, names a file."""
    import onnx

    if isinstance(message, onnx.TensorProto):
        return message.data_location == onnx.TensorProto.EXTERNAL or bool(message.external_data)
    for field, value in message.ListFields():
        if field.type == field.TYPE_MESSAGE:
            each = value if field.is_repeated else [value]
            if any(_external(one) for one in each):
                return True
    return False


def _check_xml(content: bytes) -> None:
    """A plain document: declarations could name files, or grow without end."""
    if not content.lstrip().startswith(b"<?xml") or b"<!" in content:
        raise ValueError("is no plain XML (it declares entities, comments or a document type)")


CHECKS: dict[str, Callable[[bytes], None]] = {
    "json": _check_json,
    "md": _check_text,
    "png": _starts(b"\x89PNG\r\n\x1a\n", "PNG image"),
    "jpg": _starts(b"\xff\xd8\xff", "JPEG image"),
    "onnx": _check_onnx,
    "xml": _check_xml,
    "tflite": _starts(b"TFL3", "LiteRT model", at=4),
    "pte": _starts(b"ET12", "ExecuTorch program", at=4),
    "param": _starts(b"7767517", "NCNN description"),
    "mlmodel": _starts(b"\x08", "Core ML model"),
}
