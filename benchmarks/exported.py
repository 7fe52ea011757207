"""A run's bundle as a benchmark of formats asks for it: a given one, or one exported for it."""

import argparse
import contextlib
import tempfile
from collections.abc import Iterator
from pathlib import Path

from dermdistill.bundle import FORMATS, Bundle, can_run
from dermdistill.export import export_run


def options_of(doc: str) -> argparse.ArgumentParser:
    """The options that every such benchmark has."""
    parser = argparse.ArgumentParser(description=doc.partition("\n")[0])
    parser.add_argument("run", type=Path)
    parser.add_argument("--bundle", type=Path, help="by default one is exported")
    parser.add_argument("--formats", default="", help="of that; by default all that run here")
    return parser


@contextlib.contextmanager
def bundle_of(options: argparse.Namespace) -> Iterator[Bundle]:
    """The bundle that was named, or one of the run, gone when the block ends."""
    with tempfile.TemporaryDirectory() as folder:
        path = options.bundle
        if path is None:
            path = Path(folder) / "bundle.zip"
            formats = options.formats.split(",") if options.formats else filter(can_run, FORMATS)
            export_run(options.run, list(formats), path)
        yield Bundle(path)
