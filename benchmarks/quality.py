"""How often the app's picture warnings appear on dermoscopy and on other things.

    python benchmarks/quality.py FOLDER_OF_DERMOSCOPY FOLDER_OF_OTHER_IMAGES [--px 224]

Runs the app's own arithmetic (app/src/quality.js, in Node) on images that were preprocessed as a
bundle does. Exit 1 if more than 5 % of the dermoscopy is called unlike dermoscopy, or less than
half of the other images.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path

import numpy as np

from dermdistill.data.decode import decode

QUALITY = Path(__file__).parents[1] / "app/src/quality.js"
SCRIPT = """
import { LIMITS, measure, examine } from %s;
const [px, side] = process.argv.slice(1).map(Number);
const chunks = [];
for await (const chunk of process.stdin) chunks.push(chunk);
const all = Buffer.concat(chunks), size = px * px * 3;
const found = [];
for (let at = 0; at < all.length; at += size) {
  const pixels = all.subarray(at, at + size);
  found.push({ ...measure(pixels, px), faults: examine(pixels, px, px) });
}
console.log(JSON.stringify(found));
"""
MOST_WRONG, LEAST_FOUND = 0.05, 0.5


def measure(paths: list[Path], px: int) -> list[dict]:
    """What the app finds in images."""
    pixels = b"".join(decode(path, px, "centre", reduced=False).tobytes() for path in paths)
    command = ["node", "--input-type=module", "-e", SCRIPT % json.dumps(QUALITY.as_uri()), str(px)]
    done = subprocess.run(command, input=pixels, capture_output=True, check=True)
    return json.loads(done.stdout)


def main() -> int:
    """Print quantiles and rates of both folders."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("dermoscopy", type=Path)
    parser.add_argument("other", type=Path)
    parser.add_argument("--px", type=int, default=224)
    parser.add_argument("--every", type=int, default=1, help="of the dermoscopic images")
    options = parser.parse_args()
    rates = []
    for folder, every in ((options.dermoscopy, options.every), (options.other, 1)):
        kinds = {".jpg", ".jpeg", ".png"}
        paths = sorted(p for p in folder.rglob("*") if p.suffix.lower() in kinds)[::every]
        found = measure(paths, options.px)
        print(f"{folder}: {len(found)} images")
        for name in ("luma", "sharpness", "skin"):
            values = np.quantile([one[name] for one in found], [0, 0.01, 0.05, 0.5, 0.95, 1])
            print(f"  {name:<10}", " ".join(f"{value:9.4f}" for value in values))
        for fault in ("dark", "blurred", "unlike"):
            print(f"  {fault:<10} {np.mean([fault in one['faults'] for one in found]):.3f}")
        rates.append(np.mean(["unlike" in one["faults"] for one in found]))
    return int(rates[0] > MOST_WRONG or rates[1] < LEAST_FOUND)


if __name__ == "__main__":
    sys.exit(main())
