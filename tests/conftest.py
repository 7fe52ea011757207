"""Fixtures that many tests share."""

import os
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).parents[1]


@pytest.fixture(scope="session")
def shared_folder() -> Path:
    """The folder with real images and golden values, which no checkout may contain."""
    folder = Path(os.environ.get("DERMDISTILL_SHARED", CHECKOUT.parent / "shared"))
    if not (folder / "data").is_dir():
        pytest.skip(f"no real images: {folder} is missing; set DERMDISTILL_SHARED")
    return folder
