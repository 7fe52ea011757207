"""No lesion on two sides, every class near its share, the same split for everyone."""

import json
import warnings
from collections import Counter, defaultdict

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dermdistill.data.readers import read_table
from dermdistill.data.splits import Split, deal, make_split, torn_lesions
from dermdistill.data.table import Table
from dermdistill.errors import ConfigError, DataError

CLASSES = ("A", "B", "C")


def table_of(rows: list[tuple[str | None, str]]) -> Table:
    """A table from (label, lesion) of image i0, i1, ..."""
    labels, lesions = zip(*rows, strict=True)
    ids = [f"i{n:04d}" for n in range(len(rows))]
    frame = pd.DataFrame({"id": ids, "path": "p", "label": labels, "lesion": lesions})
    return Table(frame, CLASSES)


def parts_of(split: Split) -> dict[str, str]:
    return dict(zip(split.frame["id"], split.frame["part"], strict=True))


mixed_rows = st.lists(
    st.tuples(st.sampled_from([*CLASSES, None]), st.integers(0, 25).map(lambda n: f"L{n}")),
    min_size=1,
    max_size=120,
).filter(lambda rows: any(label for label, _ in rows))
# Lesions with one class each and one to three images, as real tables mostly hold.
pure_rows = st.lists(
    st.tuples(st.sampled_from(CLASSES), st.integers(1, 3)), min_size=5, max_size=150
).map(lambda lesions: [(c, f"L{n}") for n, (c, size) in enumerate(lesions) for _ in range(size)])


@settings(max_examples=40, deadline=None)
@given(mixed_rows, st.integers(2, 6), st.sampled_from([0.0, 0.1, 0.2, 0.5]), st.integers(0, 9))
def test_every_labelled_image_is_in_one_part_and_no_lesion_in_two(rows, folds, fraction, seed):
    table = table_of(rows)
    split = make_split(table, test_fraction=fraction, folds=folds, seed=seed)
    part = parts_of(split)
    assert sorted(part) == [f"i{n:04d}" for n, (label, _) in enumerate(rows) if label]
    assert len(split.frame) == len(part)
    sides = defaultdict(set)
    for n, (label, lesion) in enumerate(rows):
        if label:
            sides[lesion].add(part[f"i{n:04d}"])
    assert all(len(side) == 1 for side in sides.values())
    assert set(part.values()) <= set(split.parts)
    assert fraction > 0 or "test" not in part.values()


@settings(max_examples=20, deadline=None)
@given(mixed_rows, st.sampled_from(["lesion", "image"]), st.randoms(use_true_random=False))
@pytest.mark.filterwarnings("ignore:split by image")
def test_order_of_rows_and_of_classes_changes_nothing(rows, protocol, random):
    table = table_of(rows)
    order = list(range(len(rows)))
    random.shuffle(order)
    other = Table(table.frame.iloc[order], CLASSES[::-1])
    split, again = make_split(table, protocol), make_split(other, protocol)
    assert split.digest == again.digest
    pd.testing.assert_frame_equal(split.frame, again.frame)


@settings(max_examples=40, deadline=None)
@given(pure_rows, st.integers(2, 5), st.sampled_from([0.1, 0.2, 0.4]), st.integers(0, 9))
def test_every_class_is_within_two_lesions_of_its_share(rows, folds, fraction, seed):
    """Counted by a plain loop; the largest lesion has 3 images."""
    part = parts_of(make_split(table_of(rows), test_fraction=fraction, folds=folds, seed=seed))
    totals = Counter(label for label, _ in rows)
    counts = Counter((part[f"i{n:04d}"], label) for n, (label, _) in enumerate(rows))
    shares = {"test": fraction} | {f"fold{k}": (1 - fraction) / folds for k in range(folds)}
    for label, total in totals.items():
        for name, share in shares.items():
            assert abs(counts[name, label] - share * total) <= 2 * 3


@settings(max_examples=40, deadline=None)
@given(st.integers(2, 6), st.integers(0, 40), st.integers(0, 9))
def test_single_image_lesions_of_a_rare_class_are_spread(folds, extra, seed):
    """With as many lesions as parts, every part gets one: shares differ by less than half."""
    count = folds + 1 + extra
    rows = [("A", f"a{n}") for n in range(200)] + [("B", f"b{n}") for n in range(count)]
    part = parts_of(
        make_split(table_of(rows), folds=folds, test_fraction=1 / (folds + 1), seed=seed)
    )
    rare = Counter(part[f"i{200 + n:04d}"] for n in range(count))
    assert len(rare) == folds + 1
    assert max(rare.values()) - min(rare.values()) <= 1


def test_deal_agrees_with_a_greedy_loop_on_total_error():
    """Oracle: lesion by lesion, each to the part where the squared error of shares ends least."""
    rng = np.random.default_rng(3)
    lesions = rng.integers(0, 400, 900)
    classes = rng.choice(3, 400, p=[0.8, 0.15, 0.05])[lesions]
    mixed = rng.random(900) < 0.05
    classes[mixed] = rng.integers(0, 3, mixed.sum())
    shares = np.array([0.2, 0.4, 0.4])

    def error(part):
        counts = np.array([[((part == p) & (classes == c)).sum() for c in range(3)]
                           for p in range(3)])  # fmt: skip
        total = counts.sum(axis=0)
        return float((((counts / total) - shares[:, None]) ** 2).sum())

    greedy = np.full(900, -1)
    sizes = Counter(lesions.tolist())
    for lesion in sorted(sizes, key=lambda n: (-sizes[n], n)):
        held = lesions == lesion
        trials = []
        for p in range(3):
            trial = greedy.copy()
            trial[held] = p
            trials.append((error(trial), p))
        greedy[held] = min(trials)[1]
    ours = deal(lesions.astype(str), classes.astype(str), shares, seed=0)
    assert error(ours) <= max(error(greedy), 1e-4)


def test_seed_changes_the_split_and_only_the_seed():
    table = table_of([(CLASSES[n % 3], f"L{n // 2}") for n in range(300)])
    assert make_split(table, seed=1).digest == make_split(table, seed=1).digest
    assert parts_of(make_split(table, seed=1)) != parts_of(make_split(table, seed=2))


def test_the_largest_lesions_are_not_all_tested():
    """Kinds with one lesion each must go round the parts instead of all to the largest one."""
    rows = [("A", f"L{size}") for size in range(2, 26) for _ in range(size)]
    rows += [("A", f"single{n}") for n in range(1000)]
    split = make_split(table_of(rows))
    sizes = {n: int(lesion[1:]) for n, (_, lesion) in enumerate(rows) if lesion[1].isdigit()}
    part = parts_of(split)
    large = Counter(part[f"i{n:04d}"] for n, size in sizes.items() if size > 12)
    assert set(large) == set(split.parts)
    assert large["test"] / large.total() < 0.35


def test_classes_with_fewer_lesions_than_parts_do_not_crash():
    table = table_of([("A", f"a{n}") for n in range(30)] + [("B", "b")] * 4 + [("C", "c")])
    split = make_split(table)
    assert len(split.frame) == 35
    assert not torn_lesions(table.frame["lesion"], split.frame["part"])


@pytest.mark.parametrize("protocol", ["lesion", "image"])
@pytest.mark.filterwarnings("ignore:split by image")
def test_one_image_can_be_split(protocol):
    assert len(make_split(table_of([("A", "L")]), protocol).frame) == 1


def test_by_image_is_the_papers_procedure_and_warns():
    rows = [(CLASSES[n % 20 // 15 + (n % 20 == 19)], f"L{n // 4}") for n in range(1000)]
    table = table_of(rows)
    with pytest.warns(UserWarning, match="split by image") as caught:
        split = make_split(table, "image")
    part = parts_of(split)
    sides, tested = defaultdict(set), defaultdict(set)
    for n, (_, lesion) in enumerate(rows):
        sides[lesion].add(part[f"i{n:04d}"])
        tested[lesion].add(part[f"i{n:04d}"] == "test")
    torn = sum(len(side) > 1 for side in sides.values())
    both = sum(len(side) > 1 for side in tested.values())
    said = str(caught[0].message)
    assert f"{torn} lesions have images in more than one part" in said
    assert f"{both} of them both in test and in the folds" in said
    assert Counter(part.values())["test"] == 100
    assert (split.seed, split.test_fraction, split.folds) == (2021, 0.1, 5)
    counts = (
        pd.Series(part).groupby([pd.Series(part), table.frame["label"].to_numpy(object)]).size()
    )
    for label in CLASSES:
        folds = [counts.get((f"fold{k}", label), 0) for k in range(5)]
        assert max(folds) - min(folds) <= 1


def test_ids_of_parts():
    table = table_of([(CLASSES[n % 3], f"L{n}") for n in range(100)])
    split = make_split(table)
    train, validation, test = (split.ids(p, 2) for p in ("train", "validation", "test"))
    assert sorted(train + validation + test) == table.frame["id"].tolist()
    assert validation == split.ids("fold2")
    assert train == sorted(train)
    with pytest.raises(ConfigError, match="did you mean 'train'"):
        split.ids("trian")
    with pytest.raises(ConfigError, match="validation_fold is 5; the split has folds 0 to 4"):
        split.ids("train", 5)


def test_wrong_settings_are_refused():
    table = table_of([("A", "L")])
    with pytest.raises(ConfigError, match="did you mean 'lesion'"):
        make_split(table, "lesions")
    with pytest.raises(ConfigError, match=r"test_fraction is 1\.0"):
        make_split(table, test_fraction=1.0)
    with pytest.raises(ConfigError, match="folds is 1"):
        make_split(table, folds=1)


@settings(max_examples=20, deadline=None)
@given(mixed_rows, st.integers(0, 5))
def test_file_round_trip(tmp_path_factory, rows, seed):
    path = tmp_path_factory.mktemp("split") / "split.csv"
    table = table_of(rows)
    split = make_split(table, seed=seed)
    split.save(path)
    again = Split.load(path)
    assert again.digest == split.digest
    assert again.meta == split.meta
    pd.testing.assert_frame_equal(again.frame, split.frame)
    again.check(table)
    first, second = path.read_text().splitlines()[:2]
    assert json.loads(first.removeprefix("# "))["digest"] == split.digest
    assert second == "id,part"


def test_awkward_names_survive_the_file(tmp_path):
    ids = ["a,b", 'say "x"', "NA", " blank ", "ünï", "007"]
    frame = pd.DataFrame({"id": ids, "path": "p", "label": "A"})
    split = make_split(Table(frame, CLASSES))
    split.save(tmp_path / "s.csv")
    assert Split.load(tmp_path / "s.csv").frame["id"].tolist() == sorted(ids)


def test_a_changed_file_is_refused(tmp_path):
    path = tmp_path / "split.csv"
    make_split(table_of([(CLASSES[n % 3], f"L{n}") for n in range(50)])).save(path)
    text = path.read_text()
    lines = text.splitlines(keepends=True)
    changed = [
        text.replace(",test", ",fold0", 1),
        text.replace('"seed": 2021', '"seed": 2022'),
        "".join(lines[:-1]),  # cut off by a killed copy
        text.replace(",test", ",holdout", 1),
        "".join([*lines[:2], lines[3], lines[2], *lines[4:]]),
    ]
    for broken in changed:
        path.write_text(broken)
        with pytest.raises(DataError, match="was changed after it was written"):
            Split.load(path)
    headless, newer = "id,part\na,test\n", text.replace('"format": 1', '"format": 9')
    no_meta, no_json, no_part = "# {}\nid,part\n", "# not json\n", lines[0] + "id\na\n"
    for broken in ("", headless, newer, no_meta, no_json, no_part, lines[0], "# 3\nid,part\n"):
        path.write_text(broken)
        with pytest.raises(DataError, match="is no split file"):
            Split.load(path)
    path.write_bytes(b"\xff\xfe\x00garbage")
    with pytest.raises(DataError, match="is no split file"):
        Split.load(path)
    with pytest.raises(DataError, match="does not exist"):
        Split.load(tmp_path / "none.csv")


def test_another_table_is_refused():
    table = table_of([("A", "L1"), ("B", "L2")])
    other = table_of([("A", "L1"), ("B", "L3")])
    with pytest.raises(DataError, match=f"{table.digest} .* {other.digest}"):
        make_split(table).check(other)


def test_ham10000_by_lesion(shared_folder):
    table = read_table(shared_folder / "data" / "ham10000")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        split = make_split(table)
    dealt = table.frame.merge(split.frame, on="id")
    assert len(dealt) == len(table)
    assert (dealt.groupby("lesion")["part"].nunique() == 1).all()
    shares = pd.crosstab(dealt["label"], dealt["part"], normalize="index")
    assert (shares["test"] - 0.2).abs().max() < 0.01
    assert (shares.drop(columns="test") - 0.16).abs().to_numpy().max() < 0.01
