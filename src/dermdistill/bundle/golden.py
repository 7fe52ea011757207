"""A bundle's own proof: its golden images through the preprocessing and the runtimes of here."""

import hashlib
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, UInt8

from dermdistill.bundle.formats import FORMATS
from dermdistill.bundle.manifest import Preprocessing
from dermdistill.bundle.reader import Bundle
from dermdistill.bundle.runtimes import can_run, open_runtime

WHITE = np.float32(255)
# Of a probability. Runtimes order sums differently, and processors choose their kernels; int8
# and fp16 round besides. The golden images are drawings, far from what the numbers were chosen on.
TOLERANCES = {"fp32": 1e-3, "fp16": 0.05, "int8": 0.25}


@dataclass(frozen=True)
class Finding:
    """One thing that was tried: what, how it went (None: it could not be tried), in words."""

    what: str
    ok: bool | None
    words: str


def normalise(
    pixels: UInt8[np.ndarray, "*stack px px 3"], spec: Preprocessing
) -> Float[np.ndarray, "*stack px px 3"]:
    """What the models' first operations make of pixels, in the same order, in float32."""
    mean, std = (np.array(values, np.float32) for values in (spec.mean, spec.std))
    return (pixels.astype(np.float32) / WHITE - mean) / std


def normalised_sha256(pixels: UInt8[np.ndarray, "px px 3"], spec: Preprocessing) -> str:
    """SHA-256 of the normalised pixels as little-endian float32, in hexadecimal."""
    return hashlib.sha256(normalise(pixels, spec).astype("<f4").tobytes()).hexdigest()


def check_golden(bundle: Bundle) -> list[Finding]:
    """Try preprocessing, and every model whose runtime is installed, on the golden images."""
    found = [_check_pixels(bundle, case) for case in bundle.golden]
    return found + [_check_model(bundle, name) for name in bundle.manifest.models]


def _check_pixels(bundle: Bundle, case) -> Finding:
    wanted = bundle.golden_pixels(case)
    steps = int(np.abs(bundle.preprocess(bundle.read(case.image)).astype(int) - wanted).max())
    same = normalised_sha256(wanted, bundle.manifest.preprocessing) == case.normalised_sha256
    words = f"pixels differ by at most {steps} of 255 (allowed: {case.tolerance}), normalised "
    words += "exactly" if same else "otherwise than where it was made"
    return Finding(case.image, steps <= case.tolerance and same, words)


def _check_model(bundle: Bundle, name: str) -> Finding:
    if not can_run(name):
        known = FORMATS[name]
        why = (f"needs {known.reader}: pip install '{known.install}'" if known.reader else
               "runs on its own devices only")  # fmt: skip
        return Finding(name, None, f"not tried: {why}")
    pixels = np.stack([bundle.golden_pixels(case) for case in bundle.golden])
    wanted = np.array([case.probabilities for case in bundle.golden])
    apart = float(np.abs(open_runtime(bundle, name).predict(pixels).probabilities - wanted).max())
    allowed = TOLERANCES[bundle.manifest.models[name].precision]
    words = f"probabilities differ by at most {apart:.1e} (allowed: {allowed:g})"
    return Finding(name, apart <= allowed, words)
