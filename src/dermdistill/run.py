"""The run directory: files that are whole or absent, digests, and where a result came from."""

import contextlib
import csv
import hashlib
import json
import os
import platform
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, TextIO

from dermdistill.errors import RunError

try:
    import fcntl
except ImportError:  # Windows has no flock; two runs in one directory are not told apart there
    fcntl = None

RESEARCH_NOTICE = (
    "For research only. This is no medical device and gives no diagnosis: see a dermatologist."
)
# The files of a run directory.
CONFIG, PROVENANCE, METRICS = "config.yaml", "provenance.json", "metrics.json"
HISTORY, BEST, LAST = "history.jsonl", "best.safetensors", "last.safetensors"
LOCK = ".lock"
VERSIONED_PACKAGES = (
    "dermdistill", "torch", "timm", "lightning-fabric", "kornia", "numpy", "pandas",
    "scikit-learn", "pillow", "onnx", "onnxruntime",
)  # fmt: skip


@contextlib.contextmanager
def atomic_write(path: str | os.PathLike, previous: str | None = None) -> Iterator[Path]:
    """Yield a temporary path beside `path`; rename it to `path` if the block succeeds.

    A reader sees the old file or the new one, never a half; a failed block leaves no trace.

    Args:
        path: the file.
        previous: a name that the old file keeps; for a moment there may be no file but this one.

    Raises:
        RunError: the disk is full or the folder cannot be written.
    """
    path = Path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent)
    except OSError as error:
        raise RunError(f"cannot write {path}: {error.strerror}; free the disk or choose another "
                       "folder, then run the same command again") from error  # fmt: skip
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        with open(temporary, "rb") as file:
            os.fsync(file.fileno())
        temporary.chmod(0o666 & ~_umask())
        if previous and path.exists():
            os.replace(path, path.with_name(previous))
        os.replace(temporary, path)
    except OSError as error:
        raise RunError(
            f"cannot write {path}: {error.strerror or error}; what stood there before "
            "is untouched. Free the disk, then run the same command again"
        ) from error
    finally:
        temporary.unlink(missing_ok=True)


def _umask() -> int:
    current = os.umask(0)
    os.umask(current)
    return current


@contextlib.contextmanager
def lock(folder: Path, name: str = LOCK, wait: bool = False) -> Iterator[None]:
    """Hold a run directory, or what a lock's name says of a folder, for this process alone.

    The system frees the lock when its holder ends, however it ends, so none is ever left behind.

    Args:
        folder: the run directory, which exists.
        name: of the lock file.
        wait: wait for another holder to end, instead of raising.

    Raises:
        RunError: another process holds it, or the folder cannot be written.
    """
    if fcntl is None:
        yield
        return
    try:
        file = open(folder / name, "a+", encoding="utf-8")  # noqa: SIM115  closed below
    except OSError as error:
        raise RunError(f"cannot write {folder / name}: {error.strerror}; free the disk or make the "
                       "folder writable, then run the same command again") from error  # fmt: skip
    with file:
        _acquire(file, folder, wait)
        with contextlib.suppress(OSError):  # a courtesy to whoever finds it locked
            file.truncate(0)
            file.write(f"process {os.getpid()} on {platform.node()}")
            file.flush()
        yield


def _acquire(file: TextIO, folder: Path, wait: bool) -> None:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        file.seek(0)
        owner = file.read().strip() or "another process"
        if not wait:
            raise RunError(f"{owner} is at work in {folder}; wait until it has ended, or end it, "
                           "then run the same command again") from error  # fmt: skip
        print(f"{owner} is at work in {folder}; waiting for it", file=sys.stderr)
        fcntl.flock(file, fcntl.LOCK_EX)
    except OSError as error:  # some cluster file systems are mounted without locks
        warnings.warn(f"{folder} is on a file system without locks ({error.strerror}): see to it "
                      "that no two processes work in it", stacklevel=4)  # fmt: skip


def sweep(folder: Path) -> None:
    """Remove what killed writers left half-written in a folder that this process holds alone."""
    for path in folder.glob(".*.tmp"):
        path.unlink()


def write_text(path: str | os.PathLike, text: str) -> None:
    """Write a text file that is whole or absent."""
    with atomic_write(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: str | os.PathLike, value: Any) -> None:
    """Write readable JSON; keys keep their order."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def write_csv(path: str | os.PathLike, header: Sequence[str], rows: Iterable[Sequence]) -> None:
    """Write a table; None and NaN become empty cells, floats keep every digit they have."""
    with (
        atomic_write(path) as temporary,
        open(temporary, "w", newline="", encoding="utf-8") as file,
    ):
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(header)
        # A NaN is the one value that differs from itself.
        writer.writerows([None if cell != cell else cell for cell in row] for row in rows)


def read_json(path: str | os.PathLike) -> Any:
    """Read JSON; an absent or broken file becomes a RunError that names it."""
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise RunError(f"{path} does not exist; is {Path(path).parent} a finished run?") from error
    except ValueError as error:
        raise RunError(f"{path} is no valid JSON ({error}); delete it and run again") from error


def digest_of(value: Any) -> str:
    """SHA-256 of a JSON value in canonical form (sorted keys, no spaces), in hexadecimal."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()


def digest_file(path: str | os.PathLike) -> str:
    """SHA-256 of a file's bytes, in hexadecimal; a RunError names a file that cannot be read."""
    try:
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise RunError(f"cannot read {path}: {error.strerror}; restore it, or train the run that "
                       "it belongs to again") from error  # fmt: skip


def provenance(seed: int, **inputs: Any) -> dict[str, Any]:
    """What made a result: inputs' digests, seed, versions, machine and this code's commit."""
    import importlib.metadata  # here, since `--help` would pay 0.1 s for it

    versions = {}
    for package in VERSIONED_PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[package] = importlib.metadata.version(package)
    return {
        "seed": seed,
        **inputs,
        "versions": versions,
        "python": platform.python_version(),
        "machine": f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores",
        "commit": _commit(),
    }


def _commit() -> str | None:
    """This source's commit ("-dirty" when changed), None outside a checkout."""
    here = Path(__file__).parent
    try:
        done = subprocess.run(
            ["git", "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"],
            cwd=here, capture_output=True, text=True, timeout=10, check=True,
        )  # fmt: skip
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip() or None
