"""Writing and reading a store larger than memory: one file, several files, LitData, webdataset.

    python benchmarks/shards.py [--images 20000] [--memory-mb 1000]

Images of 224 px in batches of 64, one epoch each from a cold cache, in a process of its own; all in
turns, medians. As root on Linux this process may hold --memory-mb beyond its libraries: once they
are imported it joins a memory cgroup, to which the system's cache of what it reads counts too, as
if the machine had no more. Else this says so, and measures with all memory. LitData and webdataset
are measured where they are installed. The bar: each way of ours gives at least as many images a
second as the best of theirs; exit 1 otherwise.
"""

import argparse
import importlib
import importlib.util
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import NamedTuple

import numpy as np

# Without torch, so that a reader of ours is no larger than it need be.
from dermdistill.data.shards import Shards, make_file, map_files, split_rows

PX, BATCH, SHARD_IMAGES, SHUFFLE_SHARDS = 224, 64, 1000, 3
ROUNDS = 3


class Kind(NamedTuple):
    """A way to read.

    Attributes:
        form: how the images lie on the disk.
        order: the file of the order that they are read in; '' leaves it to the library.
        workers: processes that read for it.
    """

    form: str
    order: str = ""
    workers: int = 0


KINDS = {
    "one file, all shuffled": Kind("one", "all.npy"),
    "several files, all shuffled": Kind("several", "all.npy"),
    f"several files, {SHUFFLE_SHARDS} at a time": Kind("several", "window.npy"),
    "LitData": Kind("litdata"),
    "LitData, 4 workers": Kind("litdata", workers=4),
    "webdataset": Kind("webdataset"),
    "webdataset, 4 workers": Kind("webdataset", workers=4),
}
LIBRARIES = ("litdata", "webdataset")


def stamped(images: int) -> Iterator[np.ndarray]:
    """All images in batches: noise that begins with the image's row."""
    noise = np.frombuffer(np.random.default_rng(0).bytes(BATCH * PX * PX * 3), np.uint8)
    noise = noise.reshape(BATCH, PX, PX, 3).copy()
    for first in range(0, images, BATCH):
        rows = np.arange(first, min(first + BATCH, images), dtype=np.int64)
        noise.reshape(BATCH, -1)[: len(rows), :8] = rows[:, None].view(np.uint8)
        yield noise[: len(rows)]


def rows_of(batch: np.ndarray) -> np.ndarray:
    """The rows that a batch's images begin with."""
    return np.ascontiguousarray(batch.reshape(len(batch), -1)[:, :8]).view(np.int64)[:, 0]


def write_files(folder: Path, images: int, shard_images: int) -> None:
    """In this package's files."""
    files = split_rows(images, shard_images)
    for file, count in files:
        make_file(folder / file, count, PX)
    held = [np.load(folder / file, mmap_mode="r+") for file, _ in files]
    for batch in stamped(images):
        rows = rows_of(batch)
        shard = rows // (shard_images or images)
        for k in np.unique(shard):
            held[k][rows[shard == k] - k * shard_images] = batch[shard == k]


def write_litdata(folder: Path, images: int) -> None:
    """In LitData's chunks."""
    from litdata.streaming import Cache

    cache = Cache(str(folder), chunk_size=SHARD_IMAGES)
    for batch in stamped(images):
        for row, image in zip(rows_of(batch), batch, strict=True):
            cache[int(row)] = image
    cache.done()
    cache.merge()


def write_webdataset(folder: Path, images: int) -> None:
    """In tar files."""
    from webdataset import ShardWriter

    with ShardWriter(str(folder / "%08d.tar"), maxcount=SHARD_IMAGES, verbose=0) as writer:
        for batch in stamped(images):
            for row, image in zip(rows_of(batch), batch, strict=True):
                writer.write({"__key__": f"{row:08d}", "raw": image.tobytes()})


FORMS = {
    "one": lambda folder, images: write_files(folder, images, 0),
    "several": lambda folder, images: write_files(folder, images, SHARD_IMAGES),
    "litdata": write_litdata,
    "webdataset": write_webdataset,
}


def write(folder: Path, images: int) -> None:
    """The same images in every form, and the orders that they are read in."""
    from dermdistill.data.dataset import Part
    from dermdistill.train.order import epoch_order

    for form, fill in FORMS.items():
        if form in LIBRARIES and not importlib.util.find_spec(form):
            print(f"{form} is not installed")
            continue
        (folder / form).mkdir()
        os.sync()
        started = time.perf_counter()
        fill(folder / form, images)
        os.sync()
        rate = images / (time.perf_counter() - started)
        print(f"{form}: {rate:.0f} images/s written", flush=True)
    rows = np.arange(images)
    store = SimpleNamespace(shard_of=rows // SHARD_IMAGES)
    part = Part(store, list(map(str, rows)), rows, rows * 0)
    for order, shards in {"all.npy": 0, "window.npy": SHUFFLE_SHARDS}.items():
        np.save(folder / order, epoch_order(part, 0.0, 1, 0, shards))


def batches(kind: Kind, folder: Path, images: int) -> Iterator[np.ndarray]:
    """One epoch, uint8 [BATCH, PX, PX, 3] each."""
    if kind.form == "litdata":
        yield from read_litdata(folder / kind.form, kind.workers)
    elif kind.form == "webdataset":
        yield from read_webdataset(folder / kind.form, kind.workers)
    else:
        shard_images = SHARD_IMAGES if kind.form == "several" else 0
        source = Shards(map_files(folder / kind.form, split_rows(images, shard_images)))
        order = np.load(folder / kind.order)
        for first in range(0, images, BATCH):
            yield source[order[first : first + BATCH]]


def read_litdata(folder: Path, workers: int) -> Iterator[np.ndarray]:
    """As its guide says: chunks in random order, each shuffled."""
    from litdata import StreamingDataLoader, StreamingDataset

    data = StreamingDataset(str(folder), shuffle=True, drop_last=False)
    yield from StreamingDataLoader(
        data, batch_size=BATCH, num_workers=workers, collate_fn=stacked(workers)
    )


def read_webdataset(folder: Path, workers: int) -> Iterator[np.ndarray]:
    """As its guide says: files in random order, shuffled within a buffer."""
    import webdataset

    tars = [str(path) for path in sorted(folder.iterdir())]
    made = webdataset.WebDataset(tars, shardshuffle=len(tars), empty_check=False)
    made = made.shuffle(SHARD_IMAGES).map(
        lambda item: np.frombuffer(item["raw"], np.uint8).reshape(PX, PX, 3))  # fmt: skip
    made = made.batched(BATCH, collation_fn=stacked(workers))
    yield from webdataset.WebLoader(made, batch_size=None, num_workers=workers) if workers else made


def stacked(workers: int) -> Callable[[list[np.ndarray]], np.ndarray]:
    """Makes a batch of images: an array; from workers a tensor, which comes by shared memory."""
    if not workers:
        return np.stack
    import torch

    return lambda images: torch.from_numpy(np.stack(images))


def measure(name: str, folder: Path, images: int, group: str) -> None:
    """Print an epoch's images a second and how many files a batch is from, as JSON."""
    kind = KINDS[name]
    if kind.form in LIBRARIES:
        importlib.import_module(kind.form)
        stacked(kind.workers)
    if group:
        Path(group).write_text(str(os.getpid()))
    started, seen, mixed = time.perf_counter(), np.zeros(images, int), []
    for batch in batches(kind, folder, images):
        rows = rows_of(np.asarray(batch))
        seen[rows] += 1
        mixed.append(len(np.unique(rows // SHARD_IMAGES)))
    seconds = time.perf_counter() - started
    if (seen != 1).any():
        sys.exit(f"{name}: {(seen != 1).sum()} of {images} images did not come once")
    print(json.dumps([images / seconds, float(np.mean(mixed))]))


def memory_group(limit_mb: int) -> str:
    """What a process writes its number into to be held to so much memory; '' where there is none.

    What it took before stays with the group that it was in.
    """
    group = Path("/sys/fs/cgroup/memory/dermdistill-shards")
    limit = "memory.limit_in_bytes"
    if not group.parent.is_dir():
        group, limit = Path("/sys/fs/cgroup/dermdistill-shards"), "memory.max"
    try:
        group.mkdir(exist_ok=True)
        (group / limit).write_text(str(limit_mb * 2**20))
        return str(group / "cgroup.procs")
    except OSError as error:
        print(f"no limit on memory ({error}): everything may stay in memory")
        return ""


def forget(folder: Path) -> None:
    """Take every file out of the system's cache."""
    os.sync()
    for path in folder.rglob("*.*"):
        with open(path, "rb") as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def read(name: str, folder: Path, images: int, group: str) -> tuple[float, float]:
    """Images a second of one epoch in a new process, and how many files a batch is from."""
    forget(folder)
    command = [sys.executable, __file__, "--read", name, str(folder), group]
    done = subprocess.run(
        [*command, "--images", str(images)], stdout=subprocess.PIPE, text=True, check=False
    )
    if done.returncode:
        print(f"{name}: ended with {done.returncode}")
        return 0.0, 0.0
    rate, mixed = json.loads(done.stdout.splitlines()[-1])
    return rate, mixed


def main() -> int:
    """Write, read, compare; 1 if a way of ours is slower than one of theirs."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=20_000)
    parser.add_argument("--memory-mb", type=int, default=1000)
    parser.add_argument("--read", nargs=3, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.read:
        name, folder, group = given.read
        measure(name, Path(folder), given.images, group)
        return 0
    folder = Path(tempfile.mkdtemp(prefix="shards-", dir="/var/tmp"))
    rates: dict[str, list[float]] = {}
    try:
        group = memory_group(given.memory_mb)
        size = given.images * PX * PX * 3 / 1e9
        print(f"{given.images} images, {size:.1f} GB; {given.memory_mb} MB of memory", flush=True)
        write(folder, given.images)
        for _ in range(ROUNDS):
            for name, kind in KINDS.items():
                if (folder / kind.form).exists():
                    rate, mixed = read(name, folder, given.images, group)
                    rates.setdefault(name, []).append(rate)
                    print(f"{name}: {rate:.0f} images/s, a batch from {mixed:.1f} files",
                          flush=True)  # fmt: skip
    finally:
        shutil.rmtree(folder)
    median = {name: statistics.median(each) for name, each in rates.items()}
    print("; ".join(f"{name}: {rate:.0f}" for name, rate in median.items()))
    theirs = [rate for name, rate in median.items() if KINDS[name].form in LIBRARIES]
    ours = [rate for name, rate in median.items() if KINDS[name].form not in LIBRARIES]
    return int(min(ours) < max(theirs, default=0))


if __name__ == "__main__":
    sys.exit(main())
