"""Golden images: drawn lesions, with the pixels and answers that must come of them."""

import dataclasses
import io
import json

import numpy as np

from dermdistill.bundle.golden import normalised_sha256
from dermdistill.bundle.manifest import GOLDEN, GoldenCase, Preprocessing
from dermdistill.data.decode import decode
from dermdistill.data.phantom_lesion import SPAN, lesion
from dermdistill.data.phantom_looks import LOOKS
from dermdistill.data.phantom_view import photograph
from dermdistill.export.subject import Subject

SEED = 2021
# Width of the image as a multiple of what the models see: no round number, so that every pixel of
# the result mixes neighbours by weights of its own.
SCALE, ASPECT = 2.3, 3 / 4
JPEG_QUALITY = 92
# (label that is drawn, file type, steps of 255 by which another decoder may differ)
CASES = (("NV", "png", 0), ("MEL", "jpg", 1))


def golden_files(subject: Subject, spec: Preprocessing) -> dict[str, bytes]:
    """The files under `golden/`: drawings, so that a bundle never carries a patient's image."""
    files, cases = {}, []
    for label, kind, tolerance in CASES:
        name = f"golden/{label.lower()}.{kind}"
        content = _draw(label, kind, spec.px)
        pixels = decode(content, spec.px, spec.crop, reduced=False)
        answers = subject.answers(pixels[None])
        files[name], files[f"golden/{label.lower()}.rgb"] = content, pixels.tobytes()
        cases.append(GoldenCase(
            image=name,
            pixels=f"golden/{label.lower()}.rgb",
            tolerance=tolerance,
            normalised_sha256=normalised_sha256(pixels, spec),
            probabilities=answers.probabilities[0].tolist(),
            logits=answers.logits[0].tolist(),
            cam=None if answers.cam is None else answers.cam[0].tolist(),
        ))  # fmt: skip
    rows = [dataclasses.asdict(case) for case in cases]
    return {GOLDEN: (json.dumps(rows, allow_nan=False) + "\n").encode(), **files}


def _draw(label: str, kind: str, px: int) -> bytes:
    generator = np.random.default_rng([SEED, px])
    width = round(SCALE * px)
    size = (width, round(ASPECT * width))
    skin = lesion(generator, LOOKS[label], round(SPAN * size[1]))
    file = io.BytesIO()
    options = {"quality": JPEG_QUALITY} if kind == "jpg" else {}
    photograph(generator, skin, size).save(file, {"jpg": "JPEG", "png": "PNG"}[kind], **options)
    return file.getvalue()
