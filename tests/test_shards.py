"""A store of several files: the same images as one file's, whatever was broken or killed."""

import shutil
from dataclasses import replace

import numpy as np
import pytest

import small
from dermdistill.data.pack import Store, pack
from dermdistill.errors import ConfigError, DataError
from dermdistill.train.order import epoch_order
from packs import PX, contents, start

SHARD = 50  # images a file: fewer than a worker's chunk, and no divisor of anything


@pytest.fixture(scope="module")
def spread(many, tmp_path_factory) -> Store:
    """`many` in five files, three of them whole and two with a gap."""
    return pack(many, tmp_path_factory.mktemp("spread") / "store", PX, workers=1, progress=False,
                shard_images=SHARD)  # fmt: skip


def test_several_files_hold_what_one_holds(spread, reference):
    assert sorted(path.name for path in spread.folder.glob("*.npy")) == [
        f"images-{k:05d}.npy" for k in range(5)]  # fmt: skip
    assert (spread.digest, spread.ids) == (reference.digest, reference.ids)
    assert np.bincount(spread.shard_of).tolist() == [49, 49, 50, 50, 2]
    assert spread.images.shape == reference.images.shape
    rng = np.random.default_rng(0)
    for rows in (rng.integers(0, len(spread), 64), np.arange(len(spread)), np.array([], int)):
        assert np.array_equal(spread.images[rows], reference.images[rows])
    for row in (0, 48, 49, 98, len(spread) - 1):
        assert np.array_equal(spread.images[row], reference.images[row])
    for row in (-1, len(spread)):
        with pytest.raises(IndexError):
            spread.images[np.array([0, row])]
    spread.verify()


def test_a_file_of_nothing_but_broken_images_is_left_out(many, reference, tmp_path):
    store = pack(many, tmp_path / "store", PX, workers=1, progress=False, shard_images=1)
    assert len(list(store.folder.glob("*.npy"))) == len(reference)
    assert store.digest == reference.digest
    assert np.array_equal(store.images[np.arange(80)], reference.images[np.arange(80)])


@pytest.mark.parametrize("kept_files", [0, 1, 3])
def test_a_kill_while_gaps_are_closed_loses_nothing(many, spread, tmp_path, kept_files):
    fault = ("done, keep = [], pack.keep_rows; pack.keep_rows = lambda *a: keep(*a) if "
             f"len(done) < {kept_files} and not done.append(1) else pack.os._exit(5)")  # fmt: skip
    folder = tmp_path / "store"
    assert start(tmp_path, many, folder, 1, fault, SHARD).wait() == 5
    assert not folder.exists()
    journal = tmp_path / ".store.packing" / "journal.jsonl"
    journal.write_text("no longer needed: all is decoded")
    pack(many, folder, PX, workers=1, progress=False, shard_images=SHARD)
    assert contents(folder) == contents(spread.folder)


def test_an_interrupted_pack_continues_in_its_files(many, spread, tmp_path):
    folder = tmp_path / "store"
    fault = "pack._describe = lambda *_: sys.exit(5)"
    assert start(tmp_path, many, folder, 1, fault, SHARD).wait() == 5
    work = tmp_path / ".store.packing"
    lines = (work / "journal.jsonl").read_text().splitlines()
    images = np.load(work / "images-00002.npy", mmap_mode="r+")
    images[7] = 0  # lost: noted as done, never on the disk
    images.flush()
    (work / "journal.jsonl").write_text("\n".join(lines[:-1]))
    pack(many, folder, PX, workers=2, progress=False, shard_images=SHARD)
    assert contents(folder) == contents(spread.folder)


def test_how_a_finished_store_is_spread_does_not_matter(many, spread, reference):
    assert pack(many, spread.folder, PX, progress=False).digest == reference.digest
    again = pack(many, reference.folder, PX, progress=False, shard_images=SHARD)
    assert not again.shard_of.any()
    with pytest.raises(ConfigError, match="shard_images is -1"):
        pack(many, reference.folder, PX, progress=False, shard_images=-1)


def test_each_file_is_verified_when_it_is_first_named(spread, tmp_path):
    store = Store.open(shutil.copytree(spread.folder, tmp_path / "store"))
    images = np.load(store.folder / "images-00003.npy", mmap_mode="r+")
    images[1, 0, 0, 0] ^= 255
    images.flush()
    first, bad = np.flatnonzero(store.shard_of == 3)[:2]
    store.check(np.flatnonzero(store.shard_of != 3))
    store.check()
    with pytest.raises(DataError, match=rf"1 images: {store.ids[bad]}"):
        store.check(np.array([first]))
    (store.folder / "images-00004.npy").unlink()
    with pytest.raises(DataError, match="cannot be read any more"):
        store.check()
    with pytest.raises(DataError, match="cannot be used"):
        Store.open(store.folder)


def test_a_store_may_not_name_files_elsewhere(spread, tmp_path):
    folder = shutil.copytree(spread.folder, tmp_path / "store")
    settings = (folder / "store.json").read_text().replace("images-00004.npy", "../x.npy")
    (folder / "store.json").write_text(settings)
    with pytest.raises(DataError, match="outside the folder"):
        Store.open(folder)


def test_an_epoch_by_files_shows_the_same_images_few_files_at_a_time():
    data = small.dataset()
    part, files = data.train, 7
    store = shutil.copytree(data.store.folder, small.scratch() / "by-files", dirs_exist_ok=True)
    several = replace(part, store=Store.open(store))
    several.store.shard_of = np.arange(len(data.store)) * files // len(data.store)
    for power in (0.0, 1.0):
        whole = epoch_order(part, power, 1, 0)
        assert np.array_equal(whole, epoch_order(several, power, 1, 0))
        order = epoch_order(several, power, 1, 0, shuffle_shards=2)
        assert sorted(order) == sorted(whole)
        visited = several.store.shard_of[several.rows[order]]
        windows = [set(visited[visited == k]) and k for k in range(files)]
        assert len(windows) == files
        spans = {k: np.flatnonzero(visited == k)[[0, -1]] for k in range(files)}
        together = [{j for j in spans if spans[j][0] <= place <= spans[j][1]}
                    for place in range(len(order))]  # fmt: skip
        assert max(map(len, together)) == 2
        assert any(np.diff(visited[:10]) != 0)  # shuffled within a window, not file after file
        assert not np.array_equal(order, epoch_order(several, power, 1, 1, shuffle_shards=2))
