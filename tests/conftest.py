"""Fixtures that many tests share."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING

import numpy as np
import pytest
import scipy.special

import packs
from dermdistill.data.store import Store

if TYPE_CHECKING:
    from playwright.sync_api import Browser

SHARP = 0.02  # a temperature that makes small differences of logits large
CHECKOUT = Path(__file__).parents[1]


@pytest.fixture(scope="session")
def shared_folder() -> Path:
    """The folder with real images and golden values, which no checkout may contain."""
    folder = Path(os.environ.get("DERMDISTILL_SHARED", CHECKOUT.parent / "shared"))
    if not (folder / "data").is_dir():
        pytest.skip(f"no real images: {folder} is missing; set DERMDISTILL_SHARED")
    return folder


@pytest.fixture(scope="session")
def decided(tmp_path_factory, drawn) -> Path:
    """A run whose answers to the drawn images differ, with thresholds that divide them.

    A student of one epoch knows next to nothing, and its own temperature makes all classes alike:
    any page would show its probabilities.
    """
    import small
    from dermdistill.bundle import Bundle, open_runtime
    from dermdistill.bundle.decision import DECISION
    from dermdistill.export import BUNDLE
    from dermdistill.run import read_json, write_json

    run = tmp_path_factory.mktemp("decided") / "run"
    shutil.copytree(small.exported(), run)
    opened, decision = Bundle(run / BUNDLE), read_json(run / DECISION)
    pixels = np.stack([opened.preprocess(path) for path in drawn])
    answers = open_runtime(opened, "onnx", 1).predict(pixels)
    sharp = scipy.special.softmax(answers.logits / SHARP, axis=1).max(axis=1)
    decision["calibration"]["temperature"] = SHARP
    decision["abstention"]["least_probability"] = float(np.median(sharp))
    decision["ood"]["threshold"] = float(np.quantile(answers.ood_score, 0.7))
    write_json(run / DECISION, decision)
    return run


@pytest.fixture(scope="session")
def bundle(decided) -> Path:
    """That run's bundle in ONNX; to be read only."""
    from dermdistill.export import BUNDLE, export_run

    export_run(decided, ["onnx"])
    return decided / BUNDLE


@pytest.fixture(scope="session")
def drawn(tmp_path_factory) -> list[Path]:
    """Fifty drawn images of lesions, as JPEG files."""
    from dermdistill.data.phantom import synthesise

    folder = tmp_path_factory.mktemp("drawn")
    synthesise(folder, 50, 160, seed=11, workers=1)
    return sorted(folder.rglob("*.jpg"))


@pytest.fixture(scope="session")
def address(bundle) -> Iterator[str]:
    """Where `dermdistill serve` answers for that bundle."""
    import browser

    with browser.server(bundle) as address:
        yield address


@pytest.fixture(scope="module")  # playwright's event loop must not outlive those who use it
def chromium() -> Iterator["Browser"]:
    """A headless Chromium for all tests of a file."""
    pytest.importorskip("playwright")
    import browser

    with browser.chromium() as running:
        yield running


@pytest.fixture(scope="session")
def photos(tmp_path_factory) -> list[Path]:
    """A dozen different JPEGs."""
    return packs.draw_photos(tmp_path_factory.mktemp("photos"))


@pytest.fixture(scope="session")
def many(photos) -> SimpleNamespace:
    """A table of them in some chunks, with broken images in two."""
    return packs.with_broken(photos)


@pytest.fixture(scope="session")
def reference(many, tmp_path_factory) -> Store:
    """`many`, packed into one file by one process without interruption."""
    from dermdistill.data.pack import pack

    folder = tmp_path_factory.mktemp("reference") / "store"
    return pack(many, folder, packs.PX, workers=1, progress=False)
