"""What a run looks at: maps of its answers, what they are worth, and pictures of them.

Written into `RUN/explain/`: `explanation.json` (means), `images.csv` (every image's values, which
intervals are made from) and `gallery.png`.
"""

from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dermdistill.data.dataset import Part
from dermdistill.data.masks import read_masks
from dermdistill.data.views import upright_view
from dermdistill.display import Display
from dermdistill.errors import ConfigError
from dermdistill.evaluate.explain import scores
from dermdistill.evaluate.explain.cam import choose_map, evidence_maps
from dermdistill.evaluate.explain.gallery import Picture, gallery
from dermdistill.evaluate.opened import OpenedRun, open_run
from dermdistill.evaluate.predict import PREDICT_BATCH
from dermdistill.models import Backbone
from dermdistill.run import RESEARCH_NOTICE, write_csv, write_json
from dermdistill.types import Metadata

FOLDER, SUMMARY, IMAGES, GALLERY = "explain", "explanation.json", "images.csv", "gallery.png"
PARTS = ("test", "validation", "train")
PICTURES = 8
MEASURES = {
    "insertion": "mean probability as the strongest places return to a blurred image; high is "
    "better",
    "insertion_centre": "the same for a blob in the middle, which looked at nothing",
    "deletion": "mean probability as the strongest places turn grey; low is better",
    "deletion_centre": "the same for a blob in the middle",
    "inside": "share of the positive evidence inside the lesion's outline",
    "inside_even": "the same for a map that is equal everywhere: the lesion's share of the image",
    "inside_centre": "the same for a blob in the middle",
    "agreement": "correlation with the teacher's map of the same image and class",
    "agreement_others": "correlation with the teacher's map of another image: what lying in the "
    "middle alone gives",
    "teacher_inside": "the teacher's share inside the lesion's outline, for the same class",
}


@dataclass(frozen=True, eq=False)
class _Explainer:
    """The networks of a run, and how each is explained."""

    opened: OpenedRun
    network: Backbone
    kind: str
    teacher: Backbone | None
    teacher_kind: str | None
    stride: int | None

    def probabilities(self, images: Tensor) -> Tensor:
        with torch.no_grad(), self.opened.fabric.autocast():
            logits = self.network(images).logits
        return logits.float().softmax(1)

    def given(self, metadata: Metadata) -> "_Explainer":
        """The same, about the patients of the images that come next."""
        teacher = self.teacher and self.teacher.given(metadata)
        return replace(self, network=self.network.given(metadata), teacher=teacher)


def explain_run(
    run: Path,
    part: str = "test",
    images: int = 200,
    masks: str | None = None,
    teacher: bool = True,
    kind: str = "auto",
    stride: int | None = None,
    progress: bool = True,
) -> dict[str, Any]:
    """Explain the class that a run predicts for each of some images; write `RUN/explain/`.

    Args:
        run: a finished run of a network.
        part: "test", "validation" or "train".
        images: how many, drawn by the run's seed; 0 takes all.
        masks: folder of lesion outlines (see `read_masks`); without, nothing is said of inside.
        teacher: compare with the maps of the run's teacher, if it had one.
        kind: one of `MAPS`.
        stride: which stage the library's kinds look at (see `evidence_maps`).
        progress: show a bar.

    Returns:
        What `explanation.json` holds.

    Raises:
        ConfigError: no such part or kind of map, or an exact map of a network without one.
        RunError, DataError: the run, its images or the masks cannot be used.
    """
    if part not in PARTS:
        raise ConfigError(f"part is {part!r}; it must be one of {', '.join(PARTS)}")
    opened = open_run(run, progress)
    explainer = _explainer(opened, teacher, kind, stride)
    chosen = getattr(opened.data, part).some(images, opened.config.seed)
    outlines = None
    if masks is not None:
        outlines = read_masks(masks, chosen.ids, opened.data.store.px, opened.data.store.crop)
    rows, pictures = _explain(explainer, chosen, outlines, progress)
    columns = ["image", "truth", "predicted", *(name for name in MEASURES if name in rows[0])]
    write_csv(run / FOLDER / IMAGES, columns, [[row[name] for name in columns] for row in rows])
    summary = _summary(explainer, part, rows, columns[3:])
    gallery(run / FOLDER / GALLERY, pictures, f"{run.name}, {part} images")
    write_json(run / FOLDER / SUMMARY, summary)
    return summary


def _explainer(opened: OpenedRun, with_teacher: bool, kind: str, stride: int | None) -> _Explainer:
    px = opened.data.store.px
    teacher = opened.teacher() if with_teacher else None
    name = f"{opened.origin['network']} of {opened.folder}"
    taught_by = f"the teacher in {opened.teacher_folder}"
    return _Explainer(
        opened,
        opened.network,
        choose_map(opened.network, px, kind, name, stride),
        teacher,
        teacher and choose_map(teacher, px, kind, taught_by, stride),
        stride,
    )


def _summary(
    explainer: _Explainer, part: str, rows: list[dict[str, Any]], measured: list[str]
) -> dict[str, Any]:
    values = {name: np.array([row[name] for row in rows], float) for name in measured}
    return {
        "notice": RESEARCH_NOTICE,
        "part": part,
        "images": len(rows),
        "map": explainer.kind,
        "teacher_map": explainer.teacher_kind,
        "stride": explainer.stride,
        "measures": {
            name: {
                # Sums in float64 of values that may be missing: no mask, or no positive evidence.
                "mean": float(np.nanmean(each)) if np.isfinite(each).any() else None,
                "images": int(np.isfinite(each).sum()),
                "meaning": MEASURES[name],
            }
            for name, each in values.items()
        },
    }


def _explain(
    explainer: _Explainer, part: Part, outlines: tuple | None, progress: bool
) -> tuple[list[dict[str, Any]], list[Picture]]:
    """One row of values an image, and pictures of a few, classes taking turns."""
    device, names = explainer.opened.fabric.device, explainer.opened.data.classes
    shown = set(_turns(part.labels)[:PICTURES])
    rows, pictures = [], []
    batches = np.array_split(np.arange(len(part)), max(1, -(-len(part) // PREDICT_BATCH)))
    display = Display("explain", len(batches), 0, progress)
    for batch in batches:
        pixels = part.pixels(batch)
        images = upright_view(pixels.to(device)).contiguous(memory_format=torch.channels_last)
        asked = explainer.given(part.about(batch))
        confidence, classes = asked.probabilities(images).max(1)
        maps = _maps(asked, images, classes)
        masks = None
        if outlines is not None:
            masks = tuple(torch.from_numpy(each[batch]).to(device) for each in outlines)
        values = _measure(asked, images, classes, maps, masks)
        for place, row in enumerate(batch):
            truth = names[part.labels[row]] if part.labels[row] >= 0 else None
            predicted = names[classes[place]]
            rows.append({"image": part.ids[row], "truth": truth, "predicted": predicted}
                        | {name: float(each[place]) for name, each in values.items()})  # fmt: skip
            if row in shown:
                pictures.append(Picture(
                    part.ids[row], truth, predicted, float(confidence[place]),
                    pixels[place].numpy(), {who: each[place].cpu().numpy()
                                            for who, each in maps.items()},
                    masks[0][place].cpu().numpy() if masks else None,
                ))  # fmt: skip
        display.step({"insertion": float(values["insertion"].mean())})
    display.close()
    return rows, pictures


def _maps(explainer: _Explainer, images: Tensor, classes: Tensor) -> dict[str, Tensor]:
    """The run's map, and its teacher's if there is one."""
    networks = {explainer.opened.origin["stage"]: (explainer.network, explainer.kind)}
    if explainer.teacher is not None:
        networks["teacher"] = (explainer.teacher, explainer.teacher_kind)
    return {
        who: evidence_maps(network, images, classes, kind, explainer.stride)
        for who, (network, kind) in networks.items()
    }


def _measure(
    explainer: _Explainer,
    images: Tensor,
    classes: Tensor,
    maps: dict[str, Tensor],
    masks: tuple[Tensor, Tensor] | None,
) -> dict[str, Tensor]:
    """Every measure that can be taken, one value an image; NaN where an image has none."""
    own, *others = maps.values()
    centre = scores.centre_maps(images)
    insertion = partial(scores.insertion_score, explainer.probabilities, images)
    deletion = partial(scores.deletion_score, explainer.probabilities, images)
    values = {
        "insertion": insertion(own, classes),
        "insertion_centre": insertion(centre, classes),
        "deletion": deletion(own, classes),
        "deletion_centre": deletion(centre, classes),
    }
    inside = {"inside": own, "inside_even": torch.ones_like(own), "inside_centre": centre}
    for teacher in others:
        values["agreement"] = scores.agreement_score(own, teacher)
        if len(images) > 1:
            values["agreement_others"] = scores.agreement_score(own, teacher.roll(1, 0))
        inside["teacher_inside"] = teacher
    if masks is not None:
        outline, present = masks
        values |= {
            name: scores.inside_score(each, outline).where(present, torch.nan)
            for name, each in inside.items()
        }
    return values


def _turns(labels: np.ndarray) -> list[int]:
    """All rows, so that each class has its first before any has its second."""
    seen: dict[int, int] = {}
    turn = []
    for label in labels.tolist():
        turn.append(seen.get(label, 0))
        seen[label] = turn[-1] + 1
    return np.lexsort((np.arange(len(turn)), turn)).tolist()
