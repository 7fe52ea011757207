"""JSON from strangers as the classes it should be: nothing missing, extra, double or converted."""

import dataclasses
import json
import types
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints


def load_json(content: bytes) -> Any:
    """Strict JSON: UTF-8, no NaN, no key twice.

    Raises:
        ValueError: it is none.
    """

    def no_constant(text: str) -> None:
        raise ValueError(f"{text} is no JSON number")

    def no_twins(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        if len({key for key, _ in pairs}) < len(pairs):
            raise ValueError(f"a key stands twice among {[key for key, _ in pairs][:8]}")
        return dict(pairs)

    try:
        return json.loads(
            content.decode(), parse_constant=no_constant, object_pairs_hook=no_twins
        )  # fmt: skip
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error


def decode(value: Any, wanted: Any, where: str) -> Any:
    """A JSON value as the annotated type; nothing missing, nothing extra, nothing converted.

    Raises:
        ValueError: names the place, what stands there and what is allowed.
    """
    origin, inner = get_origin(wanted), get_args(wanted)
    if wanted is Any:
        return value
    if dataclasses.is_dataclass(wanted):
        return _decode_class(value, wanted, where)
    if origin in (Union, types.UnionType):
        if value is None:
            return None
        return decode(value, next(kind for kind in inner if kind is not type(None)), where)
    if origin is Literal:
        if not any(value == one and type(value) is type(one) for one in inner):
            raise ValueError(f"{where} is {value!r}; allowed: {', '.join(map(repr, inner))}")
        return value
    if origin is list and isinstance(value, list):
        return [decode(each, inner[0], f"{where}[{i}]") for i, each in enumerate(value)]
    if origin is dict and isinstance(value, dict):
        return {key: decode(each, inner[1], f"{where}.{key}") for key, each in value.items()}
    if wanted is float and type(value) in (int, float) and abs(value) < float("inf"):
        return float(value)
    if type(value) is not wanted:
        name = getattr(origin or wanted, "__name__", str(wanted))
        raise ValueError(f"{where} is {value!r:.80}; it must be of type {name}")
    return value


def _decode_class(value: Any, wanted: type, where: str) -> Any:
    if not isinstance(value, dict):
        raise ValueError(f"{where} is {value!r:.80}; it must be an object")
    hints = get_type_hints(wanted)
    missing, extra = sorted(hints.keys() - value.keys()), sorted(value.keys() - hints.keys())
    if missing or extra:
        raise ValueError(f"{where} lacks {missing} and has the unknown {extra[:8]}")
    return wanted(
        **{key: decode(value[key], hint, f"{where}.{key}") for key, hint in hints.items()}
    )
