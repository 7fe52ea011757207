"""Time and memory of the relational losses beside the published formulation, on one machine.

    python benchmarks/relations.py

25 distance + 50 angle + 1000 Gram, forward and backward in float32. The published form builds the
differences of all pairs [N N C], a cosine matrix for each sample [N N N] and a Gram matrix for
each view [N C C]. Times are medians of runs taken in turn. Peak memory is that of a fresh process
above what it held once the inputs were made. The last line is the verdict; exit 1 when short.
"""

import argparse
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable

import psutil
import torch
import torch.nn.functional as F
from torch import Tensor

from dermdistill.losses import channel_gram_loss, rkd_angle_loss, rkd_distance_loss

DISTANCE_WEIGHT, ANGLE_WEIGHT, GRAM_WEIGHT = 25.0, 50.0, 1000.0
LEAST_GAIN = 20.0
MOST_ERROR = 1e-5
# Gram matrices of so many views at a time fit in float64.
REFERENCE_VIEWS = 8
WARM_UP_VIEWS, WARM_UP_CHANNELS = 4, 16
# Student maps this near the teacher's: where the shorter Gram form has lost most of its digits.
NEARNESS = 1e-3
SEED = 0
MB = 2**20

Form = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]


def published_distances(embeddings: Tensor) -> Tensor:
    """Euclidean distances from the products of rows, clamped, in units of their mean."""
    squares = embeddings.square().sum(1)
    product = embeddings @ embeddings.T
    distances = (squares[:, None] + squares[None, :] - 2 * product).clamp_min(1e-12).sqrt()
    same = torch.eye(len(embeddings), dtype=torch.bool, device=embeddings.device)
    distances = distances.masked_fill(same, 0)
    return distances / distances[distances > 0].mean()


def published_angles(embeddings: Tensor) -> Tensor:
    """Cosines [N N N] from the normalised differences [N N C]."""
    directions = F.normalize(embeddings[None, :, :] - embeddings[:, None, :], dim=2)
    return torch.bmm(directions, directions.transpose(1, 2))


def published_gram(feature: Tensor) -> Tensor:
    """Channel Gram matrices [N C C] of maps [N C rows cols]."""
    flat = feature.flatten(2)
    return torch.bmm(flat, flat.transpose(1, 2)) / flat[0].numel()


def published_samples(s_pool: Tensor, t_pool: Tensor) -> Tensor:
    """The weighted relations between samples, as published."""
    with torch.no_grad():
        t_distances, t_angles = published_distances(t_pool), published_angles(t_pool)
    distance = F.smooth_l1_loss(published_distances(s_pool), t_distances)
    angle = F.smooth_l1_loss(published_angles(s_pool), t_angles)
    return DISTANCE_WEIGHT * distance + ANGLE_WEIGHT * angle


def published(s_pool: Tensor, t_pool: Tensor, s_map: Tensor, t_map: Tensor) -> Tensor:
    """The relational losses as published."""
    with torch.no_grad():
        t_gram = published_gram(t_map)
    gram = F.mse_loss(published_gram(s_map), t_gram).sqrt()
    return published_samples(s_pool, t_pool) + GRAM_WEIGHT * gram


def ours(s_pool: Tensor, t_pool: Tensor, s_map: Tensor, t_map: Tensor) -> Tensor:
    """The same through this package."""
    distance, angle = rkd_distance_loss(s_pool, t_pool), rkd_angle_loss(s_pool, t_pool)
    gram = channel_gram_loss(s_map, t_map)
    return DISTANCE_WEIGHT * distance + ANGLE_WEIGHT * angle + GRAM_WEIGHT * gram


FORMS: dict[str, Form] = {"published": published, "ours": ours}


def make_inputs(options: argparse.Namespace, views: int, channels: int) -> list[Tensor]:
    """Student and teacher embeddings and maps, non-negative as behind a ReLU."""
    generator = torch.Generator().manual_seed(SEED)
    shape = (views, channels, options.px, options.px)
    s_map, t_map = (torch.randn(shape, generator=generator).relu_() for _ in "st")
    tensors = [s_map.mean((2, 3)), t_map.mean((2, 3)), s_map, t_map]
    return [tensor.to(options.device) for tensor in tensors]


def run(form: Form, inputs: list[Tensor]) -> tuple[Tensor, Tensor, Tensor]:
    """Loss, gradient in the student's embeddings and gradient in the student's map."""
    s_pool, t_pool, s_map, t_map = inputs
    s_pool, s_map = s_pool.detach().requires_grad_(), s_map.detach().requires_grad_()
    loss = form(s_pool, t_pool, s_map, t_map)
    loss.backward()
    return loss.detach(), s_pool.grad, s_map.grad


def seconds_of(form: Form, inputs: list[Tensor]) -> tuple[float, tuple[Tensor, ...]]:
    """Seconds of one forward and backward pass, and what it returned."""
    start = time.perf_counter()
    result = run(form, inputs)
    result[0].item()  # waits for a device that works on by itself
    return time.perf_counter() - start, result


def peak_mb(name: str, options: argparse.Namespace) -> float:
    """Peak memory of one pass in a fresh process, inputs not counted."""
    command = [sys.executable, __file__, "--peak-of", name, "--views", str(options.views)]
    command += ["--channels", str(options.channels), "--px", str(options.px)]
    command += ["--device", options.device]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def print_peak(options: argparse.Namespace) -> None:
    """What the fresh process does: one small pass for the libraries' own buffers, one in full."""
    form = FORMS[options.peak_of]
    run(form, make_inputs(options, WARM_UP_VIEWS, WARM_UP_CHANNELS))
    inputs = make_inputs(options, options.views, options.channels)
    if options.device.startswith("cuda"):
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        run(form, inputs)
        print((torch.cuda.max_memory_allocated() - before) / MB)
        return
    # Resident, not the peak so far: an earlier peak can only make a form look worse.
    before = psutil.Process().memory_info().rss
    run(form, inputs)
    unit = 1 if sys.platform == "darwin" else 1024
    print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit - before) / MB)


def error_between(found: tuple[Tensor, ...], reference: tuple[Tensor, ...]) -> float:
    """Largest relative error of loss and gradients, each against its largest number."""
    pairs = zip(found, reference, strict=True)
    return max(float((a.double() - b).abs().max() / b.abs().max()) for a, b in pairs)


def reference(inputs: list[Tensor]) -> tuple[Tensor, Tensor, Tensor]:
    """The published form in float64, its Gram matrices a few views at a time to fit in memory."""
    s_pool, t_pool, s_map, t_map = inputs
    s_pool, t_pool = s_pool.double().requires_grad_(), t_pool.double()
    samples = published_samples(s_pool, t_pool)
    samples.backward()
    square, gradients = 0.0, []
    for student, teacher in zip(
        s_map.split(REFERENCE_VIEWS), t_map.split(REFERENCE_VIEWS), strict=True
    ):
        student = student.double().requires_grad_()
        part = (published_gram(student) - published_gram(teacher.double())).square().sum()
        part.backward()
        square += part.item()
        gradients.append(student.grad)
    numbers = len(s_map) * s_map.shape[1] ** 2
    root = (square / numbers) ** 0.5
    gradient = torch.cat(gradients).mul_(GRAM_WEIGHT / (2 * root * numbers))
    return samples.detach() + GRAM_WEIGHT * root, s_pool.grad, gradient


def near_teacher(inputs: list[Tensor]) -> list[Tensor]:
    """The first few views, the student's moved to just beside the teacher's."""
    s_pool, t_pool, s_map, t_map = (tensor[:REFERENCE_VIEWS] for tensor in inputs)
    return [t_pool + NEARNESS * s_pool, t_pool, t_map + NEARNESS * s_map, t_map]


def errors_of(inputs: list[Tensor], found: dict[str, tuple[Tensor, ...]]) -> dict[str, float]:
    """Errors against the published form in float64, by what was compared with it."""
    exact, near = reference(inputs), near_teacher(inputs)
    few = [tensor[:REFERENCE_VIEWS].double() for tensor in inputs]
    return {
        "published, float32": error_between(found["published"], exact),
        "ours, float32": error_between(found["ours"], exact),
        f"ours, float64, {REFERENCE_VIEWS} views": error_between(run(ours, few), reference(few)),
        f"ours, float32, {REFERENCE_VIEWS} views, student {NEARNESS:g} from teacher": error_between(
            run(ours, near), reference(near)
        ),
    }


def compare(options: argparse.Namespace) -> int:
    """Print all figures side by side and the verdict; returns the exit code."""
    print(
        f"{options.views} views, {options.channels} channels, {options.px}x{options.px}, float32 "
        f"on {options.device}, {torch.get_num_threads()} threads, {options.rounds} rounds"
    )
    peaks = {name: peak_mb(name, options) for name in FORMS}
    inputs = make_inputs(options, options.views, options.channels)
    seconds: dict[str, list[float]] = {name: [] for name in FORMS}
    found: dict[str, tuple[Tensor, ...]] = {}
    for _ in range(options.rounds):
        for name, form in FORMS.items():
            elapsed, found[name] = seconds_of(form, inputs)
            seconds[name].append(elapsed)
    errors = errors_of(inputs, found)
    medians = {name: statistics.median(times) for name, times in seconds.items()}
    gains = {}
    for what, unit, figures in (("time", "s", medians), ("peak memory", "MB", peaks)):
        gains[what] = figures["published"] / figures["ours"]
        left, right = (f"{name} {figures[name]:10.3f} {unit}" for name in FORMS)
        print(f"{what:<12} {left}   {right}   {gains[what]:7.1f} times less")
    for name in FORMS:
        print(f"all times of {name}: " + ", ".join(f"{value:.3f}" for value in seconds[name]))
    for what, error in errors.items():
        print(
            f"error of loss and gradients against the published form in float64: {error:.1e} {what}"
        )
    worst = max(error for what, error in errors.items() if what.startswith("ours"))
    passed = min(gains.values()) >= LEAST_GAIN and worst <= MOST_ERROR
    print(
        f"{'PASS' if passed else 'FAIL'}: {gains['time']:.1f} times faster, "
        f"{gains['peak memory']:.1f} times less peak memory (bar {LEAST_GAIN:g}), "
        f"relative error {worst:.1e} (bar {MOST_ERROR:g})"
    )
    return 0 if passed else 1


def main(arguments: list[str] | None = None) -> int:
    """Parse the options and compare; with --peak-of, measure one form in this process."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--views", type=int, default=128)
    parser.add_argument("--channels", type=int, default=2048)
    parser.add_argument("--px", type=int, default=7, help="rows and columns of a map")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--peak-of", choices=FORMS, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.peak_of:
        print_peak(options)
        return 0
    return compare(options)


if __name__ == "__main__":
    sys.exit(main())
