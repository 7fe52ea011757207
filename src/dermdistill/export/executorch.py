"""ExecuTorch for phones, through XNNPACK: one image at a time, pixels as float32 from 0 to 255."""

import torch
from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
from executorch.exir import to_edge_transform_and_lower
from torch.export import ExportedProgram, export

from dermdistill.export.subject import Subject

PACKAGES = ("executorch",)


def convert(subject: Subject) -> dict[str, bytes]:
    """The graph as a .pte program in fp32."""
    return lower(export(subject.graph, (example(subject),)))


def example(subject: Subject) -> torch.Tensor:
    """What the program takes."""
    return torch.zeros(1, subject.px, subject.px, 3)


def lower(program: ExportedProgram) -> dict[str, bytes]:
    """An exported program with all that XNNPACK can do given to it."""
    edge = to_edge_transform_and_lower(program, partitioner=[XnnpackPartitioner()])
    return {"model.pte": bytes(edge.to_executorch().buffer)}
