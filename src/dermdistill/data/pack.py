"""Decode a table's images once, in several processes, into the packed store."""

import csv
import errno
import hashlib
import json
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import as_completed
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
import PIL

from dermdistill.data.decode import BrokenImageError, check_size, decode
from dermdistill.data.shards import Shards, keep_rows, make_file, map_files, split_rows
from dermdistill.data.store import FORMAT, INDEX, INDEX_COLUMNS, SETTINGS, Store
from dermdistill.data.store import digest as store_digest
from dermdistill.data.workers import cores, process_pool
from dermdistill.errors import ConfigError, DataError, DermdistillError, RunError
from dermdistill.run import atomic_write, digest_of, lock, read_json, write_json

__all__ = ["Store", "decode", "pack"]

JOURNAL = "journal.jsonl"  # which chunks of a pack are done; gone when all are
CHUNK = 64  # images a worker packs before the journal notes them: what a kill can cost
SPARE_BYTES = 64 * 2**20  # left free beside the store: journal, index and the system's own needs


def pack(table, folder: str | os.PathLike, px: int = 224, crop: str = "centre",
         workers: int | None = None, progress: bool = True,
         shard_images: int = 0) -> Store:  # fmt: skip
    """Decode a table's images once into a memory-mapped store.

    The folder appears when it is whole. Until then the work lies beside it, in
    `.<folder>.packing`, and the same command continues it after a kill or a full disk. A
    finished store of the same images, size and crop is opened at once.

    Args:
        table: anything whose `frame` has the columns id and path (`data.table.Table`).
        folder: where the store goes: new, empty, or an earlier store of the same.
        px: side of the packed images in pixels, 1 to 4096.
        crop: "centre", "squash" or "pad" (see `decode`).
        workers: processes; None takes one a core. The store does not depend on it.
        progress: show time left on a terminal, and print the outcome in one line.
        shard_images: images a file; 0 puts all into one. The store's digest does not depend on it.

    Returns:
        The store. Images that cannot be decoded have no row; they are in `broken`.

    Raises:
        DataError: the folder holds something else, the disk is full, or no image is readable.
        ConfigError: `px`, `crop` or `shard_images` is not allowed.
    """
    check_size(px, crop)
    if shard_images < 0:
        raise ConfigError(f"shard_images is {shard_images}; give the number of images a file, or 0 "
                          "for one file")  # fmt: skip
    folder = Path(folder).absolute()
    items = list(zip(map(str, table.frame["id"]), map(str, table.frame["path"]), strict=True))
    if not items:
        raise DataError("the table has no images, so there is nothing to pack; check its folder")
    key = {"format": FORMAT, "px": px, "crop": crop, "count": len(items),
           "shard_images": shard_images,
           "source_digest": digest_of([[name, _size(path)] for name, path in items])}  # fmt: skip
    if _taken(folder):
        return _reused(folder, key)
    with _disk_errors_told(folder):
        folder.parent.mkdir(parents=True, exist_ok=True)
    with lock(folder.parent, f".{folder.name}.lock", wait=True):
        if _taken(folder):  # by another process, while this one waited
            return _reused(folder, key)
        return _packed(folder, key, items, workers or cores(), progress)


def _taken(folder: Path) -> bool:
    return folder.exists() and (not folder.is_dir() or any(folder.iterdir()))


def _packed(folder: Path, key: dict, items: list, workers: int, progress: bool) -> Store:
    """Pack from the start, or from where an earlier process was cut short."""
    work = folder.with_name(f".{folder.name}.packing")
    with _disk_errors_told(folder):
        if not _described(work, key):
            done = _begin(work, key)
            with _reporter(len(items), progress) as advance:
                _decode_all(work, key, items, done, workers, advance)
            _describe(work, key, items, done)
        _close_gaps(work, key, items)
        (work / JOURNAL).unlink(missing_ok=True)
        if folder.exists():
            folder.rmdir()
        os.rename(work, folder)
    store = Store.open(folder)
    if progress:
        listed = f", listed in {SETTINGS}" if store.broken else ""
        print(f"packed {len(store)} images of {key['px']} px into {folder}; {len(store.broken)} "
              f"broken{listed}", file=sys.stderr)  # fmt: skip
    return store


def _size(path: str) -> int:
    """Bytes of a source file, -1 where it is missing: tells other images of the same ids."""
    try:
        return os.stat(path).st_size
    except OSError:
        return -1


def _reused(folder: Path, key: dict) -> Store:
    """The store that is already there, if it is the one that is wanted."""
    store = Store.open(folder)
    found = {"px": store.px, "crop": store.crop, "count": len(store) + len(store.broken),
             "source_digest": store.source_digest}  # fmt: skip
    words = {"count": "images", "source_digest": "ids and file sizes (digest)"}
    differ = [f"{words.get(name, name)}: {value} there, {key[name]} wanted"
              for name, value in found.items() if value != key[name]]  # fmt: skip
    if differ:
        raise DataError(f"{folder} holds another packed store ({'; '.join(differ)}); choose "
                        "another folder, or delete this one to pack it anew")  # fmt: skip
    return store


def _begin(work: Path, key: dict) -> dict[int, list]:
    """Make or continue the working folder; returns the chunks that are done, by first row."""
    if (work / JOURNAL).exists():
        done = _continued(work, key)
        if done is not None:
            return done
    shutil.rmtree(work, ignore_errors=True)
    row_bytes = key["px"] ** 2 * 3
    needed = key["count"] * row_bytes + SPARE_BYTES
    work.parent.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(work.parent).free
    if free < needed:
        raise DataError(f"{key['count']} images of {key['px']} px need {needed / 2**20:.0f} MB, "
                        f"{work.parent} has {free / 2**20:.0f} MB free; free the disk, choose "
                        "another folder or a smaller px")  # fmt: skip
    work.mkdir()
    for name, count in _files(key):
        make_file(work / name, count, key["px"])
    (work / JOURNAL).write_text(json.dumps(key) + "\n", encoding="utf-8")
    return {}


def _continued(work: Path, key: dict) -> dict[int, list] | None:
    """Chunks of an interrupted pack whose pixels are still what the journal says.

    None where the work belongs to other settings or cannot be read. A line that a kill cut off is
    passed over; pixels that a power cut lost are decoded again.
    """
    lines = (work / JOURNAL).read_text(encoding="utf-8", errors="replace").splitlines()
    try:
        if json.loads(lines[0]) != key:
            return None
        images = Shards(map_files(work, _files(key)))
    except (OSError, ValueError, IndexError):
        return None
    done: dict[int, list] = {}
    for line in lines[1:]:
        with suppress(ValueError):
            first, results = json.loads(line)
            if all(reason or hashlib.sha256(images[row]).hexdigest() == pixels_sha256
                   for row, (reason, _, pixels_sha256) in enumerate(results, first)):  # fmt: skip
                done[first] = results
    return done


def _decode_all(work: Path, key: dict, items: list, done: dict[int, list], workers: int,
                advance: Callable[[int], None]) -> None:  # fmt: skip
    """Decode the chunks that are not done yet and note each in the journal."""
    advance(sum(map(len, done.values())))
    tasks = [(work / name, key["px"], key["crop"], start, first - start, [
                path for _, path in items[first:min(first + CHUNK, start + count)]])
             for start, (name, count) in _started(key)
             for first in range(start, start + count, CHUNK) if first not in done]  # fmt: skip
    with open(work / JOURNAL, "a", encoding="utf-8") as journal:
        journal.write("\n")  # a line that a kill cut off ends here
        for first, results in _results(tasks, min(workers, len(tasks))):
            done[first] = results
            journal.write(json.dumps([first, results]) + "\n")
            journal.flush()
            advance(len(results))


def _results(tasks: list, workers: int) -> Iterator[tuple[int, list]]:
    """Results of the chunks as they end: in this process for one worker, else in a pool."""
    if workers <= 1:
        yield from map(_pack_chunk, tasks)
        return
    with process_pool(workers) as pool:
        for future in as_completed([pool.submit(_pack_chunk, task) for task in tasks]):
            yield future.result()


def _pack_chunk(task: tuple) -> tuple[int, list]:
    """Decode some images into their rows of a file that begins with image `start` of the store.

    Returns the first image's place in the store and, for each image, [reason or None, source and
    pixel SHA-256].
    """
    path, px, crop, start, first, sources = task
    offset = np.load(path, mmap_mode="r").offset
    results = []
    with open(path, "r+b") as file:
        for row, source in enumerate(sources, first):
            try:
                data = Path(source).read_bytes()
                image = decode(data, px, crop)
            except (OSError, BrokenImageError) as error:
                results.append([_reason(error), None, None])
                continue
            # Not through a map: on a full disk a write is an error to tell, a map is a crash.
            file.seek(offset + row * image.nbytes)
            file.write(image)
            results.append([None, hashlib.sha256(data).hexdigest(),
                            hashlib.sha256(image).hexdigest()])  # fmt: skip
    return start + first, results


def _reason(error: OSError | BrokenImageError) -> str:
    if isinstance(error, BrokenImageError):
        return error.reason
    if isinstance(error, FileNotFoundError):
        return "does not exist"
    return f"cannot be read ({error.strerror})"


def _files(key: dict) -> list[tuple[str, int]]:
    """Name and rows of each file before the gaps of broken images are closed."""
    return split_rows(key["count"], key["shard_images"])


def _started(key: dict) -> Iterator[tuple[int, tuple[str, int]]]:
    """The same, each with the place of its first image in the store."""
    start = 0
    for name, count in _files(key):
        yield start, (name, count)
        start += count


def _described(work: Path, key: dict) -> bool:
    """Whether all is decoded and described, so that at most gaps are left to close."""
    try:
        settings = read_json(work / SETTINGS)
    except DermdistillError:
        return False
    wanted = ("format", "px", "crop", "shard_images", "source_digest")
    return all(settings.get(name) == key[name] for name in wanted)


def _describe(work: Path, key: dict, items: list, done: dict[int, list]) -> None:
    """Write the index and, last, the settings."""
    results = [result for first in sorted(done) for result in done[first]]
    names = [name for name, _ in items]
    good = [row for row, (reason, *_) in enumerate(results) if reason is None]
    broken = [{"id": names[row], "reason": reason}
              for row, (reason, *_) in enumerate(results) if reason is not None]  # fmt: skip
    if not good:
        raise DataError(f"none of the {len(items)} images can be decoded (the first, "
                        f"{names[0]}, {results[0][0]}); check the table's folder")  # fmt: skip
    ids, sources, pixels = [names[row] for row in good], *zip(
        *(results[row][1:] for row in good), strict=True)  # fmt: skip
    with atomic_write(work / INDEX) as temporary, open(
            temporary, "w", encoding="utf-8", newline="") as file:  # fmt: skip
        writer = csv.writer(file)
        writer.writerow(INDEX_COLUMNS)
        writer.writerows(zip(ids, sources, pixels, strict=True))
    kept = [[name, int(np.diff(np.searchsorted(good, (start, start + count)))[0])]
            for start, (name, count) in _started(key)]  # fmt: skip
    write_json(work / SETTINGS, {
        **key, "count": len(ids), "bytes": len(ids) * key["px"] ** 2 * 3,
        "digest": store_digest(key["px"], key["crop"], ids, list(pixels)),
        "files": [[name, count] for name, count in kept if count],
        "pillow": PIL.__version__, "broken": broken,
    })  # fmt: skip


def _close_gaps(work: Path, key: dict, items: list) -> None:
    """Take the rows of broken images out of the files; can be killed and done again."""
    broken = {entry["id"] for entry in read_json(work / SETTINGS)["broken"]}
    for start, (name, count) in _started(key):
        whole = [row for row in range(count) if items[start + row][0] not in broken]
        keep_rows(work / name, whole)


@contextmanager
def _disk_errors_told(folder: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, RunError) as error:
        why = "the disk is full" if getattr(error, "errno", 0) == errno.ENOSPC else error
        raise DataError(f"cannot pack into {folder}: {why}. Free the disk or choose another folder,"
                        " and run the same command again: it continues") from error  # fmt: skip


@contextmanager
def _reporter(total: int, progress: bool) -> Iterator[Callable[[int], None]]:
    """A bar with the time left on a terminal, silence elsewhere."""
    from rich.console import Console  # workers never need it
    from rich.progress import Progress

    console = Console(stderr=True)
    if not (progress and console.is_terminal):
        yield lambda _: None
        return
    with Progress(console=console, transient=True) as bar:
        task = bar.add_task("packing", total=total)
        yield lambda images: bar.advance(task, images)
