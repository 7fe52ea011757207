"""Teachers that stay as they are: the networks of finished runs, as constants on the device."""

from collections.abc import Sequence
from pathlib import Path

import torch
from lightning_fabric import Fabric

from dermdistill.errors import ConfigError
from dermdistill.models import (
    Backbone,
    compile_frozen,
    fold_norms,
    freeze,
    load_network,
    with_norms,
)
from dermdistill.run import BEST, PROVENANCE, digest_file, digest_of, read_json
from dermdistill.runtime import in_bf16, layout
from dermdistill.types import Batch, Metadata, Taps, Widths


class FrozenTeachers:
    """All frozen teachers of a stage; none is fine.

    Args:
        runs: their run directories, in order.
        classes: the classes of the data.
        stages: whether their taps shall hold stages.
        fabric: device and number format.
        input_px: side of the images.
        norms: whether a method asks what their batch norms see; else these are folded away.
        compiled: whether they are asked as machine code. Not with `norms`, which needs a gradient.

    Raises:
        ConfigError: one knows other classes.
    """

    def __init__(
        self, runs: Sequence[Path], classes: tuple[str, ...], stages: bool, fabric: Fabric,
        input_px: int, norms: bool = False, compiled: bool = False,
    ):  # fmt: skip
        for run in runs:
            known = tuple(read_json(run / PROVENANCE)["classes"])
            if known != classes:
                raise ConfigError(
                    f"the teacher in {run} knows the classes {', '.join(known)}; the data have "
                    f"{', '.join(classes)}. Train a teacher on these data (leave teacher.run empty)"
                )
        self.runs, self.stages, self.fabric, self.input_px = runs, stages, fabric, input_px
        loaded = [load_network(run) for run in runs]
        self.networks = [
            freeze(network if norms else fold_norms(network, input_px)).to(
                fabric.device, memory_format=layout(fabric)
            )
            for network in loaded
        ]
        self.compiled, self.asked = compiled and not norms, self.networks
        if self.compiled:
            self.asked = [compile_frozen(network, in_bf16(fabric)) for network in self.networks]

    def __call__(self, batch: Batch) -> tuple[Taps, ...]:
        """Their taps on a batch's views."""
        with self.fabric.autocast():
            return ask(self.asked, batch, self.stages, layout(self.fabric))

    def warn(self, training: Metadata) -> None:
        """Warn of names of sexes and sites in training that a teacher does not know."""
        for run, network in zip(self.runs, self.networks, strict=True):
            if network.encoder is not None:
                network.encoder.warn(training, f"the teacher in {run}")

    @property
    def read_metadata(self) -> bool:
        """Whether an answer depends on metadata beside the images."""
        return any(network.encoder is not None for network in self.networks)

    def widths(self) -> list[Widths]:
        """Their sizes."""
        return [network.widths(self.input_px, self.stages) for network in self.networks]

    def key(self, precision: str) -> str:
        """The digest of all that an answer depends on beside the images."""
        return digest_of({
            "teachers": [digest_file(run / BEST) for run in self.runs],
            "stages": self.stages,
            "norms": "folded",
            "compiled": self.compiled,
            "precision": precision,
            "device": self.fabric.device.type,
            "torch": torch.__version__,
        })  # fmt: skip


def ask(
    networks: Sequence[Backbone],
    batch: Batch,
    stages: bool,
    memory_format: torch.memory_format = torch.contiguous_format,
) -> tuple[Taps, ...]:
    """The taps of frozen networks on a batch's views, without gradient to anything.

    Only where a method made the images is there one to them, and `norms` in the taps.
    """
    images = batch.for_teacher().contiguous(memory_format=memory_format)
    told = [network.given(batch.metadata) for network in networks]
    if images.requires_grad:
        return tuple(with_norms(network, images, stages) for network in told)
    with torch.no_grad():
        return tuple(network(images, stages) for network in told)
