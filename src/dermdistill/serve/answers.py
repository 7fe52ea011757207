"""What goes out: an answer by the bundle's own rules, and its form for the OpenAPI document."""

from typing import Any

import numpy as np
from pydantic import BaseModel, Field

from dermdistill.bundle import Answers
from dermdistill.bundle.manifest import Manifest

DIGITS = 6


class Prediction(BaseModel):
    """An answer to one image."""

    probabilities: dict[str, float] = Field(description="calibrated, one a class, sum 1")
    first: str = Field(description="the most probable class")
    not_sure: bool = Field(description="its probability is below the bundle's threshold")
    unlike: bool = Field(description="the image is unlike the training images, by the bundle's "
                                     "threshold: the rest means little")  # fmt: skip
    set: list[str] | None = Field(description="classes that hold the truth with `coverage`")
    coverage: float | None
    map: list[list[float]] | None = Field(description="class map of `first`, if asked for")
    notice: str


class ErrorBody(BaseModel):
    """Why a request was refused."""

    code: str
    message: str


class ErrorAnswer(BaseModel):
    """A refused request."""

    error: ErrorBody


class BatchImage(BaseModel):
    """One image of many."""

    id: str = Field(max_length=200)
    data: str = Field(description="base64 of an image file")


class BatchRequest(BaseModel):
    """Many images."""

    images: list[BatchImage] = Field(min_length=1)


def prediction(answers: Answers, manifest: Manifest, with_map: bool) -> dict[str, Any]:
    """One image's answers as a `Prediction`."""
    classes, probabilities = manifest.classes, [float(p) for p in answers.probabilities]
    best = int(np.argmax(probabilities))
    abstention, conformal, ood = manifest.abstention, manifest.conformal, manifest.ood
    chosen = None
    if conformal:
        chosen = [name for name, p in zip(classes, probabilities, strict=True)
                  if p >= 1 - conformal.quantile] or [classes[best]]  # fmt: skip
    cam = answers.cam if with_map else None
    return {
        "probabilities": {name: round(p, DIGITS)
                          for name, p in zip(classes, probabilities, strict=True)},
        "first": classes[best],
        "not_sure": bool(abstention and probabilities[best] < abstention.least_probability),
        "unlike": bool(ood and answers.ood_score[0] > ood.threshold),
        "set": chosen,
        "coverage": conformal.coverage if conformal else None,
        "map": None if cam is None else np.round(cam[best], DIGITS).tolist(),
        "notice": manifest.notice,
    }  # fmt: skip
