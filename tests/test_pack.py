"""The packed store: same bytes however it was made, whole or absent, and clear about failures."""

import json
import math
import os
import pickle
import shutil
import signal
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas
import pytest

from dermdistill.data.pack import CHUNK, Store, decode, pack
from dermdistill.errors import ConfigError, DataError
from packs import PX, contents, start, table_of


def test_rows_are_the_decoded_images(many, reference):
    paths = dict(zip(many.frame["id"], many.frame["path"], strict=True))
    assert len(reference) == len(many.frame) - 2
    assert reference.images.shape == (len(reference), PX, PX, 3)
    assert list(reference.ids) == [name for name in many.frame["id"]
                                   if name not in dict(reference.broken)]  # fmt: skip
    for row in (0, 2, 3, CHUNK, len(reference) - 1):
        expected = decode(paths[reference.ids[row]], PX, "centre")
        assert (reference.images[row] == expected).all()


def test_broken_images_are_listed_with_reasons(reference):
    reasons = dict(reference.broken)
    assert "truncated" in reasons["ISIC_0000003"]
    assert reasons[f"ISIC_{CHUNK + 1:07d}"] == "does not exist"
    settings = json.loads((reference.folder / "store.json").read_text())
    assert [entry["id"] for entry in settings["broken"]] == list(reasons)
    assert settings["bytes"] == math.prod(reference.images.shape)


def test_outcome_is_printed(photos, tmp_path, capsys):
    pack(table_of([*photos, tmp_path / "absent.jpg"]), tmp_path / "store", PX, workers=1)
    assert "packed 12 images of 48 px" in capsys.readouterr().err


def test_workers_do_not_change_the_store(many, reference, tmp_path):
    store = pack(many, tmp_path / "store", PX, workers=2, progress=False)
    assert contents(store.folder) == contents(reference.folder)


def test_pixels_ids_and_settings_change_the_digest(photos, tmp_path):
    tables = {"a": photos, "b": photos[1:], "c": photos[::-1]}
    digests = {pack(table_of(paths), tmp_path / name, PX, workers=1, progress=False).digest
               for name, paths in tables.items()}  # fmt: skip
    digests |= {pack(table_of(photos), tmp_path / crop, PX, crop, 1, False).digest
                for crop in ("squash", "pad")}  # fmt: skip
    assert len(digests) == 5


def wait_for(condition, what: str, limit_s: float = 20) -> None:
    end = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < end, what
        time.sleep(0.005)


@pytest.mark.parametrize("workers", [1, 2])
def test_killed_pack_continues_to_the_same_store(many, reference, tmp_path, workers):
    folder, work = tmp_path / "store", tmp_path / ".store.packing"
    journal = work / "journal.jsonl"
    process = start(tmp_path, many, folder, workers)
    wait_for(lambda: journal.exists() and "[" in journal.read_text(), "no chunk was packed")
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert "Traceback" not in process.stderr.read()  # ends: no worker is left to hold it open
    assert not folder.exists()
    assert (work / "images.npy").exists()
    store = pack(many, folder, PX, workers=1, progress=False)
    assert contents(folder) == contents(reference.folder)
    assert not work.exists()
    store.verify()


def test_lost_pixels_and_a_cut_journal_are_packed_again(many, reference, tmp_path):
    folder, work = tmp_path / "store", tmp_path / ".store.packing"
    process = start(tmp_path, many, folder, 1, "pack._describe = lambda *_: sys.exit(5)")
    assert process.wait() == 5
    images = np.load(work / "images.npy", mmap_mode="r+")
    images[5] = 0  # as after a power cut: noted as done, never on the disk
    images.flush()
    del images
    journal = (work / "journal.jsonl").read_text()
    (work / "journal.jsonl").write_text(journal[:-40])
    pack(many, folder, PX, workers=1, progress=False)
    assert contents(folder) == contents(reference.folder)


@pytest.mark.parametrize("step", ["write_json", "keep_rows", "os.rename"])
def test_a_kill_between_the_last_steps_loses_nothing(many, reference, tmp_path, step):
    folder = tmp_path / "store"
    process = start(tmp_path, many, folder, 1, f"pack.{step} = lambda *_: pack.os._exit(5)")
    assert process.wait() == 5
    assert not folder.exists()
    pack(many, folder, PX, workers=1, progress=False)
    assert contents(folder) == contents(reference.folder)


def test_an_interrupted_pack_of_other_settings_is_not_continued(many, photos, tmp_path):
    folder = tmp_path / "store"
    assert start(tmp_path, many, folder, 1, "pack._describe = lambda *_: sys.exit(5)").wait() == 5
    store = pack(table_of(photos), folder, 32, workers=1, progress=False)
    assert store.images.shape == (12, 32, 32, 3)
    store.verify()


def test_a_finished_store_is_opened_and_not_packed_again(many, reference):
    before = (reference.folder / "images.npy").stat().st_mtime_ns
    again = pack(many, reference.folder, PX, progress=False)
    assert again.digest == reference.digest
    assert (reference.folder / "images.npy").stat().st_mtime_ns == before


def test_another_store_is_never_overwritten(many, photos, reference, tmp_path):
    with pytest.raises(DataError, match="px: 48 there, 64 wanted"):
        pack(many, reference.folder, 64, progress=False)
    with pytest.raises(DataError, match="crop: centre there, pad wanted"):
        pack(many, reference.folder, PX, "pad", progress=False)
    with pytest.raises(DataError, match=r"images: 202 there, 12 wanted.*another folder"):
        pack(table_of(photos), reference.folder, PX, progress=False)
    changed = [tmp_path / path.name for path in photos]
    for path, source in zip(changed, photos[1:] + photos[:1], strict=True):
        shutil.copy(source, path)
    store = pack(table_of(photos), tmp_path / "store", PX, workers=1, progress=False)
    with pytest.raises(DataError, match="ids and file sizes"):
        pack(table_of(changed), store.folder, PX, progress=False)


def test_folder_that_holds_other_files(photos, tmp_path):
    (tmp_path / "thesis.tex").write_text("do not lose me")
    with pytest.raises(DataError, match="no packed store"):
        pack(table_of(photos), tmp_path, PX, progress=False)
    with pytest.raises(DataError, match="no packed store"):
        pack(table_of(photos), tmp_path / "thesis.tex", PX, progress=False)
    assert (tmp_path / "thesis.tex").read_text() == "do not lose me"


def test_folder_that_cannot_be_written(photos, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match=r"cannot pack into .*choose another folder"):
        pack(table_of(photos), tmp_path / "file" / "store", PX, progress=False)


def test_too_small_a_disk_is_told_before_the_work(tmp_path):
    free = shutil.disk_usage(tmp_path).free
    images = free // (4096**2 * 3) + 1
    table = SimpleNamespace(frame=pandas.DataFrame({
        "id": [str(number) for number in range(images)], "path": "absent.jpg"}))  # fmt: skip
    with pytest.raises(DataError, match=r"MB free.*a smaller px"):
        pack(table, tmp_path / "store", 4096, progress=False)
    assert {path.name for path in tmp_path.iterdir()} == {".store.lock"}


def test_failed_write_is_told_and_continued(many, reference, tmp_path):
    """A limit on file sizes stands for a disk that fills up in the middle."""
    limit = PX * PX * 3 * 100
    fault = (f"import resource; make = pack._begin\n    def begin(*a):\n        done = make(*a); "
             f"resource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, {limit})); return done\n"
             f"    pack._begin = begin")  # fmt: skip
    process = start(tmp_path, many, tmp_path / "store", 1, fault)
    message = process.communicate()[1]
    assert process.returncode == 1
    assert "DataError: cannot pack into" in message
    assert "it continues" in message
    assert "[0, [" in (tmp_path / ".store.packing" / "journal.jsonl").read_text()
    pack(many, tmp_path / "store", PX, workers=1, progress=False)
    assert contents(tmp_path / "store") == contents(reference.folder)


def test_nothing_readable_and_nothing_at_all(tmp_path):
    with pytest.raises(DataError, match=r"none of the 2 images.*does not exist"):
        pack(table_of(["absent.jpg"] * 2), tmp_path / "store", PX, progress=False)
    with pytest.raises(DataError, match="no images"):
        pack(table_of([]), tmp_path / "store", PX, progress=False)
    with pytest.raises(ConfigError, match="no crop 'middle'"):
        pack(table_of(["absent.jpg"]), tmp_path / "store", PX, "middle")


def test_rows_by_id(reference):
    ids = [reference.ids[row] for row in (7, 0, 7)]
    assert reference.rows(ids).tolist() == [7, 0, 7]
    assert reference.rows([]).dtype == np.int64
    with pytest.raises(DataError, match=r"2 of 3 .*ISIC_0000003 \(is truncated.*never packed"):
        reference.rows([*ids[:1], "ISIC_0000003", "ISIC_9999999"])


def test_pickled_store_maps_the_file_again(reference):
    data = pickle.dumps(reference)
    assert len(data) < 1000
    again = pickle.loads(data).images
    assert np.array_equal(again[np.arange(len(again))], reference.images[np.arange(len(again))])


@pytest.fixture
def copy(reference, tmp_path) -> Path:
    return Path(shutil.copytree(reference.folder, tmp_path / "copy"))


def test_changed_pixels_are_found_by_verify(copy):
    images = np.load(copy / "images.npy", mmap_mode="r+")
    images[9, 4, 4, 1] ^= 1
    images.flush()
    store = Store.open(copy)
    with pytest.raises(DataError, match=f"1 images: {store.ids[9]}"):
        store.verify()


def test_changed_index_is_found_by_verify(copy):
    index = (copy / "index.csv").read_text().splitlines()
    index[1], index[2] = (  # two ids swapped, pixels and their digests as they were
        index[2].split(",", 1)[0] + "," + index[1].split(",", 1)[1],
        index[1].split(",", 1)[0] + "," + index[2].split(",", 1)[1],
    )
    (copy / "index.csv").write_text("\n".join(index) + "\n")
    with pytest.raises(DataError, match="0 images: index"):
        Store.open(copy).verify()


def test_damaged_stores_are_not_opened(copy):
    images = copy / "images.npy"
    os.truncate(images, images.stat().st_size - 1000)
    with pytest.raises(DataError, match="delete the folder and pack again"):
        Store.open(copy)
    (copy / "store.json").write_text('{"format": 99}')
    with pytest.raises(DataError, match="format is 99"):
        Store.open(copy)
    (copy / "store.json").write_text("[")
    with pytest.raises(DataError, match="cannot be used"):
        Store.open(copy)
    with pytest.raises(DataError, match="data pack"):
        Store.open(copy / "absent")
