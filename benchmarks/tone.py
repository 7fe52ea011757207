"""How far the apparent skin tone can be trusted: photographs of one lesion should agree.

    dermdistill data tone FOLDER TONE.csv --masks MASKS
    python benchmarks/tone.py TONE.csv FOLDER/ISIC_2019_Training_Metadata.csv

Prints, for pairs of images of one lesion and for pairs of different lesions, the median difference
of the angle and how often both fall into the same range; and the share of the angle's variance
that lies between lesions (one-way intraclass correlation).
"""

import sys

import numpy as np
import pandas as pd

SEED = 2021


def pairs(frame: pd.DataFrame) -> pd.DataFrame:
    """The first two images of every lesion that has two, a row a lesion."""
    repeated = frame.groupby("lesion_id").filter(lambda group: len(group) > 1)
    ordered = repeated.sort_values("image").groupby("lesion_id")
    first, second = (ordered.nth(place).set_index("lesion_id") for place in (0, 1))
    return first.join(second.add_suffix("_again"))


def agreement(first: pd.DataFrame, second: pd.DataFrame) -> tuple[float, float]:
    """Median difference in degrees, and share in the same range."""
    apart = np.abs(first["ita_deg"].to_numpy() - second["ita_deg"].to_numpy())
    same = first["tone"].to_numpy() == second["tone"].to_numpy()
    return float(np.median(apart)), float(same.mean())


def main(tone_path: str, metadata_path: str) -> None:
    """Print the comparison."""
    frame = pd.read_csv(tone_path).merge(
        pd.read_csv(metadata_path)[["image", "lesion_id"]], on="image"
    )  # fmt: skip
    print(frame["tone"].fillna("not measured").value_counts().to_string())
    both = pairs(frame.dropna(subset=["ita_deg", "lesion_id"]))
    again = both[["ita_deg_again", "tone_again"]].set_axis(["ita_deg", "tone"], axis=1)
    shuffled = again.sample(frac=1, random_state=SEED)
    for name, other in (("one lesion", again), ("different lesions", shuffled)):
        apart, same = agreement(both, other)
        print(f"{name}: median difference {apart:.1f} degrees, same range {same:.1%}")
    values = both[["ita_deg", "ita_deg_again"]].to_numpy()
    between, within = 2 * values.mean(1).var(ddof=1), (np.diff(values)[:, 0] ** 2 / 2).mean()
    print(f"{len(both)} lesions, intraclass correlation "
          f"{(between - within) / (between + within):.3f}")  # fmt: skip


if __name__ == "__main__":
    main(*sys.argv[1:])
