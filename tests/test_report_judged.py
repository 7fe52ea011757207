"""What the report says of intervals, differences, groups and seeds, and its tables as files."""

import csv

import pytest

from dermdistill.evaluate.assess import assess
from dermdistill.evaluate.intervals import Difference, Interval
from dermdistill.evaluate.versus import against_first
from dermdistill.report import write_report
from dermdistill.report.content import tables
from dermdistill.report.families import families
from dermdistill.report.judged import judge
from dermdistill.report.names import named
from dermdistill.report.runs import read_run
from dermdistill.report.tables import Cell, Table
from dermdistill.report.verdicts import difference_words
from dermdistill.run import PROVENANCE, read_json, write_json
from report_runs import write_groups, write_pair, write_run
from test_report import Page


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A student and its teacher with lesions, and the student with another seed."""
    root = tmp_path_factory.mktemp("runs")
    student, teacher = write_pair(root, epochs=0)
    again = write_run(root / "student-again", epochs=0, skill=2.5, seed=7)
    for run in (student, teacher, again):
        write_groups(run)
    return student, teacher, again


@pytest.fixture(scope="module")
def page(runs, tmp_path_factory):
    folder = tmp_path_factory.mktemp("page")
    return Page(write_report([runs[0], runs[2]], folder / "report.html")), folder / "report-tables"


def test_the_summary_gives_intervals_and_names_the_worst_groups(page, runs):
    made = assess(runs[0], read_settings(runs[0]))
    low, high = (100 * end for end in made.made.interval(("balanced_accuracy",)))
    assert f"% interval {low:.1f} to {high:.1f})" in page[0].text
    assert "The groups with the lowest area under the curve for malignant are" in page[0].text
    assert "sure than it should be" in page[0].text
    assert "paired by lesion and corrected for 1 comparison:" in page[0].text
    assert "No two test images are known to show one lesion" not in page[0].text


def read_settings(run):
    from dermdistill.config import load_config

    return load_config(run / "config.yaml").evaluation


def test_a_difference_is_called_one_only_where_the_interval_allows_it():
    apart = difference_words(Difference(-0.05, Interval(-0.08, -0.02), 0.001), 0.95)
    assert "The 95 % interval of the difference is −8.0 to −2.0 points, which leaves 0 out" in apart
    same = difference_words(Difference(0.01, Interval(-0.02, 0.03), 0.5), 0.95)
    assert "which holds 0: these lesions do not tell the two apart" in same
    assert "too few images" in difference_words(Difference(0.1, None, None), 0.95)


def test_every_table_stands_beside_the_page_in_three_forms(page):
    text, folder = page
    names = {"overall", "differences", "methods", "malignant", "operating-points", "calibration",
             "conformal", "classes", "groups", "all-figures"}  # fmt: skip
    forms = {f"{name}{form}" for name in names for form in (".csv", ".md", ".tex")}
    assert {path.name for path in folder.iterdir()} == forms - {"all-figures.md", "all-figures.tex"}
    with open(folder / "overall.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["Run"] for row in rows] == [
        "ssd_kd, seed 2021",
        "ssd_kd, seed 7",
        "teacher resnet50",
    ]
    value, _, ends = rows[0]["Balanced accuracy, %"].partition(" ")
    assert value in text.words
    assert ends[1:-1] in text.text
    with open(folder / "all-figures.csv", newline="") as file:
        every = list(csv.DictReader(file))
    mine = next(row for row in every if row["Figure"] == "balanced_accuracy")
    assert f"{100 * float(mine['Value']):.1f}" == value
    assert float(mine["Low"]) <= float(mine["Value"]) <= float(mine["High"])
    assert {row["Images"].split(":")[0] for row in every} == {"all", "age", "sex", "site"}


def test_tables_survive_the_signs_of_their_form():
    table = Table("t", "A_b", ["Run", "F1, %"], [["x_1 & y|z", Cell("9.0", "−1.0 to 10.0")]], "5 %")
    assert "x_1 & y|z,9.0 (−1.0 to 10.0)" in table.csv()
    assert "| x_1 & y\\|z | 9.0 (−1.0 to 10.0) |" in table.markdown()
    assert r"x\_1 \& y|z & 9.0 ($-$1.0 to 10.0) \\" in table.latex()
    assert r"F1, \%" in table.latex()
    assert table.latex().count(r"\begin{tabular}{lr}") == 1


def test_seeds_of_one_method_are_averaged_on_the_same_draws(runs):
    judged = judge(named([read_run(run) for run in runs]))
    found = families(judged)
    made = tables(judged, judged, against_first([one.made for one in judged]), found)
    rows = {row[0]: row for row in made["methods"].rows}
    assert rows["ssd_kd"][1] == "2"
    mean = sum(judged[i].made.made.point["balanced_accuracy",] for i in (0, 2)) / 2
    assert rows["ssd_kd"][2].text == f"{100 * mean:.1f}"
    assert "SD" in rows["ssd_kd"][2].ends


def test_other_settings_are_no_other_seed(runs):
    """Two runs of one method and network whose settings differ are never averaged."""
    records = [read_run(run) for run in runs]
    for record, epochs in zip(records, (1, 1, 2), strict=True):
        record.provenance["key"] = {"seed": id(record), "fit": {"epochs": epochs}}
    judged = judge(named([records[0], records[2]]))
    assert [one.tag.partition(" (")[0] for one in judged] == ["ssd_kd, mobilenetv2_100"] * 2
    assert judged[0].tag != judged[1].tag
    versus, found = against_first([one.made for one in judged]), families(judged)
    assert "methods" not in tables(judged, judged, versus, found)


def test_a_run_against_itself_is_no_different(runs):
    made = assess(runs[0], read_settings(runs[0]))
    (versus,) = against_first([made, made])
    assert all(found.value == 0 for found in versus.differences.values())
    assert set(versus.corrected.values()) == {1.0}
    assert versus.mcnemar == (0, 0, 1.0)
    assert versus.delong == 1.0


def test_without_predictions_the_page_says_so_and_still_stands(tmp_path):
    run = write_run(tmp_path / "run", epochs=0)
    (run / "predictions-test.csv").unlink()
    made = Page(write_report([run], tmp_path / "report.html"))
    assert "Its figures have no interval:" in made.text
    assert "point estimates without an interval" in made.text
    assert not (tmp_path / "report-tables").exists()


def test_a_config_that_cannot_be_read_leaves_the_defaults(tmp_path):
    run = write_run(tmp_path / "run", epochs=0)
    (run / "config.yaml").write_text("nothing: [\n")
    (run / "parity.json").unlink()
    assert judge([read_run(run)])[0].made.settings.draws == 2000


def test_what_was_pruned_or_computes_in_8_bits_is_called_so(tmp_path):
    """Runs of one method and network, told apart by what a reader knows them by."""
    starts = {"plain": {}, "narrow": {"prune_ratio": 0.3},
              "both": {"prune_ratio": 0.3, "int8": True}}  # fmt: skip
    records = []
    for name, start in starts.items():
        run = write_run(tmp_path / name)
        made = read_json(run / PROVENANCE)
        key = {"network": start}
        write_json(run / PROVENANCE, made | {"network_config": start, "key": key})
        records.append(read_run(run))
    assert [record.label for record in named(records)] == [
        "ssd_kd, mobilenetv2_100",
        "ssd_kd, mobilenetv2_100, pruned by 0.3",
        "ssd_kd, mobilenetv2_100, pruned by 0.3, in 8 bits",
    ]
