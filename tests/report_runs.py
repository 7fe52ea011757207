"""Run directories as training writes them, with invented but coherent contents."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import yaml

from dermdistill.data.store import FORMAT, IMAGES, INDEX, SETTINGS, digest
from dermdistill.evaluate.groups import save_groups
from dermdistill.evaluate.metrics import classification_metrics
from dermdistill.evaluate.predictions import Predictions
from dermdistill.run import digest_of, write_json

CLASSES = ("MEL", "NV", "BCC", "AK", "BKL", "DF", "VASC", "SCC")
SHARES = (0.11, 0.64, 0.06, 0.02, 0.12, 0.015, 0.015, 0.02)
DRAWS = 100  # of a bootstrap: enough to see that it is there
SPLIT = {"digest": digest_of("the split"), "protocol": "lesion"}


def write_store(folder: Path, ids: list[str], px: int = 48) -> str:
    """A packed store of coloured blobs; returns its digest."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(5)
    grid = np.hypot(*np.meshgrid(np.linspace(-1, 1, px), np.linspace(-1, 1, px)))
    images = np.empty((len(ids), px, px, 3), np.uint8)
    for row in range(len(ids)):
        skin, lesion = np.array([224, 184, 160]), np.array([96, 62, 50]) + rng.integers(-30, 40, 3)
        inside = (grid < rng.uniform(0.3, 0.7))[..., None]
        noise = rng.normal(0, 6, (px, px, 1))
        images[row] = np.clip(np.where(inside, lesion, skin) + noise, 0, 255)
    np.save(folder / IMAGES, images)
    hashes = [digest_of(int(image.sum())) for image in images]
    lines = [f"{name},{pixels},{pixels}" for name, pixels in zip(ids, hashes, strict=True)]
    (folder / INDEX).write_text("\n".join(["id,source_sha256,pixels_sha256", *lines]) + "\n")
    identity = digest(px, "centre", ids, hashes)
    settings = {"format": FORMAT, "px": px, "crop": "centre", "count": len(ids), "broken": []}
    write_json(folder / SETTINGS, settings | {"digest": identity, "source_digest": identity})
    return identity


def predictions_of(
    part: str, images: int, skill: float, seed: int, classes: tuple[str, ...] = CLASSES
) -> Predictions:
    """Predictions of a network that is right more often the larger its skill."""
    rng = np.random.default_rng(seed)
    shares = np.array(SHARES[: len(classes)]) / sum(SHARES[: len(classes)])
    labels = rng.choice(len(classes), images, p=shares)
    logits = rng.normal(0, 1, (images, len(classes))) + np.log(shares) * 0.4
    logits[np.arange(images), labels] += skill
    probabilities = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    return Predictions(
        [f"{part}_{row:05d}" for row in range(images)], classes, probabilities, labels
    )


def history_of(stage: str, epochs: int, terms: dict[str, float], seed: int) -> list[dict[str, Any]]:
    """Loss, terms and balanced accuracy that get better and then level off."""
    rng, lines = np.random.default_rng(seed), []
    for epoch in range(epochs):
        fall = np.exp(-epoch / 8)
        values = {k: v * (0.15 + fall) * rng.uniform(0.95, 1.05) for k, v in terms.items()}
        common = {"stage": stage, "epoch": epoch, "step": epoch * 250}
        lines.append(common | {"split": "train", "loss": sum(values.values()), "terms": values,
                               "lr": 1e-3 * 0.1 ** (epoch // 15)})  # fmt: skip
        score = 0.75 - 0.5 * fall + rng.normal(0, 0.01)
        lines.append(common | {"split": "validation", "loss": 0.6 + fall + rng.normal(0, 0.02),
                               "terms": {}, "balanced_accuracy": score})  # fmt: skip
    return lines


def write_run(
    folder: Path,
    stage: str = "student",
    network: str = "mobilenetv2_100",
    method: str | None = "ssd_kd",
    skill: float = 2.6,
    parameters: int = 2_234_120,
    multiply_adds: int = 300_774_272,
    size_mb: float = 8.93,
    classes: tuple[str, ...] = CLASSES,
    store: dict[str, str] | None = None,
    teacher_run: str | None = None,
    pretext: bool = False,
    split: dict[str, str] | None = None,
    epochs: int = 40,
    seed: int = 2021,
) -> Path:
    """A finished run directory; every file is written by the code that writes it in earnest."""
    folder.mkdir(parents=True)
    metrics: dict[str, Any] = {}
    for part, images in (("validation", 401), ("test", 503)):
        predictions = predictions_of(part, images, skill, len(part) * 7, classes)
        predictions.save(folder / f"predictions-{part}.csv")
        predictions.save_truth(folder / f"truth-{part}.csv")
        metrics[part] = classification_metrics(predictions)
    metrics["cost"] = {"parameters": parameters, "multiply_adds": multiply_adds,
                       "size_mb": size_mb, "input_px": 224}  # fmt: skip
    write_json(folder / "metrics.json", metrics | {"selected_epoch": 33, "wall_s": 8047.3})
    write_json(folder / "provenance.json", {
        "seed": seed, "stage": stage, "method": method, "network": network,
        "store": store or {"folder": "../store", "digest": digest_of("gone")},
        "split": split or SPLIT, "teacher_run": teacher_run, "pretext_run": None,
        "versions": {"dermdistill": "0.1.0", "torch": "2.14.0", "timm": "1.0.20"},
        "python": "3.11.2", "machine": "Linux x86_64, 2 cores", "commit": "0123456789ab",
    })  # fmt: skip
    terms = {
        "cross_entropy": 1.2,
        "kd": 6.0,
        "rotated_kd": 3.1,
        "similarity": 0.4,
        "relations": 0.9,
    }
    lines = history_of(stage, epochs, terms if method else {"cross_entropy": 1.9}, 3)
    if pretext:
        lines = history_of("pretext", epochs, {"rotation": 3.4}, 4) + lines
    text = "".join(json.dumps(line) + "\n" for line in lines)
    (folder / "history.jsonl").write_text(text)
    settings = {"seed": seed, "student": {"method": method or "supervised"},
                "evaluation": {"draws": DRAWS}}  # fmt: skip
    (folder / "config.yaml").write_text(yaml.safe_dump(settings, sort_keys=False))
    parity = {"images": 64, "source": "test images", "probability": 3.1e-06, "top1_agreement": 1.0}
    write_json(folder / "parity.json", {"onnx": parity})
    return folder


def write_groups(run: Path) -> None:
    """Lesions of one to three images, and facts of most of them, beside a run's predictions."""
    for part in ("validation", "test"):
        made = Predictions.load(run / f"predictions-{part}.csv", run / f"truth-{part}.csv")
        rng = np.random.default_rng(len(part))
        lesions = np.sort(rng.integers(0, len(made) // 2, len(made)))
        save_groups(run / f"groups-{part}.csv", made.ids, pd.DataFrame({
            "lesion": [f"L{number}" for number in lesions],
            "age": rng.choice([25.0, 45.0, 65.0, np.nan], len(made)),
            "sex": rng.choice(["female", "male"], len(made)),
            "site": rng.choice(["head/neck", "lower extremity", "torso"], len(made)),
        }))  # fmt: skip


def write_pair(root: Path, epochs: int = 40) -> tuple[Path, Path]:
    """A student and its teacher over one store that is still there."""
    ids = [f"test_{row:05d}" for row in range(503)]
    store = {"folder": "../store", "digest": write_store(root / "store", ids)}
    teacher = write_run(root / "teacher-resnet50", "teacher", "resnet50", None, 3.0, 23_524_424,
                        4_089_200_000, 94.1, CLASSES, store, epochs=epochs)  # fmt: skip
    student = write_run(root / "student-ssd_kd", store=store, teacher_run="../teacher-resnet50",
                        pretext=True, epochs=epochs)  # fmt: skip
    return student, teacher
