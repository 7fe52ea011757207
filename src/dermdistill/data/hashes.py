"""Perceptual hashes of images, and all pairs that nearly agree, without comparing all pairs."""

from collections.abc import Iterator, Sequence

import numpy as np

from dermdistill.data.decode import BrokenImageError, decode
from dermdistill.data.workers import cores, process_pool

HASH_SIDE = 16  # 16 x 16 bits: with the usual 8 x 8, dark spots on skin collide by the hundred
HASH_BITS = HASH_SIDE * HASH_SIDE
DECODED_PX = 128  # twice the 64 px that the hash looks at
# Copies that were resized, recompressed or brightened differ in a few bits, unrelated images of
# HAM10000 in 40 and more (closest of two million pairs: 44), other views of one lesion in between.
NEAR_BITS = 16
CHUNK = 64  # images a process takes at once: long against the hand-over, short against the whole
PAIRS_AT_ONCE = 1 << 20  # candidate pairs compared in one block: some 100 MB
ONES = np.array([bin(byte).count("1") for byte in range(256)], dtype=np.uint8)


def perceptual_hash(path: str) -> bytes | str:
    """Hash of an image (32 bytes), or why it cannot be read (text).

    Source: the DCT hash of the package imagehash, on the image squashed to a square.
    """
    import imagehash  # only those who hash wait for it
    from PIL import Image

    try:
        pixels = decode(path, DECODED_PX, "squash")
    except BrokenImageError as error:
        return error.reason
    bits = imagehash.phash(Image.fromarray(pixels), hash_size=HASH_SIDE).hash
    return np.packbits(bits).tobytes()


def perceptual_hashes(
    paths: Sequence[str], workers: int | None = None, progress: bool = True
) -> list[bytes | str]:
    """`perceptual_hash` of every file, in order, in several processes.

    Args:
        paths: image files.
        workers: processes; None: one a core, and none beside this one for few images.
        progress: show a bar with the time left where standard error is a terminal.

    Raises:
        DataError: a process was killed.
    """
    from rich.console import Console  # workers import this module and need no bar
    from rich.progress import Progress

    console = Console(stderr=True)
    shown = progress and console.is_terminal
    workers = min(workers or cores(), -(-len(paths) // CHUNK))
    with Progress(console=console, transient=True, disable=not shown) as bar:
        results = _results(paths, workers)
        return list(bar.track(results, total=len(paths), description="hashing images"))


def _results(paths: Sequence[str], workers: int) -> Iterator[bytes | str]:
    if workers <= 1:
        yield from map(perceptual_hash, paths)
        return
    with process_pool(workers) as pool:
        yield from pool.map(perceptual_hash, paths, chunksize=CHUNK)


def distance_bits(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Bits in which rows of two uint8 arrays differ, int64 [rows]."""
    return ONES[left ^ right].sum(axis=1, dtype=np.int64)


def near_pairs(hashes: np.ndarray, near_bits: int = NEAR_BITS) -> np.ndarray:
    """All pairs of hashes that differ in at most `near_bits` bits, int64 [pairs, 3].

    The bits are dealt into `near_bits + 1` bands; two hashes that differ in so few bits agree in
    one band at least, so only those that agree in a band are compared: none is overlooked.

    Args:
        hashes: uint8 [images, bytes].
        near_bits: greatest distance that counts as near.

    Returns:
        Rows (first, second, distance), first < second, sorted. Of several equal hashes every
        later one is paired with the first only, as a million copies have too many pairs.
    """
    unique, first, inverse = np.unique(hashes, axis=0, return_index=True, return_inverse=True)
    inverse = inverse.reshape(-1)
    copies = np.flatnonzero(first[inverse] != np.arange(len(hashes)))
    found = [np.column_stack([first[inverse[copies]], copies, np.zeros_like(copies)])]
    bits = np.unpackbits(unique, axis=1)
    for band in range(near_bits + 1):
        key = np.packbits(bits[:, band :: near_bits + 1], axis=1)
        for left, right in _agreeing(key):
            distance = distance_bits(unique[left], unique[right])
            near = distance <= near_bits
            ends = np.sort(np.column_stack([first[left[near]], first[right[near]]]), axis=1)
            found.append(np.column_stack([ends, distance[near]]))
    return np.unique(np.concatenate(found).astype(np.int64), axis=0)


def _agreeing(key: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Blocks of pairs of rows with equal keys, as two arrays of row numbers."""
    inverse = np.unique(key, axis=0, return_inverse=True)[1].reshape(-1)
    order = np.argsort(inverse, kind="stable")
    ranks = inverse[order]
    # Row i of the sorted keys pairs with as many later rows as its run still has.
    ends = np.searchsorted(ranks, ranks, side="right")
    later = ends - np.arange(len(order)) - 1
    cuts = np.cumsum(later)
    start = 0
    while start < len(order):
        seen = cuts[start - 1] if start else 0
        stop = max(start + 1, int(np.searchsorted(cuts, seen + PAIRS_AT_ONCE, side="right")))
        count = later[start:stop]
        left = np.repeat(np.arange(start, stop), count)
        within = np.arange(count.sum()) - np.repeat(np.cumsum(count) - count, count)
        if len(left):
            yield order[left], order[left + 1 + within]
        start = stop
