"""Reading a store larger than memory: one file, several files, LitData, webdataset.

    python benchmarks/shards.py [--images 20000] [--memory-mb 1000]

Images of 224 px, random bytes, in batches of 64, one epoch each from a cold cache, in a process of
its own; twice, the better counts. As root on Linux the process may use --memory-mb only (a memory
cgroup), as if the machine had no more; else this says so, and measures with all memory. LitData and
webdataset are measured where they are installed. The bar: several files, shuffled some at a time,
give at least as many images a second as the best of the others that shuffles.
"""

import argparse
import importlib.util
import io
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import numpy as np

from dermdistill.data.dataset import Part
from dermdistill.data.shards import Shards, make_file, map_files, split_rows
from dermdistill.train.order import epoch_order

PX, BATCH, SHARD_IMAGES, SHUFFLE_SHARDS = 224, 64, 1000, 3
ROUNDS = 2
KINDS = {
    "one file, all shuffled": "one",
    "several files, all shuffled": "all",
    f"several files, {SHUFFLE_SHARDS} at a time": "window",
    "LitData, shuffled": "litdata",
    "webdataset, shuffled within a buffer": "webdataset",
}


def write(folder: Path, images: int) -> None:
    """The same random images in every form."""
    rng = np.random.default_rng(0)
    for name, shard_images in (("one", 0), ("several", SHARD_IMAGES)):
        (folder / name).mkdir()
        for file, count in split_rows(images, shard_images):
            make_file(folder / name / file, count, PX)
            held = np.load(folder / name / file, mmap_mode="r+")
            for first in range(0, count, BATCH):
                chosen = held[first : first + BATCH]
                chosen[:] = np.frombuffer(rng.bytes(chosen.size), np.uint8).reshape(chosen.shape)
            held.flush()
    source = Shards(map_files(folder / "several", split_rows(images, SHARD_IMAGES)))
    if importlib.util.find_spec("litdata"):
        from litdata.streaming import Cache

        cache = Cache(str(folder / "litdata"), chunk_size=SHARD_IMAGES)
        for row, image in enumerate(source):
            cache[row] = np.asarray(image)
        cache.done()
        cache.merge()
    if importlib.util.find_spec("webdataset"):
        (folder / "webdataset").mkdir()
        for shard in range(0, images, SHARD_IMAGES):
            with tarfile.open(folder / "webdataset" / f"{shard:08d}.tar", "w") as tar:
                for row in range(shard, min(shard + SHARD_IMAGES, images)):
                    data, info = source[row].tobytes(), tarfile.TarInfo(f"{row:08d}.raw")
                    info.size = len(data)
                    tar.addfile(info, io.BytesIO(data))


def batches(kind: str, folder: Path, images: int) -> Iterator[np.ndarray]:
    """One epoch of a kind, uint8 [BATCH, PX, PX, 3] each."""
    if kind == "litdata":
        from litdata import StreamingDataLoader, StreamingDataset

        data = StreamingDataset(str(folder / "litdata"), shuffle=True, drop_last=False)
        yield from StreamingDataLoader(data, batch_size=BATCH, collate_fn=np.stack)
    elif kind == "webdataset":
        import webdataset

        tars = [str(path) for path in sorted((folder / "webdataset").iterdir())]
        made = webdataset.WebDataset(tars, shardshuffle=len(tars), empty_check=False)
        made = made.shuffle(SHARD_IMAGES).map(
            lambda item: np.frombuffer(item["raw"], np.uint8).reshape(PX, PX, 3))  # fmt: skip
        yield from made.batched(BATCH, collation_fn=np.stack)
    else:
        name, shards = ("one", 0) if kind == "one" else ("several", SHARD_IMAGES)
        files = map_files(folder / name, split_rows(images, shards))
        shard_of = np.repeat(np.arange(len(files)), [len(file) for file in files])
        rows = np.arange(images)
        part = Part(SimpleNamespace(shard_of=shard_of), list(map(str, rows)), rows, rows * 0)
        order = epoch_order(part, 0.0, 1, 0, SHUFFLE_SHARDS if kind == "window" else 0)
        source = Shards(files)
        for first in range(0, images, BATCH):
            yield source[order[first : first + BATCH]]


def measure(kind: str, folder: Path, images: int) -> None:
    """Print images a second of an epoch; every pixel is touched."""
    started, seen, total = time.perf_counter(), 0, 0
    for batch in batches(kind, folder, images):
        seen += len(batch)
        total += int(np.asarray(batch)[:, ::16, ::16].sum())
    if seen < images:
        sys.exit(f"{kind}: {seen} of {images} images came")
    print(images / (time.perf_counter() - started))


def memory_group(limit_mb: int) -> Path | None:
    """A cgroup of so much memory, whose member a process becomes by writing its number."""
    group = Path("/sys/fs/cgroup/memory/dermdistill-shards")
    limit = "memory.limit_in_bytes"
    if not group.parent.is_dir():
        group, limit = Path("/sys/fs/cgroup/dermdistill-shards"), "memory.max"
    try:
        group.mkdir(exist_ok=True)
        (group / limit).write_text(str(limit_mb * 2**20))
        return group / "cgroup.procs"
    except OSError as error:
        print(f"no limit on memory ({error}): everything may stay in memory")
        return None


def forget(folder: Path) -> None:
    """Take every file out of the system's cache."""
    os.sync()
    for path in folder.rglob("*.*"):
        with open(path, "rb") as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def rate(kind: str, folder: Path, images: int, group: Path | None) -> float:
    """Images a second of one epoch in a new process under the memory limit."""
    forget(folder)
    command = [sys.executable, __file__, "--read", kind, str(folder), "--images", str(images)]
    join = (lambda: group.write_text(str(os.getpid()))) if group else None
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, preexec_fn=join)
    return float(done.stdout)


def main() -> int:
    """Write, read, compare; 1 if several files are slower than a library that shuffles."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=20_000)
    parser.add_argument("--memory-mb", type=int, default=1000)
    parser.add_argument("--read", nargs=2, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.read:
        measure(given.read[0], Path(given.read[1]), given.images)
        return 0
    folder = Path(tempfile.mkdtemp(prefix="shards-", dir="/var/tmp"))
    try:
        write(folder, given.images)
        group = memory_group(given.memory_mb)
        size = given.images * PX * PX * 3 / 1e9
        print(f"{given.images} images, {size:.1f} GB; {given.memory_mb} MB of memory")
        rates = {}
        for name, kind in KINDS.items():
            if kind in ("litdata", "webdataset") and not (folder / kind).exists():
                print(f"{name}: not installed")
                continue
            rates[kind] = max(rate(kind, folder, given.images, group) for _ in range(ROUNDS))
            print(f"{name}: {rates[kind]:.0f} images/s", flush=True)
    finally:
        shutil.rmtree(folder)
    others = [rates[kind] for kind in ("litdata", "webdataset") if kind in rates]
    return int(rates["window"] < max(others, default=0))


if __name__ == "__main__":
    sys.exit(main())
