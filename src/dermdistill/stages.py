"""A stage of a distillation: what it trains, and its run directory.

A stage's directory is named by the digest of all that its result depends on, so a finished stage
is found again by whoever asks for the same, and never by anyone who asks for something else.
"""

import sys
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from lightning_fabric import Fabric
from torch import nn

from dermdistill.bundle.decision import write_decision
from dermdistill.bundle.manifest import Ood
from dermdistill.config import Config, FitConfig, NetworkConfig, TeacherConfig, to_dict
from dermdistill.data.dataset import Dataset, open_dataset
from dermdistill.data.views import upright_view
from dermdistill.errors import ConfigError
from dermdistill.evaluate.ood.prototypes import write_prototypes
from dermdistill.evaluate.score import score
from dermdistill.methods import Method, build_method
from dermdistill.models import (
    Backbone,
    MetadataEncoder,
    build_backbone,
    compile_learning,
    fit_to_8_bits,
    freeze,
    load_best,
    load_network,
    spread,
)
from dermdistill.run import (
    BEST,
    CONFIG,
    METRICS,
    PROVENANCE,
    digest_file,
    digest_of,
    lock,
    provenance,
    read_json,
    sweep,
    write_json,
    write_text,
)
from dermdistill.runtime import seed_step, start_fabric
from dermdistill.train import Learner, Trainer
from dermdistill.train.checkpoint import delete_checkpoints
from dermdistill.train.schedule import class_weights
from dermdistill.train.teacher_cache import TeacherCache
from dermdistill.train.teachers import FrozenTeachers
from dermdistill.types import Metadata, Widths

SHOWN_DIGITS = 10  # of a digest in a directory's name
FITTING_IMAGES = 256  # training images that 8 bits are fitted to, as many as an export takes
TEACHER_CACHE = "teacher-cache"  # beside the run directories; safe to delete


@dataclass(frozen=True)
class Stage:
    """One training with a result of its own.

    Args:
        kind: "teacher", "pretext" or "student".
        title: what the directory's name says beside the kind.
        network: what is trained; for a pretext the frozen teacher's.
        method: how.
        fit: how long, how fast.
        upstream: run directories that it builds on, by kind.
    """

    kind: str
    title: str
    network: NetworkConfig
    method: Method
    fit: FitConfig
    upstream: dict[str, Path]

    def key(self, config: Config, data: Dataset) -> dict[str, Any]:
        """All that the result depends on, as plain values."""
        start, network = Path(self.network.weights), to_dict(self.network)
        for setting, usual in (("metadata", "none"), ("prune_ratio", 0.0), ("int8", False)):
            if network[setting] == usual:
                del network[setting]  # so that runs made before there was a choice are found
        for file in (start, start / BEST):
            if file.is_file():
                network["weights"] = digest_file(file)
        known = self.reads_metadata or any(map(_reads_metadata, self.upstream.values()))
        shards = config.data.shuffle_shards
        return {
            "kind": self.kind,
            "network": network,
            "method": [self.title if self.kind == "student" else self.kind, asdict(self.method)],
            "fit": to_dict(self.fit),
            "views": to_dict(config.views),
            "seed": config.seed,
            "precision": config.precision,
            "validation_fold": config.data.validation_fold,
            "data": data.identity,
            "upstream": {k: digest_file(v / BEST) for k, v in sorted(self.upstream.items())},
            **({"metadata": data.table.metadata_digest} if known else {}),
            **({"shuffle_shards": shards} if shards else {}),
            **({"compile_teacher": True} if config.compile_teacher and self.upstream else {}),
            **({"compile_student": True} if self.is_compiled(config) else {}),
        }

    def is_compiled(self, config: Config) -> bool:
        """Whether what it trains is computed by kernels made for the purpose."""
        return config.compile_student and self.kind == "student"

    @property
    def reads_metadata(self) -> bool:
        """Whether its network reads age, sex and site beside the image."""
        return self.network.metadata != "none"


def _reads_metadata(run: Path) -> bool:
    """Whether a run's network does."""
    return read_json(run / PROVENANCE).get("metadata") is not None


class Bench:
    """The data and the device of one call, and the stages worked on them."""

    def __init__(self, config: Config, progress: bool, resume: bool, wait: bool):
        self.fabric = start_fabric(config.precision, config.device)
        self.first = self.fabric.global_rank == 0
        self.config, self.resume, self.wait = config, resume, wait
        self.progress = progress and self.first
        with self.fabric.rank_zero_first():  # the others find the images decoded
            self.data = open_dataset(config.data, Path(config.output), self.progress)

    def teachers(self, configs: list[TeacherConfig]) -> dict[str, Path]:
        """The run directories of all frozen teachers, in order, by the name of their place."""
        runs = [self.teacher(config) for config in configs]
        twice = [str(run) for index, run in enumerate(runs) if run in runs[:index]]
        if twice:
            raise ConfigError(f"teachers names {twice[0]} twice; every teacher must be another run")
        return {_place(index): run for index, run in enumerate(runs)}

    def teacher(self, config: TeacherConfig) -> Path:
        """The run directory of one teacher, given or trained."""
        if config.run:
            return Path(config.run)
        return self.run(Stage("teacher", config.network.name, config.network,
                              build_method("supervised"), config.fit, {}))  # fmt: skip

    def run(self, stage: Stage) -> Path:
        """The stage's run directory, trained and scored if it was not."""
        key = stage.key(self.config, self.data)
        name = f"{stage.kind}-{stage.title}-{digest_of(key)[:SHOWN_DIGITS]}"
        folder = Path(self.config.output) / name
        if self._is_finished(folder):
            if self.progress:
                print(f"{stage.kind}: found finished in {folder}", file=sys.stderr)
            return folder
        folder.mkdir(parents=True, exist_ok=True)
        with lock(folder, wait=self.wait) if self.first else nullcontext():
            if not self._is_finished(folder):  # by another command, just before the lock
                if self.first:
                    self._prepare(stage, folder, key)
                self.fabric.barrier()
                self._train(stage, folder)
        self.fabric.barrier()
        return folder

    def _is_finished(self, folder: Path) -> bool:
        """Whether a stage is trained and scored; the same answer in all processes."""
        return self.fabric.broadcast((folder / METRICS).exists())

    def _prepare(self, stage: Stage, folder: Path, key: dict[str, Any]) -> None:
        """Leave in the directory what the run starts from, and nothing else."""
        sweep(folder)
        if not self.resume:
            delete_checkpoints(folder)
        _write_origin(folder, stage, self.config, self.data, key)

    def _train(self, stage: Stage, folder: Path) -> None:
        trainer = _trainer(stage, self.config, self.data, self.fabric, folder, self.progress)
        state = trainer.run()
        if not self.first:
            return
        if stage.kind == "pretext":
            metrics = {"validation": {"loss": state.best_figure}}
        else:
            network = load_network(folder)
            metrics = score(network, self.data, folder, self.fabric, self.config.evaluation)
            decide(folder, network, self.config, self.data, self.fabric)
        write_json(folder / METRICS, metrics | {
            "selected_epoch": state.best_epoch, "epochs": state.epoch, "steps": state.step,
            "wall_s": state.wall_s,
        })  # fmt: skip
        delete_checkpoints(folder)


def decide(run: Path, network: Backbone, config: Config, data: Dataset, fabric: Fabric) -> None:
    """How a scored network's outputs become answers."""
    found = write_prototypes(network, data, run, fabric, config.seed)
    write_decision(run, config.evaluation, Ood(**found))


def _place(index: int) -> str:
    """The name of a teacher's place among a stage's upstream runs."""
    return f"teacher_{index + 1}" if index else "teacher"


def _write_origin(
    folder: Path, stage: Stage, config: Config, data: Dataset, key: dict[str, Any]
) -> None:
    """The resolved config and the provenance, before step 1."""
    encoder = _encoder(stage, data)
    write_text(folder / CONFIG, yaml.safe_dump(to_dict(config), sort_keys=False))
    runs = {f"{kind}_run": Path("..", run.name) if run.parent == folder.parent else run.resolve()
            for kind, run in stage.upstream.items()}  # fmt: skip
    write_json(folder / PROVENANCE, provenance(
        config.seed,
        stage=stage.kind,
        method=stage.title if stage.kind == "student" else type(stage.method).__name__.lower(),
        hyper_parameters=asdict(stage.method),
        network=stage.network.name,
        network_config=to_dict(stage.network),
        metadata=encoder and encoder.to_dict(),
        classes=list(data.classes),
        input_px=data.store.px,
        crop=data.store.crop,
        store={"folder": str(data.store.folder.resolve()), "digest": data.store.digest},
        split={"digest": data.split.digest, "protocol": data.split.protocol,
               "validation_fold": config.data.validation_fold},
        images={part: len(getattr(data, part)) for part in ("train", "validation", "test")},
        key=key,
        **{"teacher_run": None, "pretext_run": None} | {k: str(v) for k, v in runs.items()},
    ))  # fmt: skip


def _trainer(
    stage: Stage, config: Config, data: Dataset, fabric: Fabric, folder: Path, progress: bool
) -> Trainer:
    """Everything a stage trains with, built from its seed."""
    seed_step(config.seed, "init", stage.kind)
    method, px, classes = stage.method, data.store.px, len(data.classes)
    runs = [run for place, run in stage.upstream.items() if place.startswith("teacher")]
    teachers = FrozenTeachers(
        runs, data.classes, method.stages, fabric, px, method.norms, config.compile_teacher
    )
    teachers.warn(data.train.metadata)
    widths = teachers.widths()
    network, encoder = None, _encoder(stage, data)
    if stage.kind != "pretext":
        network = method.enrol(build_backbone(stage.network, classes, encoder), *teachers.networks)
        if network.int8:
            _start_in_8_bits(network, data)
    peers = [build_backbone(stage.network, classes, encoder) for _ in range(method.peers)]
    counts = torch.from_numpy(np.bincount(data.train.labels, minlength=classes))
    learner = Learner(
        method, network, peers, widths, px, torch.from_numpy(data.train.labels),
        class_weights(counts, stage.fit.class_weight_power), _frozen_pretext(stage, widths, fabric),
    )  # fmt: skip
    if stage.is_compiled(config):
        compile_learning(learner)
    trainer = Trainer(
        learner=learner, teach=teachers, data=data, config=stage.fit, views=config.views,
        seed=config.seed, fabric=fabric, folder=folder, stage=stage.kind, shown=progress,
    )  # fmt: skip
    if config.cache_teacher and runs:
        answers = folder.parent / TEACHER_CACHE / teachers.key(config.precision)[:SHOWN_DIGITS]
        trainer.teach = TeacherCache(
            teachers, answers, trainer.schedule.total, teachers.read_metadata
        )
    return trainer


def _start_in_8_bits(network: Backbone, data: Dataset) -> None:
    """Give a network channels and weights as an 8-bit export does, to go on from there."""
    rows = np.arange(len(data.train))
    images = upright_view(data.train.pixels(rows[spread(len(rows), FITTING_IMAGES)]))
    fit_to_8_bits(network.eval().given(Metadata.missing(1)), images)


def _encoder(stage: Stage, data: Dataset) -> MetadataEncoder | None:
    """How the network that a stage trains is told of patients; None where it is not."""
    if stage.kind == "pretext" or not stage.reads_metadata:
        return None
    return MetadataEncoder.of(data.train.metadata)


def _frozen_pretext(stage: Stage, teachers: list[Widths], fabric: Fabric) -> nn.ModuleDict | None:
    """What the pretext stage trained, as a constant on the device."""
    if "pretext" not in stage.upstream:
        return None
    heads = nn.ModuleDict(stage.method.pretext().adapters(None, *teachers))
    load_best(heads, stage.upstream["pretext"])
    return freeze(heads).to(fabric.device)
