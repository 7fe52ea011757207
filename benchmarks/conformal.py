"""Whether a run's conformal sets keep their promise on the lesions held out for the test.

    python benchmarks/conformal.py RUN

The sets are calibrated on the validation part and judged on the test part, one image a lesion in
both, since bounds hold for independent images. The last line is the verdict; exit 1 when a promise
is broken: a count outside the bounds that a kept promise leaves with chance 0.01.
"""

import argparse
import sys
from pathlib import Path

import numpy as np

from dermdistill.evaluate.conformal import conformal_sets, coverage_by_class, first_of_each
from dermdistill.evaluate.groups import load_groups, units_of
from dermdistill.evaluate.predictions import Predictions

COVERAGES = (0.8, 0.9, 0.95)
CHANCE = 0.01


def one_a_lesion(run: Path, part: str, groups: Path | None) -> Predictions:
    """The first image of every lesion of a part."""
    whole = Predictions.load(run / f"predictions-{part}.csv", run / f"truth-{part}.csv")
    facts = load_groups(groups or run / f"groups-{part}.csv", whole.ids)
    rows = first_of_each(units_of(facts))
    print(f"{part}: {len(whole)} images of {len(rows)} lesions")
    return whole.subset(rows)


def main() -> int:
    """Print every promise beside what happened, and judge."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("run", type=Path)
    parser.add_argument("--groups", type=Path, help="a table with columns image and lesion, for "
                        "runs that do not hold groups-PART.csv")  # fmt: skip
    options = parser.parse_args()
    validation, test = (one_a_lesion(options.run, part, options.groups)
                        for part in ("validation", "test"))  # fmt: skip
    rows = []
    print(f"{'promise':<10}{'kept for':<12}{'calibrated':>11}{'tested':>8}{'covered':>9}"
          f"{'bounds':>14}{'mean set':>10}")  # fmt: skip
    for coverage in COVERAGES:
        for per_class in (False, True):
            sets = conformal_sets(validation, test, coverage, per_class)
            made = coverage_by_class(sets, test, validation, coverage, per_class, CHANCE)
            for row in made:
                share = row.covered / row.tested if row.tested else np.nan
                print(f"{coverage:<10g}{row.name:<12}{row.calibrated:>11}{row.tested:>8}"
                      f"{share:>9.3f}{f'{row.least}-{row.most}':>14}{sets.sum(1).mean():>10.2f}"
                      f"{'' if row.kept else '   broken'}")  # fmt: skip
            rows += made
    broken = sum(not row.kept for row in rows)
    print(f"{'FAIL' if broken else 'PASS'}: {len(rows) - broken} of {len(rows)} counts lie within "
          f"the bounds that a kept promise leaves with chance {CHANCE:g}")  # fmt: skip
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
