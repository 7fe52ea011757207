"""How often the app warns about real dermoscopy, and about pictures of other things.

    python benchmarks/strangers.py OTHERS
    python benchmarks/quality.py BUNDLE DERMOSCOPY OTHERS [--only RUN/predictions-test.csv]

"unlike" is the bundle's own score above its own threshold (docs/bundle.md), as page and API say
it; "colour" and the others are the page's arithmetic on the same pixels (app/src/quality.js, in
Node). Rates have 95 % Wilson intervals. Exit 1 if more than a tenth of the dermoscopy is called
unlike, or less than half of the other pictures.
"""

import argparse
import csv
import json
import subprocess
import sys
from pathlib import Path

import numpy as np

from dermdistill.bundle import Bundle, open_runtime

QUALITY = Path(__file__).parents[1] / "app/src/quality.js"
SCRIPT = """
import { examine } from %s;
const [px] = process.argv.slice(1).map(Number);
const chunks = [];
for await (const chunk of process.stdin) chunks.push(chunk);
const all = Buffer.concat(chunks), size = px * px * 3;
const found = [];
for (let at = 0; at < all.length; at += size) {
  found.push(examine(all.subarray(at, at + size), px, px));
}
console.log(JSON.stringify(found));
"""
MOST_WRONG, LEAST_FOUND = 0.1, 0.5
KINDS, CHUNK = {".jpg", ".jpeg", ".png"}, 64


def page_faults(pixels: np.ndarray) -> list[list[str]]:
    """What the page finds in squares of pixels [n][px][px][3]."""
    script = SCRIPT % json.dumps(QUALITY.as_uri())
    command = ["node", "--input-type=module", "-e", script, str(pixels.shape[1])]
    done = subprocess.run(command, input=pixels.tobytes(), capture_output=True, check=True)
    return json.loads(done.stdout)


def rates(bundle: Bundle, paths: list[Path]) -> dict[str, np.ndarray]:
    """Warning -> whether each image gets it; with what colours and the score say together."""
    pixels = np.stack([bundle.preprocess(path) for path in paths])
    runtime, ood = open_runtime(bundle, "onnx", 1), bundle.manifest.ood
    chunks = (pixels[at : at + CHUNK] for at in range(0, len(pixels), CHUNK))
    scores = np.concatenate([runtime.predict(chunk).ood_score[:, 0] for chunk in chunks])
    faults = page_faults(pixels)
    names = sorted({name for one in faults for name in one})
    found = {name: np.array([name in one for one in faults]) for name in names}
    colour = np.array(["unlike" in one for one in faults])
    unlike = scores > ood.threshold
    return found | {"unlike": unlike, "colour": colour, "either": unlike | colour}


def wilson(hits: np.ndarray) -> str:
    """A rate with its 95 % interval (Wilson, 1927)."""
    n, p, z = len(hits), hits.mean(), 1.96
    middle, half = p + z**2 / (2 * n), z * np.sqrt(p * (1 - p) / n + (z / (2 * n)) ** 2)
    low, high = ((middle + sign * half) / (1 + z**2 / n) for sign in (-1, 1))
    return f"{p:.3f} ({low:.3f} to {high:.3f})"


def main() -> int:
    """Print and judge."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("bundle", type=Path)
    parser.add_argument("dermoscopy", type=Path)
    parser.add_argument("others", type=Path)
    parser.add_argument("--only", type=Path, help="CSV whose column `image` names the dermoscopy")
    parser.add_argument("--every", type=int, default=1, help="of the dermoscopic images")
    options = parser.parse_args()
    bundle, unlike = Bundle(options.bundle), []
    wanted = None
    if options.only:
        wanted = {row["image"] for row in csv.DictReader(options.only.open())}
    groups = [
        options.dermoscopy,
        *sorted(path for path in options.others.iterdir() if path.is_dir()),
    ]
    for folder in groups:
        paths = sorted(path for path in folder.rglob("*") if path.suffix.lower() in KINDS)
        if folder is options.dermoscopy:
            paths = [path for path in paths if wanted is None or path.stem in wanted]
            paths = paths[:: options.every]
        found = rates(bundle, paths)
        print(f"{folder}: {len(paths)} images")
        for name, hits in found.items():
            print(f"  {name:<8} {wilson(hits)}")
        unlike.append(found["unlike"])
    others = np.concatenate(unlike[1:])
    print(f"all others: {len(others)} images, unlike {wilson(others)}")
    return int(unlike[0].mean() > MOST_WRONG or others.mean() < LEAST_FOUND)


if __name__ == "__main__":
    sys.exit(main())
