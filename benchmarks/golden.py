"""Compare this package's methods and losses with golden values of the official SSD-KD code.

    python benchmarks/golden.py FILE.npz [FILE.npz ...]

A golden file holds inputs (`in.*`), values (`out.NAME`) and gradients in the student's tensors
(`out.NAME.grad.TENSOR`). Everything is computed in float64 and printed with its relative error;
the last line is the verdict. Exit 1: something is off by more than the bar. Exit 2: a file cannot
be read, or is no golden file.
"""

import argparse
import sys
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from dermdistill import losses
from dermdistill.methods import Lesson, build_method
from dermdistill.methods.view_pretext import ViewPretext
from dermdistill.models import ProjectionHead, connector
from dermdistill.types import Batch, Taps, Widths, rotated, total_loss

BAR = 1e-6
# An array whose largest number is below this is compared absolutely: its digits are rounding.
SMALLEST_SCALE = 1e-10
STUDENT_TENSORS = ("s_map", "s_pool", "s_logits")
INPUTS = (
    *("target", "weight", *STUDENT_TENSORS, "t_map", "t_pool", "t_logits"),
    *("conv_w", "conv_b", "bn_w", "bn_b"),
    *(f"{who}_head{layer}_{kind}" for who in "st" for layer in "12" for kind in "wb"),
)
METHODS_OF_FILE = ("kd", "fitnet", "rkd", "d_kd", "ssd_kd")
TERMS = {
    "wce": "cross_entropy", "kd_normal": "kd_upright", "kd_rotated": "kd_rotated", "ss": "view_kd",
}  # fmt: skip
KEPT = ("ssd_kd.keep_rotated", "ssd_kd.keep_ss")
SIMILARITIES = ("ssd_kd.teacher_similarity", "ssd_kd.student_similarity")


class GoldenFileError(Exception):
    """The file cannot be read or is no golden file."""


def read(path: Path) -> dict[str, np.ndarray]:
    """All arrays of a golden file."""
    try:
        with np.load(path, allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files}
    except (OSError, ValueError, EOFError, TypeError, zipfile.BadZipFile) as error:
        raise GoldenFileError(f"{path}: no readable .npz file ({error})") from error
    missing = [f"in.{name}" for name in INPUTS if f"in.{name}" not in arrays]
    if missing:
        raise GoldenFileError(f"{path}: no golden file, it lacks {', '.join(missing)}")
    return arrays


def given(network: nn.Module, weights: dict[str, Tensor]) -> nn.Module:
    """A network in double precision with a file's weights, which are constants here."""
    network.double().load_state_dict(weights, strict=False)
    return network.requires_grad_(False)


def bridge(x: Mapping[str, Tensor]) -> nn.Module:
    """The package's connector, in training mode, with the file's weights."""
    student, teacher = (
        Widths(x[f"{who}_map"].shape[1], x[f"{who}_map"].shape[-1], x[f"{who}_pool"].shape[1],
               x[f"{who}_logits"].shape[1])
        for who in "st"
    )  # fmt: skip
    names = {"0.weight": "conv_w", "0.bias": "conv_b", "1.weight": "bn_w", "1.bias": "bn_b"}
    return given(connector(student, teacher), {ours: x[name] for ours, name in names.items()})


def head(x: Mapping[str, Tensor], who: str) -> nn.Module:
    """The package's projection head of "s" or "t" with the file's weights."""
    names = {f"{place}.{kind}": f"{who}_head{layer}_{kind[0]}"
             for place, layer in ((0, 1), (2, 2)) for kind in ("weight", "bias")}  # fmt: skip
    return given(
        ProjectionHead(x[f"{who}_pool"].shape[1]), {ours: x[name] for ours, name in names.items()}
    )


def lesson(x: Mapping[str, Tensor]) -> Lesson:
    """A golden file as what a method sees of one step; no method looks at the images."""
    images = len(x["target"])
    views = len(x["s_logits"]) // images
    teacher_head = head(x, "t")
    return Lesson(
        batch=Batch(
            torch.zeros(images, views, 3, 1, 1), x["target"], [""] * images, torch.arange(images)
        ),
        student=Taps(x["s_map"], x["s_pool"], x["s_logits"]),
        teachers=(Taps(x["t_map"], x["t_pool"], x["t_logits"]),),
        adapters=nn.ModuleDict({
            "connector": bridge(x), "student_head": head(x, "s"), "teacher_head": teacher_head,
        }),
        pretext=nn.ModuleDict({"teacher_head": teacher_head}),
        class_weights=x["weight"],
    )  # fmt: skip


def values(x: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Every value of a golden file: totals and terms of the methods, relations of the losses."""
    seen = lesson(x)
    found = {name: total_loss(build_method(name).terms(seen)) for name in METHODS_OF_FILE}
    terms = build_method("ssd_kd").terms(seen)
    found |= {f"ssd_kd.{name}": terms[ours][1] for name, ours in TERMS.items()}
    mapped = seen.adapters["connector"](x["s_map"])
    found |= {
        "rkd_distance": losses.rkd_distance_loss(x["s_pool"], x["t_pool"]),
        "rkd_angle": losses.rkd_angle_loss(x["s_pool"], x["t_pool"]),
        "channel_gram": losses.channel_gram_loss(mapped, x["t_map"]),
    }
    relations = {name: terms[name] for name in ("rkd_distance", "rkd_angle", "channel_gram")}
    found["ssd_kd.dual_relational"] = total_loss(relations)
    found["stage1"] = total_loss(ViewPretext().terms(seen))
    return found


def similarity(x: Mapping[str, Tensor], who: str) -> Tensor:
    """The view similarities of "s" or "t" behind its projection head."""
    projected = head(x, who)(x[f"{who}_pool"])
    return losses.view_similarity(projected.unflatten(0, (len(x["target"]), -1)))


def selections(x: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The kept rows and the view similarities of SSD-KD."""
    views = len(x["s_logits"]) // len(x["target"])
    scores = rotated(x["t_logits"], views)
    teacher = similarity(x, "t")
    return {
        KEPT[0]: losses.kept_rows(scores, x["target"].repeat_interleave(views - 1), 1.0),
        KEPT[1]: losses.kept_rows(teacher, losses.own_images(teacher), 0.75),
        SIMILARITIES[0]: teacher,
        SIMILARITIES[1]: similarity(x, "s"),
    }


def computed(x: Mapping[str, Tensor]) -> Iterator[tuple[str, np.ndarray]]:
    """Name and array of everything a golden file has under `out.`."""
    student = [x[name] for name in STUDENT_TENSORS]
    for name, value in values(x).items():
        yield name, value.detach().numpy()
        if not value.requires_grad:
            continue
        gradients = torch.autograd.grad(
            value, student, retain_graph=True, allow_unused=True, materialize_grads=True
        )
        for tensor, gradient in zip(STUDENT_TENSORS, gradients, strict=True):
            yield f"{name}.grad.{tensor}", gradient.numpy()
    for name, chosen in selections(x).items():
        yield name, chosen.detach().numpy()


def relative_error(found: np.ndarray, golden: np.ndarray) -> float:
    """Largest difference over the largest golden number; infinite for another shape or a NaN."""
    if found.shape != golden.shape:
        return float("inf")
    if not golden.size:
        return 0.0
    difference = np.abs(found - golden).max()
    if not np.isfinite(difference):
        return float("inf")
    return float(difference / max(np.abs(golden).max(), SMALLEST_SCALE))


def errors(path: Path) -> dict[str, float]:
    """Relative error of everything in a golden file; kept rows are equal (0) or not (infinite).

    Raises:
        GoldenFileError: the file cannot be read, lacks something, or holds what is unknown here.
    """
    arrays = read(path)
    x = {name: torch.from_numpy(arrays[f"in.{name}"]) for name in INPUTS}
    x = {name: tensor.double() if name != "target" else tensor for name, tensor in x.items()}
    x |= {name: x[name].requires_grad_() for name in STUDENT_TENSORS}
    try:
        found = {f"out.{name}": array for name, array in computed(x)}
    except (RuntimeError, IndexError, ValueError) as error:
        raise GoldenFileError(f"{path}: its inputs do not fit together ({error})") from error
    golden = {name: array for name, array in arrays.items() if name.startswith("out.")}
    if found.keys() != golden.keys():
        missing = ", ".join(sorted(found.keys() - golden.keys())) or "nothing"
        unknown = ", ".join(sorted(golden.keys() - found.keys())) or "nothing"
        raise GoldenFileError(f"{path}: no golden file; missing: {missing}; unknown: {unknown}")
    result = {name: relative_error(found[name], golden[name]) for name in golden}
    for name in (f"out.{kept}" for kept in KEPT):
        result[name] = 0.0 if np.array_equal(found[name], golden[name]) else float("inf")
    return result


def main(arguments: list[str] | None = None) -> int:
    """Print every error and the verdict; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("files", nargs="+", type=Path, metavar="FILE.npz")
    files = parser.parse_args(arguments).files
    every: dict[str, float] = {}
    try:
        for path in files:
            print(f"{path}\n  {'name':<40} relative error")
            for name, error in errors(path).items():
                print(f"  {name:<40} {error:.1e}{'' if error <= BAR else '  <- above the bar'}")
                every[f"{path}: {name}"] = error
    except GoldenFileError as error:
        print(f"ERROR: {error}", file=sys.stderr)
        return 2
    worst = max(every, key=every.__getitem__)
    passed = every[worst] <= BAR
    print(
        f"{'PASS' if passed else 'FAIL'}: {len(every)} arrays in {len(files)} files; worst "
        f"relative error {every[worst]:.1e} (bar {BAR:.0e}) at {worst}"
    )
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main())
