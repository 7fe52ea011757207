"""A bundle that was read, compared with its own digests and found whole before anything uses it."""

import hashlib
import os
from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from dermdistill.bundle.archive import Archive
from dermdistill.bundle.content import check_content
from dermdistill.bundle.formats import FORMATS
from dermdistill.bundle.manifest import (
    GOLDEN,
    MANIFEST,
    MOST_MANIFEST_BYTES,
    GoldenCase,
    Manifest,
    Model,
    Preprocessing,
    parse_manifest,
)
from dermdistill.bundle.strict import decode, load_json
from dermdistill.data.decode import decode as decode_image
from dermdistill.errors import BundleError, unknown_name

NUMBERS = 3  # of a pixel


def preprocess(
    spec: Preprocessing, source: str | os.PathLike | bytes
) -> UInt8[np.ndarray, "px px 3"]:
    """One image file as the pixels that every model of a bundle takes.

    Raises:
        BrokenImageError: it cannot be decoded.
    """
    return decode_image(source, spec.px, spec.crop, reduced=False)


class Bundle:
    """A verified bundle; opening it is verifying it, so there is no other kind.

    Args:
        path: the zip.

    Attributes:
        manifest: what it says about itself.
        digest: SHA-256 of the manifest, in hexadecimal; since the manifest has every file's
            digest, it names the whole bundle.

    Raises:
        BundleError: it is damaged, incomplete, of another version, or holds what no bundle may;
            the message says what.
    """

    def __init__(self, path: str | os.PathLike):
        self.path = Path(path)
        self._archive = Archive(self.path)
        if self._archive.size(MANIFEST) > MOST_MANIFEST_BYTES:
            raise BundleError(self.path, "its manifest is too large")
        content = self._archive.read(MANIFEST)
        self.digest = hashlib.sha256(content).hexdigest()
        try:
            self.manifest: Manifest = parse_manifest(content)
        except ValueError as error:
            raise BundleError(self.path, str(error)) from error
        self._check_files()
        self.golden: list[GoldenCase] = self._read_golden()

    def read(self, name: str) -> bytes:
        """One file's content, compared with its digest again.

        Raises:
            BundleError: there is no such file, or it changed since the bundle was opened.
        """
        content = self._archive.read(name)
        known = self.manifest.files.get(name)
        if known is None or hashlib.sha256(content).hexdigest() != known.sha256:
            raise BundleError(self.path, f"{name} is damaged (its SHA-256 does not fit)")
        return content

    def model(self, format_name: str) -> tuple[Model, dict[str, bytes]]:
        """One format's description and its files, by their names without the folder.

        Raises:
            ConfigError: the bundle does not hold this format.
        """
        if format_name not in self.manifest.models:
            raise unknown_name("model in this bundle", format_name, self.manifest.models)
        model = self.manifest.models[format_name]
        start = len(f"models/{format_name}/")
        return model, {name[start:]: self.read(name) for name in model.files}

    def preprocess(self, source: str | os.PathLike | bytes) -> UInt8[np.ndarray, "px px 3"]:
        """As the function, by the bundle's own rules."""
        return preprocess(self.manifest.preprocessing, source)

    def golden_pixels(self, case: GoldenCase) -> UInt8[np.ndarray, "px px 3"]:
        """What preprocessing must make of a golden image."""
        px = self.manifest.preprocessing.px
        return np.frombuffer(self.read(case.pixels), np.uint8).reshape(px, px, NUMBERS)

    def _check_files(self) -> None:
        """Every file the manifest names is there and whole, and no other."""
        listed, found = self.manifest.files, [n for n in self._archive.names if n != MANIFEST]
        missing, extra = sorted(listed.keys() - set(found)), sorted(set(found) - listed.keys())
        if missing or extra:
            raise BundleError(self.path, " and ".join(
                f"{', '.join(names[:5])} {what}" for names, what in
                ((missing, "is missing"), (extra, "is not in its manifest")) if names))  # fmt: skip
        for name in found:
            if self._archive.size(name) != listed[name].bytes:
                raise BundleError(self.path, f"{name} has another size than its manifest says")
            try:
                check_content(name, self.read(name))
            except ValueError as error:
                raise BundleError(self.path, f"{name} {error}") from error
        for name, model in self.manifest.models.items():
            self._check_model(name, model)

    def _check_model(self, name: str, model: Model) -> None:
        known = FORMATS.get(name)
        files = known and [f"models/{name}/{file}" for file in known.files]
        if known is None or model.files != files or model.engine != known.engine:
            raise BundleError(self.path, f"its model {name!r} is of no format that is known, or "
                              f"has other files than {files}")  # fmt: skip

    def _read_golden(self) -> list[GoldenCase]:
        try:
            cases = decode(load_json(self.read(GOLDEN)), list[GoldenCase], "golden")
        except ValueError as error:
            raise BundleError(self.path, str(error)) from error
        size = NUMBERS * self.manifest.preprocessing.px**2
        for case in cases:
            if self.manifest.files.keys().isdisjoint({case.image}):
                raise BundleError(self.path, f"the golden image {case.image} is missing")
            if len(self.read(case.pixels)) != size:
                raise BundleError(self.path, f"{case.pixels} does not have {size} bytes")
        if not cases:
            raise BundleError(self.path, "it has no golden image")
        return cases
