"""What is exported: a run's network as a graph, images to compare on, images to fit 8 bits to."""

import copy
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import UInt8

from dermdistill.bundle.decision import Decision
from dermdistill.bundle.runtimes import Answers
from dermdistill.config import load_config
from dermdistill.data.dataset import Dataset, open_dataset
from dermdistill.errors import DermdistillError, RunError
from dermdistill.evaluate.ood.prototypes import load_prototypes
from dermdistill.export.graph import WHITE, DeployedGraph
from dermdistill.models import fit_to_8_bits, load_network, merge_branches
from dermdistill.run import CONFIG, PROVENANCE, read_json

PARITY_IMAGES = 64
FITTING_IMAGES_PER_CLASS = 32


@dataclass(frozen=True, eq=False)
class Subject:
    """A finished run as the converters see it.

    Args:
        run: the run directory.
        origin: its provenance.
        decision: what was fitted to its outputs.
        graph: its network between pixels and probabilities, in evaluation mode.
    """

    run: Path
    origin: dict[str, Any]
    decision: Decision
    graph: DeployedGraph

    @classmethod
    def of(cls, run: Path) -> "Subject":
        """Load a run.

        Raises:
            RunError: it is not finished, its weights do not fit its provenance, or its network
                reads metadata.
        """
        origin, decision = read_json(run / PROVENANCE), Decision.of(run)
        if origin.get("metadata") is not None:
            raise RunError(
                f"the network of {run} reads age, sex and site beside the image, and what is "
                "exported takes images alone. Teach a student that needs none: "
                f"dermdistill distill --teacher.run {run}"
            )
        temperature = decision.calibration.temperature if decision.calibration else 1.0
        prototypes = load_prototypes(run) if decision.ood else None
        network = load_network(run)
        if not origin["network_config"].get("int8"):  # else its branches have grids of their own
            network = merge_branches(network, origin["input_px"])
        graph = DeployedGraph(network, origin["input_px"], temperature, prototypes)
        return cls(run, origin, decision, graph.eval())

    @property
    def px(self) -> int:
        """Side of the square images."""
        return self.graph.input_px

    @cached_property
    def map_px(self) -> int | None:
        """Rows and columns of the class maps; None where the network has no exact ones."""
        if self.graph.class_maps is None:
            return None
        return self.graph.network.widths(self.px).map_px

    @cached_property
    def rounded(self) -> DeployedGraph:
        """The graph with channels and weights that 8 bits hold well, for all 8-bit formats.

        Depthwise convolutions, those on fine maps and the heads on the last one keep their weights:
        no format rounds them. A network that was trained in 8 bits is such a one already.
        """
        if self.origin["network_config"].get("int8"):
            return self.graph
        graph = copy.deepcopy(self.graph)
        images = torch.from_numpy(self.fitting_pixels()).permute(0, 3, 1, 2).float() / WHITE
        fit_to_8_bits(graph.network, images)
        return graph

    @cached_property
    def dataset(self) -> Dataset | None:
        """The run's own images; None where they are gone or others now."""
        config = load_config(self.run / CONFIG)
        try:
            data = open_dataset(config.data, Path(config.output), progress=False)
        except DermdistillError:
            return None
        return data if data.identity == self.origin["key"]["data"] else None

    def held_out(self, count: int = PARITY_IMAGES) -> tuple[UInt8[np.ndarray, "n px px 3"], str]:
        """Pixels to compare on, and what they are: test images, or noise where they are gone."""
        if self.dataset is None:
            generator = np.random.default_rng(0)
            return generator.integers(0, 256, (count, self.px, self.px, 3), np.uint8), "noise"
        test = self.dataset.test
        return test.pixels(np.arange(min(count, len(test)))).numpy(), "test images"

    def fitting_pixels(
        self, per_class: int = FITTING_IMAGES_PER_CLASS
    ) -> UInt8[np.ndarray, "n px px 3"]:
        """Training images to fit 8 bits to: as many of each class, as channels of rare ones count.

        Raises:
            RunError: the training images are gone.
        """
        if self.dataset is None:
            raise RunError(
                f"the training images of {self.run} are gone or others now, and int8 must see some "
                f"to fit its weights to; restore the data that its {CONFIG} names"
            )
        train, generator = self.dataset.train, np.random.default_rng(0)
        chosen = [
            generator.permutation(np.flatnonzero(train.labels == label))[:per_class]
            for label in range(len(self.dataset.classes))
        ]
        return train.pixels(np.concatenate(chosen)).numpy()

    @torch.no_grad()
    def answers(self, pixels: UInt8[np.ndarray, "n px px 3"]) -> Answers:
        """Torch's own answers in fp32: what every export is compared with."""
        outputs = [
            [tensor.numpy() for tensor in self.graph(torch.tensor(batch))]
            for batch in np.array_split(pixels, max(1, len(pixels) // PARITY_IMAGES))
        ]
        columns = [np.concatenate(column) for column in zip(*outputs, strict=True)]
        absent = dict.fromkeys(Answers._fields)
        return Answers(**absent | dict(zip(self.graph.output_names, columns, strict=True)))
