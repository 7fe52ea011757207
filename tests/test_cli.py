"""The command line as a user meets it: real processes, real exit codes, no traces."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

import small
from dermdistill.cli import COMMANDS, main
from dermdistill.methods import METHODS
from dermdistill.run import METRICS, read_json

EVERY = list(COMMANDS)
DATA = [name for name in COMMANDS if name.startswith("data ")]
HELP_BAR_S = 0.5  # of processor time, so that a busy machine changes nothing
HELP_ROUNDS = 5
LOOK_FOR_TORCH = """
import atexit, sys
atexit.register(lambda: print("torch" in sys.modules, "pandas" in sys.modules, file=sys.stderr))
from dermdistill.cli import main
sys.exit(main(sys.argv[1:]))
"""


def call(*words: str, cwd: Path | None = None) -> subprocess.CompletedProcess:
    """One command in a process of its own."""
    return subprocess.run(
        [sys.executable, "-m", "dermdistill", *map(str, words)], cwd=cwd, capture_output=True,
        text=True, check=False, env=os.environ | {"OMP_NUM_THREADS": "1"},
    )  # fmt: skip


def refused(done: subprocess.CompletedProcess, *said: str) -> None:
    """A user's error: exit code 2, one message, no trace."""
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    assert done.stderr.startswith("dermdistill: ")
    for text in said:
        assert text in done.stderr


def processor_s(*words: str) -> float:
    """Seconds of processor time that a command took, by the system's own count."""
    process = subprocess.Popen(
        [sys.executable, "-m", "dermdistill", *words], stdout=subprocess.DEVNULL
    )  # fmt: skip
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode == 0
    return usage.ru_utime + usage.ru_stime


def test_help_names_every_command_and_what_it_is_not():
    done = call("--help")
    assert done.returncode == 0
    assert all(f"  {name} " in done.stdout for name in COMMANDS)
    assert "no medical device" in done.stdout
    assert call().stdout == done.stdout
    listed = call("data", "--help").stdout
    assert all(f"  {name} " in listed for name in DATA)


@pytest.mark.parametrize("command", EVERY)
def test_every_command_explains_itself(command):
    done = call(*command.split(), "--help")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"usage: dermdistill {command}")
    assert not done.stderr


@pytest.mark.parametrize("words", [("--help",), ("distill", "--help")], ids=" ".join)
def test_help_is_instant(words):
    fastest = min(processor_s(*words) for _ in range(HELP_ROUNDS))
    assert fastest < HELP_BAR_S, f"{fastest:.2f} s"


@pytest.mark.parametrize(
    "words", [("--help",), ("distill", "--help"), ("distill", "--print-config"), ("distil",)]
)
def test_help_and_refusals_import_nothing_heavy(words):
    done = subprocess.run(
        [sys.executable, "-c", LOOK_FOR_TORCH, *words], capture_output=True, text=True, check=False
    )  # fmt: skip
    assert done.stderr.splitlines()[-1] == "False False"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("distil",), "no command 'distil'; did you mean 'distill'"),
        (("data", "pak"), "no command 'data pak'; did you mean 'data pack'"),
        (("distill", "--student.metod", "kd"), "did you mean '--student.method'"),
        (("report", "x", "--ouput", "y"), "did you mean '--output'"),
        (("evaluate", "--images", "x"), "or --images FOLDER with --model RUN"),
        (("evaluate",), "evaluate takes a run directory"),
    ],
)
def test_a_wrong_word_gets_the_nearest_right_one(words, said):
    refused(call(*words), said)


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({"student": {"metod": "kd"}}, "no setting 'student.metod'; did you mean 'student.method'"),
        ({"student": {"fit": {"ephocs": 1}}}, "did you mean 'student.fit.epochs'"),
        ({"sed": 1}, "no setting 'sed'; did you mean 'seed'"),
    ],
)
def test_a_wrong_key_in_a_recipe_gets_the_nearest_right_one(tmp_path, config, said):
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(config))
    refused(call("distill", "--config", path), said)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--student.fit.lr", "-1"), "student.fit.lr is -1.0; it must be above 0"),
        (("--student.fit.lr", "fast"), "student.fit.lr"),
        (("--student.fit.optimiser", "adam"), "adamw"),
        (("--data.px", "3"), "data.px is 3; it must be at least 16"),
        (("--student", "3"), "student"),
        (("--config", "nowhere.yaml"), "nowhere.yaml"),
    ],
)
def test_a_bad_value_dies_before_anything_is_read_or_written(tmp_path, words, said):
    done = call("distill", "--data.folder", "nowhere", *words, cwd=tmp_path)
    refused(done, said)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--student.method", "ssdkd"), "no method 'ssdkd'; did you mean 'ssd_kd'"),
        (("--student.options.kd_temprature", "2"), "did you mean 'kd_temperature'"),
        (("--student.options.kd_temperature", "hot"), "kd_temperature is 'hot'"),
        (("--student.network.name", "mobilenetv2_10"), "'mobilenetv2_100'"),
        (("--teacher.network.name", "resnet5"), "'resnet50'"),
        ((), "nowhere does not exist"),
    ],
)
def test_what_needs_the_package_to_refuse(tmp_path, monkeypatch, capsys, words, said):
    """In this process, because importing torch six times takes longer than all else here."""
    monkeypatch.chdir(tmp_path)
    assert main(["distill", "--data.folder", "nowhere", *words]) == 2
    assert said in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_methods_are_listed_and_explained(capsys):
    assert main(["methods"]) == 0
    listed = capsys.readouterr().out
    assert [line.split()[0] for line in listed.splitlines()] == list(METHODS)
    for name in METHODS:
        assert main(["methods", name]) == 0
        explained = capsys.readouterr().out
        assert "L = " in explained
        assert "Source: " in explained
    assert main(["methods", "rkdd"]) == 2
    assert "did you mean 'rkd'" in capsys.readouterr().err


def test_a_printed_config_prints_itself_again(tmp_path):
    words = ["--student.method", "kd", "--student.options.kd_temperature", "3",
             "--views.scale", "[0.9, 1.1]", "--student.fit.milestones", "[3, 4]"]  # fmt: skip
    first = call("distill", *words, "--print-config")
    assert first.returncode == 0, first.stderr
    shown = yaml.safe_load(first.stdout)
    assert shown["student"]["method"] == "kd"
    assert shown["student"]["options"] == {"kd_temperature": 3}
    assert shown["views"]["scale"] == [0.9, 1.1]
    path = tmp_path / "again.yaml"
    path.write_text(first.stdout)
    assert call("distill", "--config", path, "--print-config").stdout == first.stdout


def test_options_override_the_recipe(tmp_path):
    path = tmp_path / "recipe.yaml"
    path.write_text("student: {fit: {lr: 0.5, epochs: 3}}\n")
    done = call("distill", "--config", path, "--student.fit.lr", "0.25", "--print-config")
    fit = yaml.safe_load(done.stdout)["student"]["fit"]
    assert (fit["lr"], fit["epochs"]) == (0.25, 3)


def test_data_commands_from_nothing_to_a_store(tmp_path):
    made = call("data", "synth", "set", "--images", 48, "--px", 48, "--workers", 1, cwd=tmp_path)
    assert made.returncode == 0, made.stderr
    assert len(list(tmp_path.rglob("*.jpg"))) == 48
    split = call("data", "split", "set", "split.csv", "--folds", 2, cwd=tmp_path)
    assert split.returncode == 0, split.stderr
    assert (tmp_path / "split.csv").exists()
    assert "MEL" in split.stdout
    packed = call("data", "pack", "set", "store", "--px", 32, "--workers", 1, cwd=tmp_path)
    assert packed.returncode == 0, packed.stderr
    assert (tmp_path / "store" / "store.json").exists()
    found = call("data", "audit", "set", "--split", "split.csv", "--json_file", "found.json",
                 cwd=tmp_path)  # fmt: skip
    assert found.returncode in (0, 1), found.stderr
    assert isinstance(read_json(tmp_path / "found.json"), list | dict)
    next(tmp_path.rglob("*.jpg")).write_bytes(b"no image")
    broken = call("data", "audit", "set", cwd=tmp_path)
    assert broken.returncode == 1
    assert "Traceback" not in broken.stderr
    refused(call("data", "split", "nowhere", "s.csv", cwd=tmp_path), "nowhere does not exist")


@pytest.mark.slow
def test_the_main_job_from_a_recipe_with_overrides(tmp_path):
    from dermdistill.config import to_dict

    recipe = tmp_path / "tiny.yaml"
    recipe.write_text(yaml.safe_dump(to_dict(small.config(tmp_path / "not-here"))))
    words = ["--config", recipe, "--output", "runs", "--student.fit.epochs", 1]
    done = call("distill", *words, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert not (tmp_path / "not-here").exists()
    (student,) = (tmp_path / "runs").glob("student-*")
    assert (student / "report.html").stat().st_size > 10_000
    assert call("bundle", "check", student / "bundle.zip").returncode == 0
    assert read_json(student / METRICS)["epochs"] == 1
    assert "balanced accuracy" in done.stdout
    assert "no medical device" in done.stderr
    again = call("distill", *words, cwd=tmp_path)
    assert again.returncode == 0, again.stderr
    assert again.stderr.count("found finished") == 3
    run = student.relative_to(tmp_path)
    for command in (("evaluate", run), ("export", run), ("report", run, "--output", "page.html")):
        done = call(*command, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
    assert (tmp_path / "page.html").exists()
    refused(call("export", run, "--to", "onx", cwd=tmp_path), "did you mean 'onnx'")
    refused(call("evaluate", "nowhere", cwd=tmp_path), "nowhere")
    done = call("evaluate", "--images", small.images(), "--model", run, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert f"{small.IMAGES} images" in done.stdout
    assert (tmp_path / f"{run}-on-{small.images().name}" / METRICS).exists()
