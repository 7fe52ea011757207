"""Five hundred bodies that no honest caller sends, from one seed."""

import io
import json
import random
import struct
import zlib
from collections.abc import Iterator

from PIL import Image


def images(good: bytes, count: int = 400, seed: int = 7) -> Iterator[tuple[str, bytes]]:
    """(what it is, body): broken, swollen, disguised and random image files."""
    luck = random.Random(seed)
    yield from FIXED
    yield "polyglot", good + b"<script>alert(1)</script>PK\x03\x04" + good[:50]
    yield "twice", good + good
    for place in range(count - len(FIXED) - 2):
        kind = place % 4
        if kind == 0:
            yield "truncated", good[: luck.randrange(len(good))]
        elif kind == 1:
            yield "flipped", _flip(good, luck)
        elif kind == 2:
            other = _saved(luck.choice(["PNG", "GIF", "BMP", "TIFF", "WEBP", "JPEG2000", "PPM"]))
            yield "flipped other", _flip(other, luck)
        else:
            start = luck.choice(
                [b"", b"\xff\xd8\xff\xe0", b"\x89PNG\r\n\x1a\n", b"GIF89a", b"RIFF"]
            )
            yield "noise", start + luck.randbytes(luck.randrange(3000))


def texts(count: int = 100, seed: int = 8) -> Iterator[tuple[str, bytes]]:
    """Bodies for the door of many images."""
    luck = random.Random(seed)
    yield from (("json", text.encode()) for text in TEXTS)
    yield "deep", b'{"images":' + b"[" * 100_000
    yield "latin", '{"images": [{"id": "ä", "data": ""}]}'.encode("latin-1")
    whole = json.dumps({"images": [{"id": "a", "data": "AAAA"}]}).encode()
    for _ in range(count - len(TEXTS) - 2):
        yield "flipped", _flip(whole, luck)


def _flip(content: bytes, luck: random.Random) -> bytes:
    changed = bytearray(content)
    for _ in range(luck.randrange(1, 20)):
        changed[luck.randrange(len(changed))] = luck.randrange(256)
    return bytes(changed)


def _saved(kind: str) -> bytes:
    file = io.BytesIO()
    Image.effect_noise((40, 30), 60).convert("RGB").save(file, kind)
    return file.getvalue()


def _chunk(name: bytes, content: bytes) -> bytes:
    return (
        struct.pack(">I", len(content))
        + name
        + content
        + struct.pack(">I", zlib.crc32(name + content))
    )


def _png_bomb(width: int, height: int) -> bytes:
    """A PNG of a few kilobytes that says it has width * height pixels, and packs zeros for them."""
    rows = zlib.compress(b"\0" * min(width * height, 4_000_000), 9)
    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (b"\x89PNG\r\n\x1a\n" + _chunk(b"IHDR", head) + _chunk(b"IDAT", rows)
            + _chunk(b"IEND", b""))  # fmt: skip


def _text_bomb() -> bytes:
    """A PNG whose compressed text is 50 MB of letters."""
    plain = _saved("PNG")
    swollen = _chunk(b"zTXt", b"k\0\0" + zlib.compress(b"A" * 50_000_000, 9))
    return plain[:33] + swollen + plain[33:]


def scan_bomb(side: int = 2000, scans: int = 20_000) -> bytes:
    """A progressive JPEG that asks for its last pass over the pixels again and again."""
    file = io.BytesIO()
    Image.new("L", (side, side), 128).save(file, "JPEG", progressive=True)
    whole = file.getvalue()
    last = whole[whole.rindex(b"\xff\xda") : -2]
    return whole[:-2] + last * scans + whole[-2:]


FIXED = [
    ("empty", b""),
    ("png bomb", _png_bomb(60_000, 60_000)),
    ("wide bomb", _png_bomb(2**31 - 1, 1)),
    ("zero pixels", _png_bomb(0, 0)),
    ("text bomb", _text_bomb()),
    ("scan bomb", scan_bomb()),
    ("eps", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n(/etc/passwd) run\n"),
    ("svg", b'<svg xmlns="http://www.w3.org/2000/svg"><image href="file:///etc/passwd"/></svg>'),
    ("zip", b"PK\x03\x04" + b"\0" * 60),
    ("pickle", b"\x80\x04cos\nsystem\n(S'true'\ntR."),
    ("elf", b"\x7fELF" + b"\0" * 90),
    ("html", b"<!doctype html><script>1</script>"),
    ("path", b"../../../../etc/passwd"),
    ("nul", b"\0" * 100_000),
]
TEXTS = [
    "", "null", "[]", "{}", "1", '"images"', "NaN", '{"images": NaN}', '{"images": [NaN]}',
    '{"images": [{"id": NaN, "data": NaN}]}', '{"images": Infinity}', '{"images": []}',
    '{"images": {}}', '{"images": [[]]}', '{"images": [{"id": 1, "data": 2}]}',
    '{"images": [{"id": "a"}]}', '{"images": [{"id": "a", "data": "%%%"}]}',
    '{"images": [{"id": "../../etc/passwd", "data": ""}]}',
    '{"images": [{"id": "a", "data": "", "more": 1}]}', '{"images": [], "images": []}',
    '{"images": [{"id": "\\ud800", "data": "AAAA"}]}', '{"images": "ab"}',
    '{"images": [{"id": "' + "x" * 5000 + '", "data": ""}]}',
    '{"images": [' + ",".join(['{"id": "a", "data": ""}'] * 300) + "]}",
]  # fmt: skip
