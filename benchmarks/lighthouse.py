"""What Lighthouse says of the app: performance, accessibility, best practices, discoverability.

    python benchmarks/lighthouse.py BUNDLE

Lighthouse's own mobile profile: 4x slower processor, 1.6 Mbit/s, simulated. It runs from
`tests/node` (`make toolchains`). Prints each category's score and every audit below 1; exit 1 where
performance is below 0.9 or another category below 1. Installability, which Lighthouse dropped in
version 12, is asked of Chromium itself in tests/test_app.py.
"""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from browser import CHROMIUM, server

PROGRAM = Path(__file__).parents[1] / "tests/node/node_modules/lighthouse/cli/index.js"
LEAST = {"performance": 0.9, "accessibility": 1, "best-practices": 1, "seo": 1}


def examine(address: str) -> dict:
    """Lighthouse's report of a page."""
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / "report.json"
        subprocess.run(
            ["node", PROGRAM, address, "--quiet", "--output=json", f"--output-path={output}",
             "--no-enable-error-reporting",
             "--chrome-flags=--headless=new --no-sandbox --disable-gpu"],
            check=True, env=os.environ | {"CHROME_PATH": CHROMIUM},
        )  # fmt: skip
        return json.loads(output.read_text())


def main() -> int:
    """Print and judge."""
    with server(Path(sys.argv[1])) as address:
        report = examine(address)
    failed = []
    for name, category in report["categories"].items():
        print(f"{name}: {category['score']:.2f}")
        for part in category["auditRefs"]:
            audit = report["audits"][part["id"]]
            if audit["score"] is not None and audit["score"] < 1:
                shown = audit.get("displayValue", "")
                print(f"  {audit['score']:.2f} (weight {part['weight']}) {audit['title']} {shown}")
        if category["score"] < LEAST[name]:
            failed.append(name)
    print("fell short: " + ", ".join(failed) if failed else "all held")
    return int(bool(failed))


if __name__ == "__main__":
    sys.exit(main())
