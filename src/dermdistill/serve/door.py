"""What comes in: bodies of bounded size in bounded time, images of bounded pixels, strict JSON."""

import asyncio
import base64
import binascii
from io import BytesIO

import numpy as np
from jaxtyping import UInt8
from PIL import Image
from starlette.requests import Request

from dermdistill.bundle.manifest import Preprocessing, load_json
from dermdistill.bundle.reader import preprocess
from dermdistill.data.decode import FORMATS, BrokenImageError
from dermdistill.serve.limits import Limits, RefusedError

LONGEST_ID = 200
JPEG, SCAN = b"\xff\xd8", b"\xff\xda"  # how a file begins, and each of its scans


async def read_body(request: Request, most: int, seconds: float) -> bytes:
    """A whole body in memory; one that says it is too large is not waited for.

    Raises:
        RefusedError: 413 it is larger than `most` bytes; 408 it takes longer than `seconds`.
    """
    parts, size = [], 0
    said = request.headers.get("content-length", "0")
    if said.isdecimal() and int(said) > most:
        raise _too_large(most)
    try:
        async with asyncio.timeout(seconds):
            async for part in request.stream():
                size += len(part)
                if size > most:
                    raise _too_large(most)
                parts.append(part)
    except TimeoutError:
        raise RefusedError(
            408, "too_slow", f"the body took more than {seconds:g} seconds"
        ) from None
    return b"".join(parts)


def _too_large(most: int) -> RefusedError:
    return RefusedError(413, "too_large", f"the body has more than {most:,} bytes")


def read_image(spec: Preprocessing, body: bytes, limits: Limits) -> UInt8[np.ndarray, "px px 3"]:
    """An image file as the pixels that the model takes.

    Raises:
        RefusedError: 413 too many pixels; 422 it cannot be decoded, or would take forever.
    """
    if body.startswith(JPEG) and body.count(SCAN) > limits.scans:  # inside of a scan it cannot be
        raise RefusedError(422, "too_many_scans", f"the JPEG has more than {limits.scans} scans")
    try:
        with Image.open(BytesIO(body), formats=FORMATS) as image:
            pixels = image.width * image.height
    except Exception:  # the decoder below says what is wrong with it
        pixels = 0
    if pixels > limits.pixels:
        raise RefusedError(
            413, "too_many_pixels", f"the image has more than {limits.pixels:,} pixels"
        )
    try:
        return preprocess(spec, body)
    except BrokenImageError as error:
        # What stands in brackets comes from the decoder's depths and may show the machine's.
        reason = error.reason.partition(" (")[0]
        raise RefusedError(422, "no_image", f"the image cannot be decoded: it {reason}") from None


def read_batch(body: bytes, limits: Limits) -> list[tuple[str, str]]:
    """The (id, base64 text) pairs of `{"images": [{"id": ..., "data": ...}, ...]}`.

    Raises:
        RefusedError: 400 it is anything else; 413 too many images.
    """
    try:
        value = load_json(body)
        images = value["images"]
        pairs = [(one["id"], one["data"]) for one in images]
        whole = value.keys() == {"images"} and all(len(one) == 2 for one in images)
    except (ValueError, TypeError, KeyError, IndexError, AttributeError):
        pairs, whole = [], False
    if not whole or not all(isinstance(text, str) for pair in pairs for text in pair):
        raise RefusedError(400, "bad_json", 'the body must be {"images": [{"id": "...", "data": '
                                       '"base64 of an image file"}, ...]}')  # fmt: skip
    if not 1 <= len(pairs) <= limits.batch_images:
        raise RefusedError(413, "too_many_images", f"1 to {limits.batch_images} images are allowed")
    if any(len(name) > LONGEST_ID for name, _ in pairs):
        raise RefusedError(400, "bad_id", f"an id has more than {LONGEST_ID} characters")
    return pairs


def unpack(text: str, limits: Limits) -> bytes:
    """The bytes of base64 text.

    Raises:
        RefusedError: 400 it is none; 413 too many bytes.
    """
    try:
        content = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise RefusedError(400, "bad_base64", "the data is no base64") from None
    if len(content) > limits.body_bytes:
        raise RefusedError(413, "too_large", f"the image has more than {limits.body_bytes:,} bytes")
    return content
