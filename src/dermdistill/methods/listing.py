"""The methods as a table: for the command line, and for docs/methods.md."""

import json
from dataclasses import fields
from importlib.resources import files

from dermdistill.methods import METHODS, Method

MEASURED = "measured.json"  # written by benchmarks/methods_cost.py
SURE = {
    "code": "code: read in its authors' public code",
    "paper": "paper: from its equations",
    "reading": "reading: only the idea could be read, the formula is ours",
}
HEAD = """\
# Methods

Written by `dermdistill methods --write docs/methods.md`; a test compares. `dermdistill methods
NAME` explains one with its equation and all hyper-parameters.

- **teacher**: {teachers}
- **terms**: every term with its default weight; `--student.options.TERM_weight 0` removes one.
- **parameters**, **memory**: what is trained and kept beside the student and its frozen teachers,
  in millions and megabytes, and dropped after ({dropped}).
- **step**: CPU time of a training step as a multiple of `supervised`'s, teachers included.
  {setting}
- **sure**: {sure}. Where ours differs: [fidelity.md](fidelity.md).

"""


def measured() -> dict:
    """What benchmarks/methods_cost.py wrote."""
    return json.loads((files("dermdistill.methods") / MEASURED).read_text())


def who_teaches(method: type[Method]) -> str:
    """The kind of teacher in a few words, with peers and a first stage."""
    extra = [f"{method.peers} peer"] if method.peers else []
    if method().pretext() is not None:
        extra.append("pretext")
    return " + ".join([method.teacher, *extra])


def views(method: type[Method]) -> str:
    """How many views of an image, and of which kind."""
    count, turned, apart = method.views
    kind = "turned" if turned else "apart" if apart else "varied"
    return f"{count} {kind}" if count > 1 else "1"


def terms(method: type[Method]) -> str:
    """Every weight's name and default."""
    weights = [field for field in fields(method) if field.name.endswith("_weight")]
    return ", ".join(f"{w.name.removesuffix('_weight')} {w.default:g}" for w in weights)


def markdown() -> str:
    """The whole page docs/methods.md."""
    from dermdistill.methods.base import TEACHERS

    known = measured()
    lines = [
        "| method | teacher | terms | views | parameters | memory | step | source | sure |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for name, method in METHODS.items():
        cost = known["methods"].get(name)
        figures = [f"{cost['parameters_m']:.2f}", f"{cost['memory_mb']:.1f}",
                   f"{cost['step']:.1f}x"] if cost else ["not measured"] * 3  # fmt: skip
        cells = [f"`{name}`", who_teaches(method), terms(method), views(method), *figures,
                 method.source, method.sure]  # fmt: skip
        lines.append(f"| {' | '.join(cells)} |")
    head = HEAD.format(
        teachers="; ".join(f"{kind}: {meaning}" for kind, meaning in TEACHERS.items()),
        dropped="but for `simkd`, whose projector stays",
        setting=known["setting"], sure="; ".join(SURE.values()),
    )  # fmt: skip
    return head + "\n".join(lines) + "\n"
