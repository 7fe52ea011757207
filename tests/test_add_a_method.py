"""The page docs/add-a-method.md does what it says: its blocks are installed and run."""

import re
import shlex
import sys

import pytest

from conftest import CHECKOUT
from dermdistill import cli, methods
from dermdistill.methods import METHODS, build_method
from method_contract import CHECKS

PAGE = CHECKOUT / "docs" / "add-a-method.md"
MODULE = "dermdistill.methods.regression"
NAME = "regression"


def blocks(language: str) -> list[str]:
    """The page's code blocks of a language, in order."""
    return re.findall(rf"^```{language}\n(.*?)^```$", PAGE.read_text(), re.DOTALL | re.MULTILINE)


def commands() -> list[list[str]]:
    """The command lines of the page."""
    return [shlex.split(line) for block in blocks("sh") for line in block.splitlines()]


@pytest.fixture
def added(tmp_path, monkeypatch):
    """The page's method, installed as the page says, for one test."""
    file, imported, entry, _ = blocks("python")
    (tmp_path / "regression.py").write_text(file)
    monkeypatch.setattr(methods, "__path__", [*methods.__path__, str(tmp_path)])
    namespace = {}
    exec(imported, namespace)
    for name, method in eval(f"{{{entry}}}", namespace).items():
        monkeypatch.setitem(METHODS, name, method)
    yield
    del sys.modules[MODULE]
    del methods.regression


def test_the_page_names_its_files():
    text = PAGE.read_text()
    for path in re.findall(r"`((?:src|tests)/[\w/.]+)`", text):
        assert path.endswith("/regression.py") or (CHECKOUT / path).exists(), path
    assert "`src/dermdistill/methods/regression.py`" in text


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_contract(added, check):
    assert NAME in METHODS
    check(NAME)


def test_its_own_tests_pass(added):
    namespace = {}
    exec(blocks("python")[-1], namespace)
    tests = [value for name, value in namespace.items() if name.startswith("test_")]
    assert len(tests) == 2
    for test in tests:
        test()


def test_commands(added, capsys):
    for program, *arguments in commands():
        if program == "python":
            assert (CHECKOUT / arguments[2]).exists()
        elif arguments[0] == "methods":
            assert cli.main(arguments) == 0
        else:
            # Parsed as the command would, and the method built; training is another test's.
            parser = cli._command_parser(arguments[0], cli.COMMANDS[arguments[0]])
            config = cli._arguments(parser, parser.parse_args(arguments[1:]), arguments[0])[
                "config"
            ]
            method = build_method(config.student.method, config.student.options)
            assert method.regression_weight == 0.5
    listing, explained = capsys.readouterr().out.split(f"{NAME}: ")
    assert re.search(rf"^{NAME} +1 view .* The student's logits match", listing, re.MULTILINE)
    assert "L = w_ce" in explained
    assert re.search(r"regression_weight +1\.0", explained)


def test_without_the_line_it_is_unknown():
    assert NAME not in METHODS
    assert MODULE not in sys.modules
