"""What a bundle says about itself: `manifest.json`, as classes that refuse anything unexpected.

`docs/bundle.md` explains every field to readers in other languages.
"""

import dataclasses
import json
from dataclasses import dataclass
from typing import Any, Literal

from dermdistill.bundle.strict import decode, load_json
from dermdistill.run import RESEARCH_NOTICE

KIND, VERSION = "dermdistill-bundle", 1
MANIFEST, CARD, GOLDEN = "manifest.json", "card.md", "golden/golden.json"
MOST_MANIFEST_BYTES = 1_000_000
FEWEST_CLASSES, MOST_CLASSES, MOST_PX = 2, 1000, 4096


@dataclass(frozen=True)
class Preprocessing:
    """How a file becomes the square of pixels that every model takes.

    Args:
        px: side of the square.
        crop: "centre", "squash" or "pad".
        interpolation: the one filter there is; docs/bundle.md has its arithmetic.
        jpeg_scale: JPEGs are decoded at their full size.
        orientation: EXIF orientation is applied.
        colour: order of a pixel's three values.
        profile: colour profiles are ignored.
        transparency: the colour behind transparent pixels.
        mean: subtracted from pixels / 255 inside the models, a value a colour.
        std: what the difference is divided by inside the models, a value a colour.
    """

    px: int
    crop: Literal["centre", "squash", "pad"]
    mean: list[float]
    std: list[float]
    interpolation: Literal["pillow-bilinear"] = "pillow-bilinear"
    jpeg_scale: Literal["full"] = "full"
    orientation: Literal["exif"] = "exif"
    colour: Literal["RGB"] = "RGB"
    profile: Literal["ignored"] = "ignored"
    transparency: Literal["white"] = "white"


@dataclass(frozen=True)
class Input:
    """What a model takes: pixels from 0 to 255.

    Args:
        name: the tensor's name in its runtime.
        type: the number type that holds them; "image" is the platform's own image object.
        layout: order of the axes.
        batch: images at once: 1, or 0 for any number.
    """

    name: str
    type: Literal["uint8", "float32", "image"]
    layout: Literal["NHWC", "NCHW"]
    batch: Literal[0, 1]


@dataclass(frozen=True)
class Parity:
    """How far a model is from torch in fp32, measured when it was exported.

    Args:
        images: how many were compared.
        source: which ones.
        probability: largest difference of a probability.
        top1_agreement: share of images with the same first answer.
    """

    images: int
    source: str
    probability: float
    top1_agreement: float


@dataclass(frozen=True)
class Model:
    """The network in one format.

    Args:
        engine: the runtime that loads it.
        precision: number format of its weights and arithmetic.
        files: its files in the bundle; the first is the one to open.
        input: what it takes.
        outputs: what it gives: "probabilities", "logits" and, where there is one, "cam" and
            "ood_score" -> the tensor's name in the runtime; in the runtime's order.
        parity: compared with torch; None where the runtime cannot run here: unverified.
        made_with: versions of the packages that made it.
    """

    engine: str
    precision: Literal["fp32", "fp16", "int8"]
    files: list[str]
    input: Input
    outputs: dict[str, str]
    parity: Parity | None
    made_with: dict[str, str]


@dataclass(frozen=True)
class Calibration:
    """The temperature that is inside the models' softmax, and what it was fitted on."""

    temperature: float
    fitted_on: str
    images: int


@dataclass(frozen=True)
class Abstention:
    """When the answer is "not sure": the largest probability is below a threshold."""

    least_probability: float
    fitted_on: str
    answered_ratio: float


@dataclass(frozen=True)
class Conformal:
    """Sets of classes that hold the truth with a given chance.

    Args:
        score: "threshold": all classes whose probability is at least 1 - quantile.
        coverage: the chance, in (0, 1).
        quantile: of 1 - p(truth) on the calibration images.
        fitted_on: which images.
    """

    score: Literal["threshold"]
    coverage: float
    quantile: float
    fitted_on: str


@dataclass(frozen=True)
class Ood:
    """When an image is unlike the training images: its `ood_score` is above a threshold.

    Args:
        score: "prototypes": 1 - the cosine to the nearest cluster of training images.
        threshold: of the score.
        kept_ratio: share of validation images at or below it.
        fitted_on: which images.
    """

    score: Literal["prototypes"]
    threshold: float
    kept_ratio: float
    fitted_on: str


@dataclass(frozen=True)
class File:
    """One file's identity."""

    sha256: str
    bytes: int


@dataclass(frozen=True)
class Manifest:
    """All of it.

    Args:
        name: what people call the model.
        classes: in the order of the probabilities.
        map_px: rows and columns of the class maps; None where the network has no exact ones.
        models: format -> model.
        files: name -> identity, of every file but the manifest.
        provenance: where the weights come from; for people.
    """

    name: str
    classes: list[str]
    preprocessing: Preprocessing
    map_px: int | None
    models: dict[str, Model]
    files: dict[str, File]
    provenance: dict[str, Any]
    calibration: Calibration | None = None
    abstention: Abstention | None = None
    conformal: Conformal | None = None
    ood: Ood | None = None
    notice: str = RESEARCH_NOTICE
    kind: Literal["dermdistill-bundle"] = KIND
    version: Literal[1] = VERSION

    def to_json(self) -> bytes:
        """The manifest as a file; equal manifests give equal bytes."""
        text = json.dumps(dataclasses.asdict(self), indent=1, ensure_ascii=True, allow_nan=False)
        return (text + "\n").encode()


@dataclass(frozen=True)
class GoldenCase:
    """One image with all that must come of it.

    Args:
        image: the file.
        pixels: the file with its pixels after preprocessing, uint8 [px, px, 3].
        tolerance: by how many of 255 steps another decoder's pixels may differ: 0 for PNG.
        normalised_sha256: of (pixels / 255 - mean) / std in float32, little-endian, NHWC.
        probabilities: torch's, [classes].
        logits: torch's, [classes].
        cam: torch's, [classes][rows][cols], or None.
    """

    image: str
    pixels: str
    tolerance: int
    normalised_sha256: str
    probabilities: list[float]
    logits: list[float]
    cam: list[list[list[float]]] | None


def parse_manifest(content: bytes) -> Manifest:
    """Read a manifest and check that it makes sense by itself.

    Raises:
        ValueError: says which field is wrong, how, and what is allowed.
    """
    value = load_json(content)
    if isinstance(value, dict):
        kind, version = value.get("kind"), value.get("version")
        if kind == KIND and version != VERSION:
            raise ValueError(f"its version is {version!r}; this dermdistill reads {VERSION}")
    manifest = decode(value, Manifest, "manifest")
    _check(manifest)
    return manifest


def _check(manifest: Manifest) -> None:
    """What types cannot say."""
    pre, classes = manifest.preprocessing, manifest.classes
    calibration, conformal = manifest.calibration, manifest.conformal
    checks = [
        (FEWEST_CLASSES <= len(classes) <= MOST_CLASSES, "classes", len(classes), "2 to 1000"),
        (len(set(classes)) == len(classes), "classes", classes, "unique"),
        (1 <= pre.px <= MOST_PX, "preprocessing.px", pre.px, f"1 to {MOST_PX}"),
        (len(pre.mean) == 3, "preprocessing.mean", pre.mean, "three numbers"),
        (len(pre.std) == 3 and min(pre.std) > 0, "preprocessing.std", pre.std, "three above 0"),
        (bool(manifest.models), "models", "empty", "at least one"),
        (calibration is None or calibration.temperature > 0, "calibration", calibration,
         "a temperature above 0"),
        (conformal is None or 0 < conformal.coverage < 1, "conformal", conformal,
         "a coverage in (0, 1)"),
    ]  # fmt: skip
    answers = {"probabilities", "logits"} | ({"cam"} if manifest.map_px else set())
    answers |= {"ood_score"} if manifest.ood else set()
    for name, model in manifest.models.items():
        absent = [file for file in model.files if file not in manifest.files]
        checks += [
            (bool(model.files) and not absent, f"models.{name}.files", absent or "empty",
             "files of this bundle"),
            (set(model.outputs) == answers, f"models.{name}.outputs", list(model.outputs),
             sorted(answers)),
        ]  # fmt: skip
    for holds, field, found, allowed in checks:
        if not holds:
            raise ValueError(f"manifest.{field} is {found!r:.80}; it must be {allowed}")
