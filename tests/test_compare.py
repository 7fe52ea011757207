"""Grids of runs: what is shared is trained once, what fails sinks nothing, what died goes on."""

import contextlib
import csv
import os
import subprocess
import sys
import time
from pathlib import Path
from types import ModuleType

import psutil
import pytest
import yaml

import small
from dermdistill.compare import (
    STARTS,
    WAIT_VARIABLE,
    Result,
    _started,
    _write,
    compare,
    failures,
    table,
)
from dermdistill.config import to_dict
from dermdistill.distill import teach
from dermdistill.errors import ConfigError, RunError
from dermdistill.run import METRICS, PROVENANCE, read_json, write_json


def rows(path: Path) -> list[dict[str, str]]:
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def quick(output: Path, **changes):
    """Trainings of one epoch."""
    return small.config(output, student_fit=small.fit(epochs=1), **changes)


def test_mean_and_spread_are_over_seeds_each_averaged_over_its_folds(tmp_path):
    figures = {(1, 0): 0.5, (1, 1): 0.7, (2, 0): 0.8, (2, 1): 0.6, (3, 0): 0.9, (3, 1): 0.9}
    results = [Result("kd", seed, fold, "run", figure, figure, figure, figure, 1.0)
               for (seed, fold), figure in figures.items()]  # fmt: skip
    results += [Result("rkd", 1, 0, failure="lost"), Result("rkd", 2, 0, "run", 0.25, 0.25)]
    _write(tmp_path / "grid.csv", results)
    lines = table(tmp_path / "grid.csv").splitlines()
    assert lines[0].startswith("| method | seeds | runs | failed | validation balanced accuracy |")
    assert {line.count("|") for line in lines} == {9}
    # Seeds: 0.6, 0.7, 0.9; mean 2.2 / 3; squares off it 0.0178 + 0.0011 + 0.0278, over 2, rooted.
    assert lines[2].startswith("| kd | 3 | 6 | 0 | 0.733 ± 0.153 |")
    assert lines[3] == "| rkd | 1 | 1 | 1 | 0.250 | 0.250 | - | - |"
    assert failures(tmp_path / "grid.csv") == 1
    assert (tmp_path / "grid.md").read_text() == table(tmp_path / "grid.csv")


@pytest.mark.parametrize(
    ("grid", "message"),
    [
        ((["kd", "rdk"], [1], [0]), "no method 'rdk'; did you mean .*'rkd'"),
        ((["kd", "kd"], [1], [0]), "methods is .*none twice"),
        ((["kd"], [], [0]), r"seeds is \[\]; it must name one"),
        ((["kd"], [1], [3]), "folds names 3; it must be 0 to 2"),
    ],
)
def test_a_wrong_grid_dies_before_anything_is_read(tmp_path, grid, message):
    with pytest.raises(ConfigError, match=message):
        compare(quick(tmp_path / "out", data=small.data_config(folder="nowhere")), *grid)
    assert not (tmp_path / "out").exists()


def test_one_failed_run_sinks_no_other_and_the_same_grid_tries_it_again(tmp_path, capsys):
    given = teach(quick(tmp_path / "given"), progress=False)
    origin = read_json(given / PROVENANCE)
    write_json(given / PROVENANCE, origin | {"classes": ["ROSE", *origin["classes"][1:]]})
    config = quick(tmp_path / "out", method="kd", teacher_run=str(given))
    grid = (["kd", "supervised"], [1], [0], "none")
    path = compare(config, *grid)
    lost, good = rows(path)
    assert "knows the classes ROSE" in lost["failure"]
    assert not good["failure"]
    figures = read_json(Path(good["run"]) / METRICS)["test"]
    assert float(good["test_balanced_accuracy"]) == figures["balanced_accuracy"]
    assert "1/2 kd, seed 1, fold 0: the teacher in" in capsys.readouterr().err
    before = (Path(good["run"]) / METRICS).stat().st_mtime_ns
    write_json(given / PROVENANCE, origin)
    assert compare(config, *grid) == path
    assert failures(path) == 0
    assert (Path(good["run"]) / METRICS).stat().st_mtime_ns == before, "nothing is trained twice"


def test_without_ray_the_message_names_both_ways_out(tmp_path):
    """In a process of its own where Ray cannot be imported, installed or not."""
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(yaml.safe_dump(to_dict(quick(tmp_path / "out", method="supervised"))))
    script = ("import sys; sys.modules['ray'] = None; from dermdistill.cli import main;"
              "sys.exit(main(sys.argv[1:]))")  # fmt: skip
    words = ["compare", "--config", str(recipe), "--methods", "supervised", "--seeds", "1"]
    done = subprocess.run([sys.executable, "-c", script, *words], capture_output=True, text=True,
                          check=False)  # fmt: skip
    assert done.returncode == 2
    assert "pip install 'dermdistill[ray]'" in done.stderr
    assert "--ray none" in done.stderr
    done = subprocess.run([sys.executable, "-c", script, *words, "--ray", "none"],
                          capture_output=True, text=True, check=False)  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "| supervised | 1 | 1 | 0 |" in done.stdout


@pytest.mark.parametrize(("address", "starts"), [("local", STARTS), ("10.0.0.1:6379", 1)])
def test_a_start_that_ray_gives_up_is_tried_again_here_alone(monkeypatch, address, starts):
    """Ray itself cannot be made to fail in time, so a module stands in its place."""
    asked = []

    def init(**settings):
        asked.append(settings)
        raise Exception("The current node timed out during startup")

    stand_in = ModuleType("ray")
    stand_in.init, stand_in.shutdown = init, lambda: None
    monkeypatch.setitem(sys.modules, "ray", stand_in)
    monkeypatch.setenv(WAIT_VARIABLE, "7")
    with pytest.raises(RunError, match=r"tried \d times: The current node timed out.*--ray none"):
        _started(address)
    assert len(asked) == starts
    assert ("address" in asked[0]) == (address != "local")
    assert os.environ[WAIT_VARIABLE] == "7", "the user's own limit holds"
    stand_in.init = lambda **settings: asked.append(settings)
    assert _started(address) is stand_in


def training_workers(driver: int, work: str) -> list[psutil.Process]:
    """A driver's Ray processes that are at work on a run."""
    found = []
    for process in psutil.Process(driver).children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):
            if process.cmdline()[:1] and process.cmdline()[0].startswith(work):
                found.append(process)
    return found


@pytest.mark.slow
def test_a_grid_of_twelve_survives_two_killed_workers(tmp_path):
    pytest.importorskip("ray")
    recipe = tmp_path / "recipe.yaml"
    config = quick(tmp_path / "out", method="supervised")
    recipe.write_text(yaml.safe_dump(to_dict(config)))
    words = ["compare", "--config", str(recipe), "--methods", "supervised,kd", "--seeds", "1,2,3",
             "--folds", "0,1"]  # fmt: skip
    log = open(tmp_path / "log", "w+")  # noqa: SIM115  the process writes it
    # Without niceness: other tests beside would starve the workers.
    ray = {"RAY_TMPDIR": "/tmp", "RAY_worker_niceness": "0"}
    driver = subprocess.Popen([sys.executable, "-m", "dermdistill", *words], stdout=log, stderr=log,
                              env=os.environ | ray)  # fmt: skip
    killed = 0
    while driver.poll() is None:
        started = len(list((tmp_path / "out").glob("*/history.jsonl")))
        if killed < 2 and started > 2 * killed + 1:
            with contextlib.suppress(psutil.NoSuchProcess):  # driver or worker may end meanwhile
                students, teachers = (
                    training_workers(driver.pid, work) for work in ("ray::_student", "ray::_teach")
                )
                for worker in (students or teachers)[:1]:
                    worker.kill()
                    killed += 1
        time.sleep(0.05)
    said = (tmp_path / "log").read_text()
    assert driver.returncode == 0, said
    assert killed == 2
    (path,) = (tmp_path / "out").glob("compare-*.csv")
    found = rows(path)
    assert len(found) == 12
    assert not any(row["failure"] for row in found)
    assert all((Path(row["run"]) / METRICS).exists() for row in found)
    assert len({row["run"] for row in found}) == 12
    assert len(list((tmp_path / "out").glob("teacher-*"))) == 6, "a teacher a seed and fold"
