"""Whether two processes with half a batch each compute the loss and gradients of one with all.

    python benchmarks/parallel.py [--images 32] [--methods NAME ...]

Starts itself twice under torchrun (gloo, on this machine's processor). Every method, with timm's
test networks and everything that a stage trains with, does two steps of SGD in one process on the
whole batch, and in two processes on half of it each, with batch norm, memories and moving averages
in play. Each step begins in the same state, which the one process reached, after what the two
reached was compared with it: weights, averages, memories and running statistics. Bar, for every
name in METHODS and the pretext: loss, whole gradient and whole state differ by less than 1e-5 of
themselves in fp32. In float64, where rounding has no say, by less than 1e-10.

Beside it stands what fp32 itself is worth: how far the one process's gradient in fp32 is from its
own in float64. Where that is more than the bar, two orders of the same sums can be as far apart.
"""

import argparse
import os
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from dermdistill.methods import METHODS, build_method
from dermdistill.methods.view_pretext import ViewPretext
from dermdistill.models.norm import globalise
from dermdistill.runtime import start_fabric, under_torchrun
from dermdistill.train.parallel import own_share
from dermdistill.types import total_loss
from method_contract import MOMENTS, Classroom, classroom

PROCESSES, STEPS, LR, SEED = 2, 2, 1e-3, 11
BARS = {torch.float32: 1e-5, torch.float64: 1e-10}
PRETEXT = "pretext"


def room_of(name: str, count: int, dtype: torch.dtype) -> Classroom:
    """A method with all that it needs, in one number format; always the same weights."""
    method = ViewPretext() if name == PRETEXT else build_method(name)
    room = classroom(method, student=name != PRETEXT, count=count)
    if name == PRETEXT:
        room.teachers = classroom(build_method("ssd_kd"), count=count).teachers
    for module in filter(None, (room.learner, room.pretext, *room.teachers)):
        module.to(dtype)
    room.batch = room.batch._replace(images=room.batch.images.to(dtype))
    return room


def share(room: Classroom, rank: int) -> Classroom:
    """The same room with one process's part of its batch, and batch norm over all of them."""
    batch = room.batch
    own = own_share(torch.arange(len(batch.target)).numpy(), rank, PROCESSES)
    room.batch = batch._replace(
        images=batch.images[own], target=batch.target[own], rows=batch.rows[own],
        ids=[batch.ids[i] for i in own],
    )  # fmt: skip
    for network in filter(None, (room.learner.student, *room.learner.peers)):
        globalise(network)
    return room


def step(room: Classroom, learner, backward, number: int, common: int | None) -> dict[str, Tensor]:
    """A step's loss and gradients, summed over the moments of a training; then SGD."""
    parameters, losses = room.trained(), []
    for moment in MOMENTS:
        torch.manual_seed(SEED)  # nothing but terms draws here
        loss = total_loss(learner(room.batch, room.teach, moment, common))
        backward(loss)
        losses.append(loss.detach())
    with torch.no_grad():
        gradient = {name: p.grad.clone() for name, p in parameters.items() if p.grad is not None}
        for name, value in gradient.items():
            parameters[name] -= LR * value
            parameters[name].grad = None
    room.learner.after_step(number)
    return gradient | {"loss": torch.stack(losses)}


def apart(found: dict[str, Tensor], expected: dict[str, Tensor]) -> float:
    """The distance of all tensors from what is expected, relative to that; integers are equal."""
    assert found.keys() == expected.keys()
    whole = [name for name, value in expected.items() if not value.is_floating_point()]
    assert all(found[name].equal(expected[name]) for name in whole)
    pairs = [(found[name].double(), expected[name].double())
             for name in expected if name not in whole]  # fmt: skip
    size = sum(float(value.square().sum()) for _, value in pairs)
    return (sum(float((one - value).square().sum()) for one, value in pairs) / size) ** 0.5


class Measured(NamedTuple):
    """The largest relative differences over the steps; and the one process's gradients."""

    loss: float
    gradient: float
    state: float
    gradients: list[dict[str, Tensor]]


def difference(name: str, count: int, dtype: torch.dtype, fabric) -> Measured:
    """Two processes against one in one number format."""
    whole, shared = room_of(name, count, dtype), room_of(name, count, dtype)
    shared = share(shared, fabric.global_rank)
    wrapped = fabric.setup_module(shared.learner, move_to_device=False)
    loss, gradient, state, gradients = 0.0, 0.0, 0.0, []
    for number in range(1, STEPS + 1):
        one = step(whole, whole.learner, torch.Tensor.backward, number, None)
        two = step(shared, wrapped, fabric.backward, number, SEED)
        losses = one.pop("loss"), two.pop("loss")
        loss = max(loss, float(((losses[1] - losses[0]) / losses[0]).abs().max()))
        gradient = max(gradient, apart(two, one))
        state = max(state, apart(shared.learner.state_dict(), whole.learner.state_dict()))
        shared.learner.load_state_dict(whole.learner.state_dict())
        gradients.append(one)
    return Measured(loss, gradient, state, gradients)


def measure(names: list[str], count: int) -> int:
    """What each of the two processes does; the first prints."""
    torch.set_num_threads(1)
    fabric, short = start_fabric("fp32", "cpu"), []
    assert fabric.world_size == PROCESSES
    for name in names:
        found = {dtype: difference(name, count, dtype, fabric) for dtype in BARS}
        if any(max(found[dtype][:3]) >= bar for dtype, bar in BARS.items()):
            short.append(name)
        rounded = max(map(apart, *(found[dtype].gradients for dtype in BARS)))
        fabric.print(f"{name:<16} " + ", ".join(
            f"{str(dtype)[6:]} loss {m.loss:.1e} gradient {m.gradient:.1e} state {m.state:.1e}"
            for dtype, m in found.items()
        ) + f"; fp32 itself {rounded:.1e}", flush=True)  # fmt: skip
    same = len(names) - len(short)
    fabric.print(f"{'SHORT' if short else 'met'}: {same} of {len(names)} methods alike in "
                 f"{PROCESSES} processes and one, {count} images"
                 + (f"; not {', '.join(short)}" if short else ""), flush=True)  # fmt: skip
    return 1 if short else 0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=32, help="of the whole batch")
    parser.add_argument("--methods", nargs="+", default=[*METHODS, PRETEXT])
    arguments = parser.parse_args()
    if under_torchrun():
        return measure(arguments.methods, arguments.images)
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node",
                str(PROCESSES)]  # fmt: skip
    return subprocess.run(
        [*launcher, *sys.argv], check=False, env=os.environ | {"OMP_NUM_THREADS": "1"}
    ).returncode


if __name__ == "__main__":
    sys.exit(main())
