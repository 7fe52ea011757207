"""NCNN for phones, through pnnx: one image at a time, float32 planes from 0 to 255."""

import subprocess
import tempfile
from pathlib import Path

import pnnx
import torch
from torch import Tensor, nn

from dermdistill.errors import RunError
from dermdistill.export.subject import Subject

PACKAGES = ("pnnx", "ncnn")


class Planes(nn.Module):
    """The graph for images in planes, [1 3 rows cols], as NCNN and Core ML hold them."""

    def __init__(self, graph: nn.Module):
        super().__init__()
        self.deployed = graph  # torch.fx has an attribute `graph` of its own

    def forward(self, pixels: Tensor) -> tuple[Tensor, ...]:
        """As the graph."""
        return self.deployed(pixels.permute(0, 2, 3, 1))


def convert(subject: Subject) -> dict[str, bytes]:
    """The graph as NCNN's two files."""
    example = torch.zeros(1, 3, subject.px, subject.px)
    traced = torch.jit.trace(Planes(subject.graph).eval(), (example,))
    shape = ",".join(map(str, example.shape))
    with tempfile.TemporaryDirectory() as folder:
        traced.save(f"{folder}/model.pt")
        # The program itself: pnnx's Python side prints all that it does.
        command = [pnnx.EXEC_PATH, "model.pt", f"inputshape=[{shape}]f32", "fp16=0"]
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
        made = {kind: Path(folder) / f"model.ncnn.{kind}" for kind in ("param", "bin")}
        if done.returncode or not all(path.exists() for path in made.values()):
            raise RunError(f"pnnx cannot convert {subject.origin['network']}: "
                           f"{(done.stderr or done.stdout)[-300:]}")  # fmt: skip
        return {f"model.{kind}": path.read_bytes() for kind, path in made.items()}
