"""Compare this package's losses with golden values of the official SSD-KD code.

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
import torch.nn.functional as F
from torch import Tensor

from dermdistill import losses

BAR = 1e-6
# An array whose largest number is below this is compared absolutely: its digits are rounding.
SMALLEST_SCALE = 1e-10
STUDENT_TENSORS = ("s_map", "s_pool", "s_logits")
INPUTS = (
    *("target", "weight", *STUDENT_TENSORS, "t_map", "t_pool", "t_logits"),
    *("conv_w", "conv_b", "bn_w", "bn_b"),
    *(f"{who}_head{layer}_{kind}" for who in "st" for layer in "12" for kind in "wb"),
)
TERMS = ("wce", "kd_normal", "kd_rotated", "ss", "dual_relational")
KEPT = ("ssd_kd.keep_rotated", "ssd_kd.keep_ss")
SIMILARITIES = ("ssd_kd.teacher_similarity", "ssd_kd.student_similarity")
BATCH_NORM_EPS = 1e-5


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


def connector(x: Mapping[str, Tensor]) -> Tensor:
    """The student's map in the teacher's shape: convolution, batch norm, ReLU.

    The convolution halves or doubles the map where that fits, else it is a valid one, 1x1 for maps
    of equal size.
    """
    size, wanted = x["s_map"].shape[-1], x["t_map"].shape[-1]
    weights = x["conv_w"], x["conv_b"]
    if size * 2 == wanted:
        feature = F.conv_transpose2d(x["s_map"], *weights, stride=2, padding=1)
    elif size == wanted * 2:
        feature = F.conv2d(x["s_map"], *weights, stride=2, padding=1)
    else:
        feature = F.conv2d(x["s_map"], *weights)
    feature = F.batch_norm(
        feature, None, None, x["bn_w"], x["bn_b"], training=True, eps=BATCH_NORM_EPS
    )
    return feature.relu()


def project(x: Mapping[str, Tensor], who: str) -> Tensor:
    """Embeddings [images views width] behind the projection head of "s" or "t"."""
    hidden = F.linear(x[f"{who}_pool"], x[f"{who}_head1_w"], x[f"{who}_head1_b"]).relu()
    projected = F.linear(hidden, x[f"{who}_head2_w"], x[f"{who}_head2_b"])
    return projected.unflatten(0, (len(x["target"]), -1))


def values(x: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Every loss of a golden file, with the official code's weights and temperatures."""
    views = len(x["s_logits"]) // len(x["target"])
    target_of_views = x["target"].repeat_interleave(views)
    wce = losses.cross_entropy_loss(x["s_logits"], target_of_views, x["weight"])
    kd = losses.kd_loss(x["s_logits"], x["t_logits"], temperature=5.0)
    mapped = connector(x)
    distance = losses.rkd_distance_loss(x["s_pool"], x["t_pool"])
    angle = losses.rkd_angle_loss(x["s_pool"], x["t_pool"])
    gram = losses.channel_gram_loss(mapped, x["t_map"])
    relations = 25 * distance + 50 * angle
    found = {
        "kd": 0.5 * wce + 0.5 * kd,
        "fitnet": losses.feature_mse_loss(mapped, x["t_map"]) + 0.01 * wce,
        "rkd": relations + 3 * wce,
        "d_kd": 0.5 * wce + 0.5 * kd + relations + 1000 * gram,
        "rkd_distance": distance,
        "rkd_angle": angle,
        "channel_gram": gram,
    }
    terms = view_terms(x, views) | {"dual_relational": relations + 1000 * gram}
    weights = {"wce": 0.1, "kd_normal": 0.9, "kd_rotated": 2.7, "ss": 10.0, "dual_relational": 1.0}
    found["ssd_kd"] = sum(weights[name] * terms[name] for name in TERMS)
    found |= {f"ssd_kd.{name}": terms[name] for name in TERMS}
    found["stage1"] = losses.view_contrast_loss(losses.view_similarity(project(x, "t")))
    return found


def view_terms(x: Mapping[str, Tensor], views: int) -> dict[str, Tensor]:
    """SSD-KD's terms that tell upright from rotated views."""
    student, teacher = (x[name].unflatten(0, (-1, views)) for name in ("s_logits", "t_logits"))
    return {
        "wce": losses.cross_entropy_loss(student[:, 0], x["target"], x["weight"]),
        "kd_normal": losses.kd_loss(student[:, 0], teacher[:, 0], temperature=4.0),
        "kd_rotated": losses.trusted_kd_loss(
            student[:, 1:].flatten(0, 1),
            teacher[:, 1:].flatten(0, 1),
            x["target"].repeat_interleave(views - 1),
            temperature=4.0,
            keep_ratio=1.0,
        ),
        "ss": losses.view_kd_loss(
            losses.view_similarity(project(x, "s")),
            losses.view_similarity(project(x, "t")),
            temperature=0.5,
            keep_ratio=0.75,
        ),
    }


def selections(x: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The kept rows and the view similarities of SSD-KD."""
    views = len(x["s_logits"]) // len(x["target"])
    rotated = x["t_logits"].unflatten(0, (-1, views))[:, 1:].flatten(0, 1)
    similarity = losses.view_similarity(project(x, "t"))
    return {
        KEPT[0]: losses.kept_rows(rotated, x["target"].repeat_interleave(views - 1), 1.0),
        KEPT[1]: losses.kept_rows(similarity, losses.own_images(similarity), 0.75),
        SIMILARITIES[0]: similarity,
        SIMILARITIES[1]: losses.view_similarity(project(x, "s")),
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
