"""The page of all methods is what the code says, and what was measured."""

import re

from conftest import CHECKOUT
from dermdistill.cli import main
from dermdistill.methods import METHODS
from dermdistill.methods.listing import SURE, measured
from dermdistill.run import read_json

PAGE = CHECKOUT / "docs" / "methods.md"


def test_the_page_is_up_to_date(tmp_path):
    assert main(["methods", "--write", str(tmp_path / "methods.md")]) == 0
    assert (tmp_path / "methods.md").read_text() == PAGE.read_text(), (
        "run: dermdistill methods --write docs/methods.md"
    )


def test_the_page_has_every_method_with_its_terms():
    lines = dict(re.findall(r"^\| `(\w+)` \| (.*)$", PAGE.read_text(), re.MULTILINE))
    assert lines.keys() == METHODS.keys()
    assert lines["kd"].startswith("frozen | ce 0.5, kd 0.5 | 1 | ")
    assert lines["ssd_kd"].startswith("frozen + pretext | ")
    assert " | 2 apart | " in lines["crckd"]
    assert lines["learning_styles"].startswith("frozen + 1 peer | ")
    assert all(method.sure in SURE for method in METHODS.values())


def test_what_was_measured_is_of_methods_there_are():
    known = measured()
    assert known == read_json(CHECKOUT / "src/dermdistill/methods/measured.json")
    for name, cost in known["methods"].items():
        assert name in METHODS
        assert cost["step"] > 0.5, name
        assert cost["memory_mb"] >= 0
        if METHODS[name].teacher == "average":
            # A bank of 25,331 images, 128 numbers each, for student and teacher; and the average.
            assert cost["memory_mb"] > 2 * 25_331 * 128 * 4 / 1e6
