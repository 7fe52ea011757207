"""Whether each of a browser's engines answers as Python does, with a real student and real images.

    python benchmarks/app_engines.py BUNDLE FOLDER [--every 4]

Opens the app in headless Chromium once for every format of the bundle that runs in browsers, asks
about images of the folder, and compares with `dermdistill predict` by the same format. Exit 1 where
a probability differs by more than 1e-3 (fp32) or 0.02 (int8), or where another format answered.
"""

import argparse
import sys
from pathlib import Path

import numpy as np

from dermdistill.app.site import BROWSER_MODELS
from dermdistill.bundle import Bundle
from dermdistill.bundle.predict import predict_files

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from browser import Visit, chromium, server

MOST = {"fp32": 1e-3, "int8": 0.02}  # of a probability


def difference(running, bundle: Path, name: str, paths: list[Path]) -> float:
    """The largest between the page's probabilities and Python's."""
    expected, _ = predict_files(bundle, [str(path) for path in paths], name)
    with server(bundle, "--formats", name) as address:
        visit = Visit(running, address)
        visit.open()
        answers = [visit.ask(path) for path in paths]
        assert visit.errors == []
        visit.close()
    found = np.array([[answer[one] for one in expected.classes] for answer in answers])
    return float(np.abs(found - expected.probabilities).max())


def main() -> int:
    """Measure and judge."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("bundle", type=Path)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--every", type=int, default=4)
    options = parser.parse_args()
    paths = sorted(options.folder.glob("*.jpg"))[:: options.every]
    models, failed = Bundle(options.bundle).manifest.models, []
    with chromium() as running:
        for name in (one for one in BROWSER_MODELS if one in models):
            found = difference(running, options.bundle, name, paths)
            print(f"{name}: {found:.2g} of a probability on {len(paths)} images")
            if found > MOST[models[name].precision]:
                failed.append(name)
    print("fell short: " + ", ".join(failed) if failed else "all held")
    return int(bool(failed))


if __name__ == "__main__":
    sys.exit(main())
