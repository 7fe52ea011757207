"""Official files from the challenge's server: resumed, verified, unpacked whole or not at all."""

import os
import shutil
import stat
import warnings
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from dermdistill.data.resume import PART, Resuming, download_bar
from dermdistill.errors import ConfigError, DataError, RunError, unknown_name
from dermdistill.run import digest_file, read_json, write_json

LOCK = "fetch.lock.json"
BYTES_PER_GB = 1e9
# What the reader of archives raises on a damaged or encrypted one.
BROKEN_ARCHIVE = (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError)


@dataclass(frozen=True)
class Dataset:
    """Where a data set's official files are.

    Args:
        base_url: what every file's name is appended to.
        files: names and SHA-256; None where no official checksum is known to us.
    """

    base_url: str
    files: Mapping[str, str | None]


DATASETS = {
    "isic2019": Dataset(
        "https://isic-challenge-data.s3.amazonaws.com/2019/",
        {
            f"ISIC_2019_{part}_{kind}": None
            for part in ("Training", "Test")
            for kind in ("GroundTruth.csv", "Metadata.csv", "Input.zip")
        },
    )
}


def fetch(
    name: str = "isic2019",
    folder: str | os.PathLike = "isic2019",
    base_url: str | None = None,
    progress: bool = True,
    checksums: Mapping[str, str] | None = None,
) -> Path:
    """Download a data set's official files and unpack its archives; continues where it was cut.

    A partial file is kept as `NAME.part` and resumed by the next call. No official checksums of
    ISIC 2019 are known to us: without `checksums`, the SHA-256 of the first download is written to
    `fetch.lock.json`, a warning says so, and every later call verifies against it. That shows
    that a file changed, not that the first one was right; archives also hold a CRC for each image.

    Args:
        name: one of DATASETS.
        folder: where the files go; made if absent.
        base_url: a mirror instead of the official server.
        progress: show a bar with the time left where standard error is a terminal.
        checksums: SHA-256 by file name; they win over the lock file.

    Returns:
        The folder. An archive's images are in the folder of its name without ".zip"; the archive
        may be deleted then, a later call does not fetch it again.

    Raises:
        ConfigError: no such data set, or a checksum for a file that it has not.
        DataError: the server refuses, the line stays cut, a checksum differs, an archive is broken
            or unsafe, or the disk is full.
    """
    if name not in DATASETS:
        raise unknown_name("data set", name, DATASETS)
    dataset, checksums = DATASETS[name], dict(checksums or {})
    for file in checksums:
        if file not in dataset.files:
            raise ConfigError(f"a checksum for {file!r}, but {name} has {', '.join(dataset.files)}")
    folder = Path(os.path.abspath(folder))
    base_url = (base_url or dataset.base_url).rstrip("/") + "/"
    lock_path = folder / LOCK
    lock = _lock(lock_path)
    first = []
    try:
        for file, official in dataset.files.items():
            locked = lock.get(file, {}).get("sha256")
            known = checksums.get(file) or official or locked
            if locked and known == locked and (folder / Path(file).stem).is_dir():
                continue  # unpacked from an archive that was verified
            path = _download(base_url + file, folder, known, progress)
            if file not in lock or file in checksums:
                trust = "given checksum" if known else "first download, not compared to any source"
                lock[file] = {"sha256": digest_file(path), "trust": trust}
                write_json(lock_path, lock)
            if not known:
                first.append(file)
            if path.suffix == ".zip":
                unpack(path, folder / path.stem)
    except OSError as error:
        raise DataError(
            f"cannot write to {folder}: {error.strerror or error}; free the disk or choose another "
            "folder, then run it again: it continues"
        ) from error
    if first:
        warnings.warn(
            f"no official checksum is known for {', '.join(first)}: their SHA-256 is now in "
            f"{lock_path} and is verified from now on; pass checksums= to compare with a source "
            "you trust",
            stacklevel=2,
        )
    return folder


def _lock(path: Path) -> dict[str, dict[str, str]]:
    if not path.exists():
        return {}
    try:
        return read_json(path)
    except RunError as error:
        raise DataError(str(error)) from error


def _download(url: str, folder: Path, known: str | None, progress: bool) -> Path:
    """A file that is there and verified."""
    import pooch  # it brings requests, which `--help` need not wait for

    pooch.get_logger().setLevel("WARNING")  # its notes would break the bar

    name = url.rsplit("/", 1)[1]
    with download_bar(name, progress) as report:
        downloader = Resuming(folder / (name + PART), report)
        try:
            found = pooch.retrieve(url, known, name, folder, downloader=downloader)
        except ValueError as error:  # pooch's word for another checksum
            raise DataError(
                f"{url}: {error} The partial file is deleted. If the checksum that you expect is "
                f"right, fetch again or from another base_url; else correct it (or {LOCK})"
            ) from error
    return Path(found)


def unpack(archive: Path, folder: Path) -> None:
    """Unpack a ZIP to a folder that is there whole or not at all; no member may leave it.

    Args:
        archive: the file.
        folder: what it becomes; a lone folder of that name inside the archive is that folder.

    Raises:
        DataError: broken, unsafe, or larger than the disk has room for.
    """
    if folder.is_dir():
        return
    temporary = folder.with_name(f".{folder.name}.unpacking")
    shutil.rmtree(temporary, ignore_errors=True)  # left by a call that was killed
    try:
        with zipfile.ZipFile(archive) as zipped:
            _check_members(zipped, archive)
            temporary.mkdir(parents=True)
            zipped.extractall(temporary)
        inner = temporary / folder.name
        os.replace(inner if inner.is_dir() else temporary, folder)
    except BROKEN_ARCHIVE as error:
        raise DataError(f"{archive} is broken ({error}); delete it and fetch again") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _check_members(zipped: zipfile.ZipFile, archive: Path) -> None:
    """Refuse members that would be written elsewhere, and more bytes than the disk has room for."""
    for member in zipped.infolist():
        parts = member.filename.replace("\\", "/").split("/")
        linked = stat.S_ISLNK(member.external_attr >> 16)  # upper half: the Unix mode
        if linked or ".." in parts or parts[0] == "" or ":" in parts[0]:
            raise DataError(
                f"{archive} holds the member {member.filename!r}, which would be written outside "
                "its folder; this is no official archive: delete it"
            )
    needed = sum(member.file_size for member in zipped.infolist())
    free = shutil.disk_usage(archive.parent).free
    if needed > free:
        raise DataError(
            f"{archive} unpacks to {needed / BYTES_PER_GB:.1f} GB and {free / BYTES_PER_GB:.1f} GB "
            "are free; free the disk, then run it again"
        )
