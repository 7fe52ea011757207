"""What is known of an image survives the file, and units keep a lesion's images together."""

import numpy as np
import pandas as pd
import pytest

from dermdistill.errors import DataError
from dermdistill.evaluate.groups import groupings, load_groups, save_groups, units_of

FACTS = pd.DataFrame({
    "lesion": ["L1", "L1", "L2", "L3"], "patient": ["P1", "P1", "P1", None],
    "age": [35.0, 35.0, np.nan, 80.0], "sex": ["male", "male", "male", "female"],
    "site": [None, None, None, None], "label": ["MEL"] * 4,
})  # fmt: skip
IDS = ["a", "b", "c", "NA"]


def test_a_file_gives_back_what_was_written_in_the_order_asked(tmp_path):
    save_groups(tmp_path / "groups-test.csv", IDS, FACTS)
    got = load_groups(tmp_path / "groups-test.csv", ["NA", "a", "c"])
    assert got["lesion"].tolist() == ["L3", "L1", "L2"]
    assert got["sex"].tolist() == ["female", "male", "male"]
    assert got["patient"].isna().tolist() == [True, False, False]
    assert "label" not in got


def test_a_patient_is_one_unit_where_known_else_a_lesion_is(tmp_path):
    save_groups(tmp_path / "groups-test.csv", IDS, FACTS)
    units = units_of(load_groups(tmp_path / "groups-test.csv", IDS))
    assert units[0] == units[1] == units[2] != units[3]
    lesions = units_of(FACTS[["lesion"]])
    assert lesions[0] == lesions[1]
    assert len(set(lesions.tolist())) == 3


def test_without_a_file_every_image_is_a_lesion_of_its_own(tmp_path):
    got = load_groups(tmp_path / "nowhere.csv", IDS)
    assert got["lesion"].tolist() == IDS
    assert groupings(got) == {}


def test_groupings_are_the_columns_that_divide():
    found = groupings(FACTS.drop(columns="label").assign(device=["x", "y", "x", None]))
    assert list(found) == ["age", "sex", "device"]
    assert found["age"].tolist()[:2] == ["20–39", "20–39"]
    assert pd.isna(found["age"].iloc[2])
    assert found["age"].iloc[3] == "80–99"


def test_a_wrong_file_is_named(tmp_path):
    path = tmp_path / "groups-test.csv"
    save_groups(path, IDS, FACTS)
    with pytest.raises(DataError, match=r"no row for 1 of 2 images, first 'z'"):
        load_groups(path, ["a", "z"])
    path.write_text("image,sex\na,male\na,male\n")
    with pytest.raises(DataError, match="each id once"):
        load_groups(path, ["a"])
