"""Teachers that stay as they are: the networks of finished runs, as constants on the device."""

from collections.abc import Sequence
from pathlib import Path

import torch
from lightning_fabric import Fabric

from dermdistill.errors import ConfigError
from dermdistill.models import fold_norms, freeze, load_network
from dermdistill.run import BEST, PROVENANCE, digest_file, digest_of, read_json
from dermdistill.runtime import layout
from dermdistill.types import Batch, Taps, Widths


class FrozenTeachers:
    """All frozen teachers of a stage; none is fine.

    Args:
        runs: their run directories, in order.
        classes: the classes of the data.
        stages: whether their taps shall hold stages.
        fabric: device and number format.
        input_px: side of the images.

    Raises:
        ConfigError: one knows other classes.
    """

    def __init__(
        self, runs: Sequence[Path], classes: tuple[str, ...], stages: bool, fabric: Fabric,
        input_px: int,
    ):  # fmt: skip
        for run in runs:
            known = tuple(read_json(run / PROVENANCE)["classes"])
            if known != classes:
                raise ConfigError(
                    f"the teacher in {run} knows the classes {', '.join(known)}; the data have "
                    f"{', '.join(classes)}. Train a teacher on these data (leave teacher.run empty)"
                )
        self.runs, self.stages, self.fabric, self.input_px = runs, stages, fabric, input_px
        self.networks = [
            freeze(fold_norms(load_network(run), input_px)).to(
                fabric.device, memory_format=layout(fabric)
            )
            for run in runs
        ]

    @torch.no_grad()
    def __call__(self, batch: Batch) -> tuple[Taps, ...]:
        """Their taps on a batch's views."""
        images = batch.for_teacher().contiguous(memory_format=layout(self.fabric))
        with self.fabric.autocast():
            return tuple(network(images, self.stages) for network in self.networks)

    def widths(self) -> list[Widths]:
        """Their sizes."""
        return [network.widths(self.input_px, self.stages) for network in self.networks]

    def key(self, precision: str) -> str:
        """The digest of all that an answer depends on beside the images."""
        return digest_of({
            "teachers": [digest_file(run / BEST) for run in self.runs],
            "stages": self.stages,
            "norms": "folded",
            "precision": precision,
            "device": self.fabric.device.type,
            "torch": torch.__version__,
        })  # fmt: skip
