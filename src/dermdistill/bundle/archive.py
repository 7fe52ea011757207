"""The zip around a bundle: one possible byte sequence for given files, so that any other shows.

Entries are stored, never compressed: weights hardly shrink, a stored entry can be mapped into
memory and read without a zip library, and there is nothing a bomb could swell from. Every field
of every header is fixed, so a reader can compute what the headers must be and compare.
"""

import io
import os
import re
import struct
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path

from dermdistill.errors import BundleError

MOST_BYTES = 2 * 1024**3  # of an archive; a zip without extensions ends at 4 GiB
MOST_FILES = 200
MOST_NAME = 120
MOST_DIRECTORY_BYTES = MOST_FILES * (46 + MOST_NAME)
# Plain words between slashes; no part begins with a dot, so none climbs out or hides.
NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*(/[A-Za-z0-9_][A-Za-z0-9_.-]*)*")

# Fields of the zip format (its "APPNOTE", sections 4.3.7, 4.3.12 and 4.3.16).
LOCAL, CENTRAL, END = 0x04034B50, 0x02014B50, 0x06054B50
VERSION, NO_FLAGS, STORED, MIDNIGHT, FIRST_OF_1980 = 10, 0, 0, 0, 0x0021
END_FORMAT = "<IHHHHIIH"


def local_header(name: str, crc: int, size: int) -> bytes:
    """What stands before an entry's content."""
    return struct.pack(
        "<IHHHHHIIIHH", LOCAL, VERSION, NO_FLAGS, STORED, MIDNIGHT, FIRST_OF_1980, crc, size, size,
        len(name), 0,
    ) + name.encode("ascii")  # fmt: skip


def directory(entries: list[tuple[str, int, int]]) -> bytes:
    """The central directory and its end, for entries of (name, crc, size) in their order."""
    rows, offset = [], 0
    for name, crc, size in entries:
        rows.append(struct.pack(
            "<IHHHHHHIIIHHHHHII", CENTRAL, VERSION, VERSION, NO_FLAGS, STORED, MIDNIGHT,
            FIRST_OF_1980, crc, size, size, len(name), 0, 0, 0, 0, 0, offset,
        ) + name.encode("ascii"))  # fmt: skip
        offset += len(local_header(name, crc, size)) + size
    table = b"".join(rows)
    return table + struct.pack(END_FORMAT, END, 0, 0, len(rows), len(rows), len(table), offset, 0)


def write_archive(path: str | os.PathLike, files: Mapping[str, bytes]) -> None:
    """Write files in their order; the same files always give the same bytes.

    Raises:
        BundleError: a name is not allowed, or it is too much for one bundle.
    """
    entries = [(name, zlib.crc32(content), len(content)) for name, content in files.items()]
    check_entries(path, entries)
    with open(path, "wb") as file:
        for entry, content in zip(entries, files.values(), strict=True):
            file.write(local_header(*entry))
            file.write(content)
        file.write(directory(entries))


def check_entries(path: str | os.PathLike, entries: list[tuple[str, int, int]]) -> None:
    """Refuse names and sizes that no bundle has.

    Raises:
        BundleError: names the entry and what is wrong with it.
    """
    seen: set[str] = set()
    for name, _, _ in entries:
        if len(name) > MOST_NAME or not NAME.fullmatch(name):
            raise BundleError(path, f"an entry is named {name[:MOST_NAME]!r}, which may climb out "
                              "of a folder or hide in it")  # fmt: skip
        if name.lower() in seen:
            raise BundleError(path, f"{name!r} stands there twice")
        seen.add(name.lower())
    total = sum(size for _, _, size in entries)
    if len(entries) > MOST_FILES or total > MOST_BYTES:
        raise BundleError(path, f"it has {len(entries)} files of {total:,} bytes; allowed are "
                          f"{MOST_FILES} and {MOST_BYTES:,}")  # fmt: skip


class Archive:
    """A zip that was found to be byte for byte what `write_archive` writes for its contents.

    Args:
        path: the file.

    Raises:
        BundleError: it is anything else; the message says what.
    """

    def __init__(self, path: str | os.PathLike):
        self.path = Path(path)
        infos = self._list()
        for info in infos:
            self._check(info)
        entries = [(info.filename, info.CRC, info.file_size) for info in infos]
        check_entries(self.path, entries)
        self._places = self._compare(entries)

    @property
    def names(self) -> list[str]:
        """Names of the files, in the archive's order."""
        return list(self._places)

    def size(self, name: str) -> int:
        """Bytes of one file; as `read`, refuses a name that is not there."""
        return self._place(name)[1]

    def read(self, name: str) -> bytes:
        """One file's content.

        Raises:
            BundleError: the archive has no such file, or changed since it was opened.
        """
        offset, size, crc = self._place(name)
        with open(self.path, "rb") as file:
            file.seek(offset)
            content = file.read(size)
        if len(content) != size or zlib.crc32(content) != crc:
            raise BundleError(self.path, f"{name} is damaged (its CRC-32 does not fit)")
        return content

    def _place(self, name: str) -> tuple[int, int, int]:
        if name not in self._places:
            raise BundleError(self.path, f"{name} is missing")
        return self._places[name]

    def _list(self) -> list[zipfile.ZipInfo]:
        """The entries as the archive lists them; nothing is unpacked."""
        try:
            size = self.path.stat().st_size
            with open(self.path, "rb") as file:
                file.seek(max(0, size - struct.calcsize(END_FORMAT)))
                end = struct.unpack(END_FORMAT, file.read())
        except OSError as error:
            raise BundleError(self.path, f"it cannot be read ({error.strerror})") from error
        except struct.error as error:
            raise BundleError(self.path, "it is no zip archive") from error
        if end[0] != END:
            raise BundleError(self.path, "it is no zip archive, or was cut off or added to")
        if size > MOST_BYTES or end[5] > MOST_DIRECTORY_BYTES:
            raise BundleError(
                self.path, f"it has {size:,} bytes and a table of {end[5]:,}; allowed are "
                f"{MOST_BYTES:,} and {MOST_DIRECTORY_BYTES:,}",
            )  # fmt: skip
        try:
            with zipfile.ZipFile(self.path) as archive:
                return archive.infolist()
        except Exception as error:  # a hostile table makes zipfile raise anything
            raise BundleError(self.path, f"its table of files is damaged ({error})") from error

    def _check(self, info: zipfile.ZipInfo) -> None:
        if info.compress_type != STORED or info.compress_size != info.file_size:
            raise BundleError(
                self.path, f"{info.filename!r} is compressed ({info.compress_size:,} bytes that "
                f"would become {info.file_size:,}); a bundle stores its files as they are",
            )  # fmt: skip
        if info.external_attr or info.flag_bits:
            raise BundleError(self.path, f"{info.filename!r} is no plain file (a link, a folder, "
                              "or encrypted)")  # fmt: skip

    def _compare(self, entries: list[tuple[str, int, int]]) -> dict[str, tuple[int, int, int]]:
        """Where each content lies; every byte around the contents is compared."""
        places, offset = {}, 0
        with open(self.path, "rb") as file:
            for name, crc, size in entries:
                header = local_header(name, crc, size)
                self._expect(file, offset, header, f"the header of {name}")
                places[name] = (offset + len(header), size, crc)
                offset += len(header) + size
            rest = directory(entries)
            self._expect(file, offset, rest, "the table of files")
            if file.seek(0, io.SEEK_END) != offset + len(rest):
                raise BundleError(self.path, "something was added to it")
        return places

    def _expect(self, file: io.BufferedReader, offset: int, content: bytes, what: str) -> None:
        file.seek(offset)
        if file.read(len(content)) != content:
            raise BundleError(self.path, f"{what} is damaged, or another program wrote it")
