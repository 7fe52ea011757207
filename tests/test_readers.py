"""Every layout gives one table; every broken file says what is wrong and where."""

import csv
import os
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dermdistill.data.readers import read_table
from dermdistill.data.table import COLUMNS, Table
from dermdistill.errors import ConfigError, DataError

TRUTH = "image,MEL,NV,BCC,UNK\nb,0,1,0,0\na,1.0,0.0,0.0,0.0\nc,0,0,0,1\n"
METADATA = (
    "image,age_approx,anatom_site_general,lesion_id,sex\n"
    "c,,,L2,unknown\na,45.0,head/neck,L1,male\nb,50,,,female\n"
)
HAM = (
    "lesion_id,image_id,dx,dx_type,age,sex,localization\n"
    "H1,x1,bkl,histo,80.0,male,scalp\nH1,x2,bkl,histo,80.0,male,scalp\n"
    "H2,x3,mel,histo,,unknown,unknown\nH3,x4,akiec,histo,10,female,ear\n"
)
SHARED_COUNTS = {
    "MEL": 1113, "NV": 6705, "BCC": 514, "AK": 130, "BKL": 1099, "DF": 115, "VASC": 142, "SCC": 197,
}  # fmt: skip


def isic(folder: Path, truth: str = TRUTH, metadata: str | None = METADATA, images=("a.jpg",)):
    folder.mkdir(exist_ok=True)
    (folder / "X_GroundTruth.csv").write_text(truth)
    if metadata is not None:
        (folder / "X_Metadata.csv").write_text(metadata)
    touch(folder / "X_Input", *images)
    return folder


def touch(folder: Path, *names: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        (folder / name).touch()
    return folder


def row(table: Table, name: str) -> pd.Series:
    return table.frame.set_index("id").loc[name]


def test_isic_joins_by_id_not_by_row(tmp_path):
    table = read_table(isic(tmp_path, images=("a.jpg", "b.PNG")))
    assert tuple(table.frame.columns) == COLUMNS
    assert table.classes == ("MEL", "NV", "BCC")
    assert table.frame["id"].tolist() == ["b", "a", "c"]
    assert list(row(table, "a")[["label", "lesion", "age", "sex", "site"]]) == [
        "MEL", "L1", 45.0, "male", "head/neck",
    ]  # fmt: skip
    assert row(table, "b")["lesion"] == "b"  # no known lesion: one of its own
    assert row(table, "b")["path"] == str(tmp_path / "X_Input" / "b.PNG")
    assert row(table, "c")["path"] == str(tmp_path / "X_Input" / "c.jpg")  # expected, not there
    assert pd.isna(row(table, "c")["label"])  # UNK is no class
    assert pd.isna(row(table, "c")["sex"])
    assert np.isnan(row(table, "c")["age"])
    assert table.label_codes(["a", "c", "b"]).tolist() == [0, -1, 1]


def test_unk_is_a_class_where_it_is_named(tmp_path):
    table = read_table(isic(tmp_path), classes=["UNK", "NV"])
    assert table.label_codes(["a", "b", "c"]).tolist() == [-1, 1, 0]


def test_isic_without_metadata_warns_and_every_image_is_a_lesion(tmp_path):
    with pytest.warns(UserWarning, match=r"X_Metadata\.csv is missing"):
        table = read_table(isic(tmp_path, metadata=None))
    assert (table.frame["lesion"] == table.frame["id"]).all()


def test_isic_counts_rows_that_match_nothing(tmp_path):
    folder = isic(tmp_path, metadata=METADATA.replace("c,,,L2", "zz,,,L2"))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        table = read_table(folder)
    said = " ".join(str(w.message) for w in caught)
    assert "1 of 3 rows name an image that is not in X_GroundTruth.csv" in said
    assert "1 of 3 images have no row" in said
    assert len(table) == 3


def test_official_test_files_have_weights_and_no_lesions(tmp_path):
    truth = "image,MEL,NV,UNK,score_weight,validation_weight\na,1,0,0,1.0,0.0\nb,0,0,1,0.5,1\n"
    folder = isic(tmp_path, truth, "image,age_approx,sex\na,3,male\nb,4,male\n")
    with pytest.warns(UserWarning, match="no column lesion_id"):
        table = read_table(folder)
    assert table.classes == ("MEL", "NV")
    assert table.frame["lesion"].tolist() == ["a", "b"]


def test_several_truth_files_need_a_choice(tmp_path):
    isic(tmp_path)
    (tmp_path / "Y_GroundTruth.csv").write_text(TRUTH)
    with pytest.raises(DataError, match="several truth files"):
        read_table(tmp_path)
    assert len(read_table(tmp_path / "X_GroundTruth.csv")) == 3


def test_nested_image_folder_and_byte_order_mark(tmp_path):
    folder = isic(tmp_path, "\ufeff" + TRUTH, images=())
    touch(folder / "X_Input" / "X_Input", "a.jpeg")
    path = row(read_table(folder), "a")["path"]
    assert path == str(folder / "X_Input" / "X_Input" / "a.jpeg")


@pytest.mark.parametrize(
    ("truth", "said"),
    [
        ("", "cannot be read as CSV"),
        ("image,MEL,NV\n", "header but no row"),
        ("id,MEL,NV\na,1,0\n", "no column image"),
        ("image\na\n", "no class column"),
        ("image,MEL,NV\na,1,0\nb,1,1\n", r"row 3 \(b\): 2 classes are marked \(MEL, NV\)"),
        ("image,MEL,NV\na,0,0\nb,1,0\n", r"row 2 \(a\): 0 classes are marked \(none\)"),
        ("image,MEL,NV\na,1,0\nb,yes,0\n", r"row 3 \(b\), column MEL: 'yes' is neither"),
        ("image,MEL,NV\na,1,0\nb,,1\n", r"row 3 \(b\), column MEL: .*nan.* is neither"),
        ("image,MEL,NV\na,0.5,0.5\n", r"row 2 \(a\), column MEL: .*0\.5.* is neither"),
        ("image,MEL,NV\na,1,0\nb,0,1\na,1,0\n", r"row 4, column image: 1 ids .*\(a\)"),
        ("image,MEL,NV\na,1,0\n,0,1\n", "row 3, column image: the image id is missing"),
        ("image,MEL,MEL\na,1,0\n", "names the column MEL twice"),
        ("image,MEL,NV\na,1,0,0\n", "cannot be read as CSV"),
        ("image,MEL,NV,UNK\na,0,0,1\n", "no image of the classes"),
    ],
)
@pytest.mark.filterwarnings("ignore:.*Metadata")
def test_broken_truth_names_file_place_and_value(tmp_path, truth, said):
    folder = isic(tmp_path, truth)
    with pytest.raises(DataError, match=said) as caught:
        read_table(folder)
    assert str(tmp_path) in str(caught.value)


@pytest.mark.parametrize(
    ("metadata", "said"),
    [
        (METADATA + "a,1,,L9,male\n", r"X_Metadata\.csv row 5, column image: 1 ids"),
        (METADATA.replace("45.0", "old"), r"row 3 \(a\), column age_approx: 'old' is no number"),
        ("picture,age_approx\na,3\n", r"X_Metadata\.csv has no column image"),
    ],
)
def test_broken_metadata_names_file_place_and_value(tmp_path, metadata, said):
    with pytest.raises(DataError, match=said):
        read_table(isic(tmp_path, metadata=metadata))


def test_binary_truth_is_an_error_and_no_crash(tmp_path):
    folder = isic(tmp_path)
    (folder / "X_GroundTruth.csv").write_bytes(os.urandom(2000) + b"\xff\x00")
    with pytest.raises(DataError, match=r"X_GroundTruth\.csv"):
        read_table(folder)


def test_ham_maps_codes_and_finds_images_in_its_parts(tmp_path):
    (tmp_path / "HAM10000_metadata.csv").write_text(HAM)
    touch(tmp_path / "HAM10000_images_part_1", "x1.jpg")
    touch(tmp_path / "ham10000_images_part_2", "x2.jpg")
    touch(tmp_path, "x3.jpg")
    table = read_table(tmp_path)
    assert table.classes == ("MEL", "AKIEC", "BKL")
    assert table.label_codes(["x1", "x2", "x3", "x4"]).tolist() == [2, 2, 0, 1]
    folders = [Path(row(table, name)["path"]).parent.name for name in ("x1", "x2", "x3")]
    assert folders == ["HAM10000_images_part_1", "ham10000_images_part_2", tmp_path.name]
    assert row(table, "x1")["lesion"] == row(table, "x2")["lesion"] == "H1"
    assert pd.isna(row(table, "x3")["sex"])
    assert pd.isna(row(table, "x3")["site"])


def test_ham_needs_its_columns(tmp_path):
    (tmp_path / "HAM10000_metadata.csv").write_text(HAM.replace("dx,", "diagnosis,", 1))
    with pytest.raises(DataError, match="no column dx; its header is lesion_id,image_id,diagnosis"):
        read_table(tmp_path)


def test_folders_take_names_as_classes_and_keep_ids_unique(tmp_path):
    touch(tmp_path / "nevus", "1.jpg", "2.jpg", "notes.txt")
    touch(tmp_path / "melanoma", "1.png")
    touch(tmp_path / ".hidden", "9.png")
    with pytest.warns(UserWarning, match="names no lesions"):
        table = read_table(tmp_path)
    assert table.classes == ("melanoma", "nevus")
    assert table.frame["id"].tolist() == ["melanoma/1", "nevus/1", "2"]
    assert all(Path(path).exists() for path in table.frame["path"])
    with pytest.warns(UserWarning, match="names no lesions"):
        ordered = read_table(tmp_path, classes=["nevus", "melanoma"])
    assert ordered.label_codes(["2"]).tolist() == [0]
    assert ordered.digest == table.digest  # the order of classes is no fact about an image


@pytest.mark.parametrize("layout", ["auto", "folders"])
def test_empty_folders_are_errors(tmp_path, layout):
    with pytest.raises(DataError, match=str(tmp_path)):
        read_table(tmp_path, layout)
    touch(tmp_path / "a")
    touch(tmp_path / "b")
    with pytest.raises(DataError, match=str(tmp_path)):
        read_table(tmp_path, layout)


def test_one_empty_class_folder_is_named(tmp_path):
    touch(tmp_path / "a", "1.jpg")
    touch(tmp_path / "b", "2.jpg")
    touch(tmp_path / "gone")
    with pytest.raises(DataError, match="class folder gone holds no image"):
        read_table(tmp_path)


def test_two_files_for_one_id_are_an_error(tmp_path):
    with pytest.raises(DataError, match=r"a\.jpg and a\.png: two files for the id a"):
        read_table(isic(tmp_path, images=("a.jpg", "a.png")))


def test_detection_says_what_it_looked_for(tmp_path):
    touch(tmp_path / "X_Input", "a.jpg")  # an archive without its truth is no class tree
    touch(tmp_path / "masks", "a.png")
    with pytest.raises(DataError, match=r"\*_GroundTruth\.csv .*HAM10000_metadata\.csv .*X_Input"):
        read_table(tmp_path)
    with pytest.raises(DataError, match="does not exist"):
        read_table(tmp_path / "nowhere")
    with pytest.raises(ConfigError, match="did you mean 'isic2019'"):
        read_table(tmp_path, layout="isic2018")
    isic(tmp_path)
    (tmp_path / "HAM10000_metadata.csv").write_text(HAM)
    with pytest.raises(DataError, match="isic2019 and ham10000; choose with layout="):
        read_table(tmp_path)


def test_absent_class_is_an_error(tmp_path):
    with pytest.raises(DataError, match="no class SCC; it has MEL, NV, BCC, UNK"):
        read_table(isic(tmp_path), classes=["MEL", "SCC"])


@settings(max_examples=25, deadline=None)
@given(
    st.lists(
        st.tuples(st.integers(0, 4), st.integers(0, 5), st.none() | st.integers(0, 100)),
        min_size=1,
        max_size=30,
    ),
    st.randoms(use_true_random=False),
)
def test_isic_equals_a_plain_loop(tmp_path_factory, rows, random):
    """Oracle: the csv module and dictionaries, with both files shuffled on their own."""
    classes = ["C", "A", "B", "D", "E"]
    folder = tmp_path_factory.mktemp("isic")
    truth = [
        [f"i{n}", *[int(k == label) for k in range(5)]] for n, (label, _, _) in enumerate(rows)
    ]
    facts = [[f"i{n}", "" if age is None else age, "", f"L{lesion}", "male"]
             for n, (_, lesion, age) in enumerate(rows)]  # fmt: skip
    random.shuffle(truth)
    random.shuffle(facts)
    header = ["image", "age_approx", "anatom_site_general", "lesion_id", "sex"]
    for name, head, lines in (("GroundTruth", ["image", *classes], truth),
                              ("Metadata", header, facts)):  # fmt: skip
        with open(folder / f"Z_{name}.csv", "w", newline="") as file:
            csv.writer(file).writerows([head, *lines])
    table = read_table(folder)
    assert table.classes == tuple(classes)
    for image, label, lesion, age in table.frame[["id", "label", "lesion", "age"]].itertuples(
        index=False
    ):
        expected = rows[int(image[1:])]
        assert (label, lesion) == (classes[expected[0]], f"L{expected[1]}")
        assert np.isnan(age) if expected[2] is None else age == expected[2]


def test_table_refuses_what_would_be_wrong_later():
    frame = pd.DataFrame({"id": ["a", "b"], "path": "p", "label": ["X", None]})
    assert Table(frame, ("X",)).label_codes(["b", "a"]).tolist() == [-1, 0]
    for broken, said in (
        (frame.assign(id="a"), "more than once"),
        (frame.assign(label="Y"), "labels Y are no class"),
        (frame.assign(id=["a", None]), "1 rows have no id"),
        (frame.drop(columns="path"), "no column path"),
        (frame.iloc[:0], "no image"),
    ):
        with pytest.raises(DataError, match=said):
            Table(broken, ("X",))
    with pytest.raises(DataError, match=r"1 of 2 ids are not in the table \(z\)"):
        Table(frame, ("X",)).rows(["a", "z"])


def test_digest_knows_id_label_and_lesion_only():
    frame = pd.DataFrame({"id": ["a", "b"], "path": "p", "label": ["X", "Y"], "lesion": "L"})
    digest = Table(frame, ("X", "Y")).digest
    same = [frame.iloc[::-1], frame.assign(path="q"), frame.assign(age=3)]
    other = [frame.assign(id=["a", "c"]), frame.assign(label="X"), frame.assign(lesion=["L", "M"])]
    assert {Table(f, ("Y", "X")).digest for f in same} == {digest}
    assert digest not in {Table(f, ("X", "Y")).digest for f in other}


def test_whole_of_ham10000(shared_folder):
    table = read_table(shared_folder / "data" / "ham10000")
    assert len(table) == 10_015
    assert table.frame["lesion"].nunique() == 7_470
    assert table.frame["label"].value_counts().to_dict() == SHARED_COUNTS
    assert table.classes == tuple(SHARED_COUNTS)
    assert all(os.path.exists(path) for path in table.frame["path"].iloc[::100])
    assert 0.16 < table.frame["site"].isna().mean() < 0.18
