"""What every method trains and keeps beside the student, and what its step costs.

Run: python benchmarks/methods_cost.py [METHOD ...]

CPU seconds, not wall time, so that other work on the machine hardly matters; the least of the
steps after the first. Writes src/dermdistill/methods/measured.json, which `dermdistill methods`
and docs/methods.md read; methods that are not named keep their figures.
"""

import json
import sys
import time
from functools import partial
from pathlib import Path

import torch
from torch import nn

from dermdistill.config import FitConfig, NetworkConfig
from dermdistill.methods import METHODS, Method, build_method
from dermdistill.models import Backbone, build_backbone, freeze
from dermdistill.run import write_json
from dermdistill.train import Learner
from dermdistill.train.schedule import build_optimiser
from dermdistill.train.teachers import ask
from dermdistill.types import Batch, total_loss

RESULT = Path(__file__).parents[1] / "src" / "dermdistill" / "methods" / "measured.json"
STUDENT, TEACHERS = "mobilenetv2_100", {"frozen": ["resnet50"], "several": ["resnet50", "resnet34"]}
PX, BATCH, CLASSES, TRAINING_IMAGES = 64, 8, 8, 25_331  # ISIC 2019's training set
STEPS = 3
SETTING = (
    f"{STUDENT}, taught by resnet50 (several: and resnet34), {CLASSES} classes, "
    f"{TRAINING_IMAGES:,} training images; steps of {BATCH} images at {PX} px, fp32, one core."
)
MEGABYTE, MILLION = 1e6, 1e6


def network(name: str) -> Backbone:
    """A network with random weights: cost does not depend on them."""
    return build_backbone(NetworkConfig(name, "none"), CLASSES)


def learner(method: Method, teachers: list[Backbone]) -> Learner:
    """What a stage trains, as the stages build it."""
    widths = [teacher.widths(PX, method.stages) for teacher in teachers]
    first = method.pretext()
    pretext = freeze(nn.ModuleDict(first.adapters(None, *widths))) if first else None
    labels = torch.arange(TRAINING_IMAGES) % CLASSES
    student = method.enrol(network(STUDENT), *teachers)
    peers = [network(STUDENT) for _ in range(method.peers)]
    return Learner(
        method, student, peers, widths, PX, labels, torch.arange(1.0, CLASSES + 1), pretext
    ).train()


def batch(method: Method) -> Batch:
    """Noise in the method's views."""
    images = torch.rand(BATCH, method.views.count, 3, PX, PX)
    rows = torch.arange(BATCH)
    return Batch(images, rows % CLASSES, [""] * BATCH, rows, method.views.apart)


def step_s(built: Learner, teachers: list[Backbone], method: Method) -> float:
    """CPU seconds of a step: teachers, student, terms, gradient, weights, memory.

    The dearer of the training's start and end, as some methods change their terms between.
    """
    optimiser = build_optimiser(built.parameters(), FitConfig())
    shown, dearest = batch(method), 0.0
    teach = partial(ask, teachers, stages=method.stages)
    for done_ratio in (0.0, 1.0):
        times = []
        for step in range(STEPS):
            started = time.process_time()
            loss = total_loss(built(shown, teach, done_ratio))
            optimiser.zero_grad(set_to_none=True)
            loss.backward()
            optimiser.step()
            built.after_step(step + 1)
            times.append(time.process_time() - started)
        dearest = max(dearest, min(times[1:]))
    return dearest


def beside(built: Learner, plain: int) -> dict[str, float]:
    """Trained parameters beside a plain student's, and kept numbers that nothing trains."""
    trained = sum(p.numel() for p in built.parameters() if p.requires_grad)
    kept = [*built.memory.buffers()]
    if built.average is not None:
        kept += [*built.average.parameters(), *built.average.buffers()]
    size = sum(t.numel() * t.element_size() for t in kept)
    return {"parameters_m": (trained - plain) / MILLION, "memory_mb": size / MEGABYTE}


def main(names: list[str]) -> int:
    """Measure, print, write; 0 unless a name is unknown."""
    torch.set_num_threads(1)
    known = json.loads(RESULT.read_text()) if RESULT.exists() else {"methods": {}}
    plain = sum(p.numel() for p in network(STUDENT).parameters())
    cached = {name: freeze(network(name)) for name in TEACHERS["several"]}
    for name in ["supervised", *(n for n in names or METHODS if n != "supervised")]:
        method = build_method(name)
        teachers = [cached[n] for n in TEACHERS.get(method.teacher, [])]
        built = learner(method, teachers)
        seconds = step_s(built, teachers, method)
        unit = seconds if name == "supervised" else unit
        known["methods"][name] = beside(built, plain) | {"step": round(seconds / unit, 2)}
        print(f"{name:<16} {known['methods'][name]}", flush=True)
        ordered = {n: known["methods"][n] for n in METHODS if n in known["methods"]}
        write_json(RESULT, {"setting": SETTING, "methods": ordered})
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
