"""A finished run with what it was made from: its network, its images, its device."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int64
from lightning_fabric import Fabric

from dermdistill.config import Config, load_config
from dermdistill.data.dataset import Dataset, Part, open_dataset
from dermdistill.errors import RunError
from dermdistill.evaluate.groups import units_of
from dermdistill.models import Backbone, freeze, load_network
from dermdistill.run import CONFIG, METRICS, PROVENANCE, read_json
from dermdistill.runtime import start_fabric


@dataclass(frozen=True, eq=False)
class OpenedRun:
    """A finished run, ready to be asked.

    Args:
        folder: the run directory.
        origin: its provenance.
        config: the config that it was trained with.
        data: the images that it was trained and judged on, proved by digest.
        network: its best network, frozen, on the device.
        fabric: device and number format of its config.
    """

    folder: Path
    origin: dict[str, Any]
    config: Config
    data: Dataset
    network: Backbone
    fabric: Fabric

    @property
    def teacher_folder(self) -> Path | None:
        """The run directory of who taught it; None where nobody did."""
        named = self.origin["teacher_run"]
        return None if named is None else (self.folder / named).resolve()

    def units(self, part: Part) -> Int64[np.ndarray, " images"]:
        """Code of the lesion, or patient where known, that each image of a part is of, from 0."""
        table = self.data.table
        return units_of(table.frame.iloc[table.rows(part.ids)])

    def teacher(self) -> Backbone | None:
        """Who taught it, frozen, on the device; None where nobody did.

        Raises:
            RunError: the teacher's run is gone or broken.
        """
        folder = self.teacher_folder
        return None if folder is None else freeze(load_network(folder)).to(self.fabric.device)


def open_run(run: Path, progress: bool = True) -> OpenedRun:
    """Open a finished run of a network, on the images of its own config.

    Args:
        run: the run directory.
        progress: show a bar while images are decoded, if they are not yet.

    Raises:
        RunError: it is no finished run of a network, or its data are others now.
        DataError: the images cannot be read.
    """
    read_json(run / METRICS)
    origin, config = read_json(run / PROVENANCE), load_config(run / CONFIG)
    if origin["stage"] == "pretext":
        raise RunError(f"{run} is a pretext stage, which has no network; pass the student's run")
    store = Path(origin["store"]["folder"])
    # The store that the run was trained on, wherever the run has been copied to since.
    here = replace(config.data, store=str(store)) if store.is_dir() else config.data
    data = open_dataset(here, Path(config.output), progress)
    if data.identity != origin["key"]["data"]:
        raise RunError(
            f"{run} was trained on other images or another split: its digests are "
            f"{origin['key']['data']}, today's are {data.identity}. Restore the data it names, or "
            "train anew"
        )
    known = origin["key"].get("metadata")
    if known is not None and known != data.table.metadata_digest:
        raise RunError(
            f"{run} was trained with other ages, sexes or sites (digest {known}, today's is "
            f"{data.table.metadata_digest}); restore the data it names, or train anew"
        )
    fabric = start_fabric(config.precision, config.device)
    network = freeze(load_network(run)).to(fabric.device)
    return OpenedRun(run, origin, config, data, network, fabric)
