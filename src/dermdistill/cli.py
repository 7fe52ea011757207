"""The command line: every job of the package by name, with `--help` that imports no torch."""

import inspect
import os
import re
import sys
import warnings
from collections.abc import Callable, Sequence
from typing import Any

from jsonargparse import ArgumentParser, Namespace

from dermdistill.commands import data, deploy, judge, train
from dermdistill.config import Config
from dermdistill.errors import ConfigError, DermdistillError, TerminatedError, unknown_name
from dermdistill.run import RESEARCH_NOTICE
from dermdistill.stop import EXIT_TERMINATED, end_now, sigterm

DESCRIPTION = (
    "Distil dermoscopy classifiers small enough for a phone, and prove how good they are. "
    + RESEARCH_NOTICE
)
COMMANDS: dict[str, Callable] = {
    "data fetch": data.data_fetch,
    "data synth": data.data_synth,
    "data pack": data.data_pack,
    "data split": data.data_split,
    "data audit": data.data_audit,
    "data tone": data.data_tone,
    "teach": train.teach,
    "distill": train.distill,
    "compare": train.compare,
    "evaluate": judge.evaluate,
    "explain": judge.explain,
    "robustness": judge.robustness,
    "ood": judge.ood,
    "export": deploy.export,
    "bundle check": deploy.bundle_check,
    "predict": deploy.predict,
    "bench": deploy.bench,
    "app": deploy.app,
    "serve": deploy.serve,
    "report": judge.report,
    "methods": train.methods,
    "demo": train.demo,
}
GROUPS = ("data", "bundle")  # their commands have two words
NO_OPTIONS = {"config", "resume"}  # arguments that are given in another way
# Arguments that may be left out or repeated and still are given without their name.
WORDS: dict[str, dict[str, str]] = {
    "evaluate": {"run": "a run directory"},
    "report": {"runs": "run directories"},
    "predict": {"images": "image files"},
    "bench": {"bundles": "bundles"},
    "methods": {"name": "the method to explain; without one, all are listed"},
    "data fetch": {"name": "which data set", "folder": "where it goes"},
}
EXIT_USER_ERROR, EXIT_INTERRUPTED = 2, 130
EXIT_CODES = (
    f"Exit codes: {EXIT_USER_ERROR} something must be changed first, {EXIT_INTERRUPTED} Ctrl-C, "
    f"{EXIT_TERMINATED} ended by SIGTERM, after the step that was being done; the same "
    "command continues."
)
TRAINING_HELP = {
    "usage": "%(prog)s [--config RECIPE.yaml] [--resume | --no-resume] [--SETTING VALUE ...]",
    "epilog": "--resume continues what a kill cut short, which is the default; --no-resume trains "
    f"unfinished stages from their start. Finished stages are never trained again. {EXIT_CODES} "
    "torchrun starts it on several devices: `torchrun --nproc-per-node 2 -m %(prog)s ...`.",
}
CONFIG_HELP = {  # of the commands whose arguments are a whole Config, and maybe some more
    "teach": TRAINING_HELP,
    "distill": TRAINING_HELP,
    "compare": {
        "usage": "%(prog)s --methods NAME,NAME [--seeds 1,2] [--folds 0,1] [--ray none|local|"
        "ADDRESS] [--config RECIPE.yaml] [--SETTING VALUE ...]",
        "epilog": f"Exit code 1: a run failed. {EXIT_CODES}",
    },
}
UNKNOWN_KEY = re.compile(r"(?:Group '([\w.]+)' does not accept option|Option) '([\w.]+)'")


class Parser(ArgumentParser):
    """jsonargparse's parser, whose complaints end as the package's own errors."""

    def error(self, message: str, ex: Exception | None = None) -> None:
        """Raise instead of printing the usage; add the nearest names to an unknown one."""
        text = " ".join(str(message).split())
        unknown = [word.split("=")[0] for word in text.split() if word.startswith("--")]
        if "nrecognized arguments" in text and unknown:
            raise unknown_name("option", unknown[0], self._known())
        key = UNKNOWN_KEY.search(text)
        if key and "not accept" in text:
            setting = ".".join(filter(None, key.groups()))
            raise unknown_name("setting", setting, [name[2:] for name in self._known()])
        raise ConfigError(f"{text}\nSee `{self.prog} --help`.")

    def _known(self) -> list[str]:
        return [name for name in self._option_string_actions if name.startswith("--")]


def _first_line(function: Callable) -> str:
    return (function.__doc__ or "").strip().splitlines()[0]


def _command_parser(name: str, function: Callable) -> Parser:
    """The parser of one command: a whole config, or the arguments of a function."""
    parser = Parser(
        prog=f"dermdistill {name}",
        description=_first_line(function),
        **CONFIG_HELP.get(name, {}),
        print_config="--print-config",
    )
    if name in CONFIG_HELP:
        parser.add_argument("--config", action="config", help="a YAML recipe; options override it")
        parser.add_class_arguments(Config)
        parser.add_function_arguments(function, skip=NO_OPTIONS)
    else:
        words = WORDS.get(name, {})
        for word, meaning in words.items():
            default = inspect.signature(function).parameters[word].default
            if default is inspect.Parameter.empty:
                parser.add_argument(word, nargs="+", help=meaning)
            else:
                parser.add_argument(word, nargs="?", default=default, help=meaning)
        parser.add_function_arguments(function, as_positional=True, skip=set(words))
    return parser


def _listing(group: str = "") -> str:
    """The help text of all commands, or of a group's."""
    rows = "\n".join(
        f"  {name:<12} {_first_line(function)}"
        for name, function in COMMANDS.items()
        if name.startswith(group)
    )
    prog = f"dermdistill {group}".strip()
    return (
        f"usage: {prog} COMMAND ...\n\n{DESCRIPTION}\n\ncommands:\n{rows}\n\n"
        "`dermdistill COMMAND --help` explains one.\n"
    )


def _dispatch(argv: list[str]) -> int:
    """Find the command that the first words name, and run it with the others."""
    group = argv[0] if argv[:1] and argv[0] in GROUPS else ""
    words = argv[: 2 if group else 1]
    if not words or words[-1] in ("-h", "--help", *GROUPS):
        print(_listing(group), end="")
        return 0
    if words == ["--version"]:
        import importlib.metadata

        print(f"dermdistill {importlib.metadata.version('dermdistill')}")
        return 0
    name, options = " ".join(words), argv[len(words) :]
    if name not in COMMANDS:
        raise unknown_name("command", name, COMMANDS)
    continuation = {}
    if "resume" in inspect.signature(COMMANDS[name]).parameters:
        # Not a setting: it says how to reach a result, not which, so no config may hold it.
        continuation = {"resume": "--no-resume" not in options}
        options = [word for word in options if word not in ("--resume", "--no-resume")]
    parser = _command_parser(name, COMMANDS[name])
    parsed = parser.parse_args(options)
    return COMMANDS[name](**_arguments(parser, parsed, name), **continuation) or 0


def _arguments(parser: Parser, parsed: Namespace, name: str) -> dict[str, Any]:
    values = vars(parser.instantiate(parsed))
    values = {k: v for k, v in values.items() if k not in ("config", "print_config")}
    if name not in CONFIG_HELP:
        return values
    extra = set(inspect.signature(COMMANDS[name]).parameters) - NO_OPTIONS
    settings = {k: v for k, v in values.items() if k not in extra}
    return {"config": Config(**settings)} | {k: v for k, v in values.items() if k in extra}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; a user's error is one message and exit code 2, never a trace."""
    warnings.showwarning = _show_warning
    try:
        with sigterm(end_now):
            return _dispatch(list(sys.argv[1:] if argv is None else argv))
    except TerminatedError as error:
        print(f"dermdistill: {error}", file=sys.stderr)
        return EXIT_TERMINATED
    except DermdistillError as error:
        print(f"dermdistill: {error}", file=sys.stderr)
        return EXIT_USER_ERROR
    except KeyboardInterrupt:
        print("dermdistill: interrupted; the same command continues it", file=sys.stderr)
        return EXIT_INTERRUPTED
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:
        print(f"dermdistill: {error}; free the disk or fix the path, then give the same command "
              "again", file=sys.stderr)  # fmt: skip
        return EXIT_USER_ERROR


def _show_warning(message, category, filename, lineno, file=None, line=None) -> None:
    """Our own warnings as one line; others only where their authors want to see them."""
    if "dermdistill" in filename:
        print(f"dermdistill: warning: {message}", file=sys.stderr)
