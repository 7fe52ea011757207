"""Fixtures that many tests share."""

import os
from pathlib import Path
from types import SimpleNamespace

import pytest

import packs
from dermdistill.data.store import Store

CHECKOUT = Path(__file__).parents[1]


@pytest.fixture(scope="session")
def shared_folder() -> Path:
    """The folder with real images and golden values, which no checkout may contain."""
    folder = Path(os.environ.get("DERMDISTILL_SHARED", CHECKOUT.parent / "shared"))
    if not (folder / "data").is_dir():
        pytest.skip(f"no real images: {folder} is missing; set DERMDISTILL_SHARED")
    return folder


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
