"""Teacher, pretext, student: the stages of a distillation, one after the other."""

from pathlib import Path
from typing import Any

from dermdistill.config import Config, NetworkConfig, TeacherConfig
from dermdistill.errors import ConfigError, RunError
from dermdistill.evaluate.opened import open_run
from dermdistill.evaluate.score import score
from dermdistill.methods import Method, build_method
from dermdistill.models import require_network, require_pruner
from dermdistill.run import METRICS, PROVENANCE, read_json, write_json
from dermdistill.stages import Bench, Stage, decide


def distill(config: Config, progress: bool = True, resume: bool = True, wait: bool = False) -> Path:
    """Train what is missing of teacher, pretext and student; return the student's run directory.

    A finished stage is not trained again.

    Args:
        config: everything there is to set.
        progress: show what happens.
        resume: continue a stage that a kill cut short; else train it from its start.
        wait: wait for another process that trains a stage of this, instead of raising.

    Raises:
        ConfigError: a name or value is wrong; nothing was read or written.
        DataError: the images cannot be used.
        RunError: a run directory cannot be used, or training diverged.
    """
    student = config.student
    method = build_method(student.method, student.options)
    _check_network("student.network", student.network)
    _check_px(config, method)
    teachers = _frozen_teachers(config, method)
    bench = Bench(config, progress, resume, wait)
    upstream = bench.teachers(teachers)
    pretext = method.pretext()
    if pretext is not None:
        frozen = NetworkConfig(**read_json(upstream["teacher"] / PROVENANCE)["network_config"])
        upstream["pretext"] = bench.run(
            Stage("pretext", "view", frozen, pretext, config.pretext.fit, dict(upstream))
        )
    return bench.run(
        Stage("student", student.method, student.network, method, student.fit, upstream)
    )


def teach(config: Config, progress: bool = True, resume: bool = True, wait: bool = False) -> Path:
    """Train the teacher, or find it trained; return its run directory. Arguments as `distill`."""
    _check_teacher("teacher", config.teacher)
    return Bench(config, progress, resume, wait).teacher(config.teacher)


def evaluate(run: Path, progress: bool = True) -> dict[str, Any]:
    """Score a finished run again on the held-out images of its own config.

    Raises:
        RunError: it is no finished run of a network, or its data are others now.
    """
    opened = open_run(run, progress)
    metrics = read_json(run / METRICS) | score(
        opened.network, opened.data, run, opened.fabric, opened.config.evaluation
    )
    decide(run, opened.network, opened.config, opened.data, opened.fabric)
    write_json(run / METRICS, metrics)
    return metrics


def _frozen_teachers(config: Config, method: Method) -> list[TeacherConfig]:
    """Who is trained or loaded to teach by a method, checked before images are decoded."""
    if method.teacher == "frozen":
        _check_teacher("teacher", config.teacher)
        return [config.teacher]
    if method.teacher != "several":
        return []
    if len(config.teachers) < 2:
        raise ConfigError(
            f"{config.student.method} learns from several teachers, and the setting teachers names "
            f"{len(config.teachers)}; it must name at least 2, each by its run or its network"
        )
    for index, teacher in enumerate(config.teachers):
        _check_teacher(f"teachers[{index}]", teacher)
    return config.teachers


def _check_px(config: Config, method: Method) -> None:
    if method.max_px and config.data.px > method.max_px:
        raise ConfigError(
            f"data.px is {config.data.px}; {config.student.method} is made for at most "
            f"{method.max_px}: lower data.px, or choose another method"
        )


def _check_teacher(where: str, teacher: TeacherConfig) -> None:
    if not teacher.run:
        _check_network(f"{where}.network", teacher.network)
    else:
        advice = f"finish it with `dermdistill teach`, or leave {where}.run empty"
        _check_finished(f"{where}.run", Path(teacher.run), advice)


def _check_network(where: str, network: NetworkConfig) -> None:
    require_network(network.name)
    if network.prune_ratio:
        require_pruner()
    start = Path(network.weights)
    if start.is_dir():
        _check_finished(f"{where}.weights", start, "finish it, or name another")


def _check_finished(where: str, run: Path, advice: str) -> None:
    if not (run / METRICS).exists():
        raise RunError(f"{where} is {run}, which is no finished run (no {METRICS}); {advice}")
