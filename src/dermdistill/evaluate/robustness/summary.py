"""One figure for a whole set of corruptions, from the figures of each."""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from dermdistill.evaluate.intervals import LEAST_SHARE

CLEAN = "clean"
MEANS = ("clean_error", "mean_error", "mean_corruption_error", "relative_mean_corruption_error")
ERROR = "balanced_accuracy"  # the error is 1 minus it: a common class must not hide a rare one


def corruption_errors(
    rows: Iterable[dict[str, Any]], network: str, reference: str
) -> dict[str, Any]:
    """Errors of a network under each corruption, and as a ratio to a reference network's.

    The error E is 1 - balanced accuracy, where the paper has the top-1 error of balanced classes.

    Args:
        rows: dicts with network, corruption ("clean" once), severity and balanced_accuracy.
        network: whose errors.
        reference: whose errors they are divided by; without rows of it (or if it is the network
            itself) the ratios are None.

    Returns:
        clean_error, mean_error (over corruptions and severities): in [0, 1].
        per_corruption: name -> errors by severity, mean, and ratio = sum E / sum E_reference.
        mean_corruption_error: the mean ratio; below 1 is better than the reference.
        relative_mean_corruption_error: the same of E - E_clean: what corruption adds to the error.

    Source: Hendrycks and Dietterich, Benchmarking Neural Network Robustness to Common Corruptions
    and Perturbations, ICLR 2019, section 4.
    """
    errors: dict[str, dict[str, list[float]]] = {}
    for row in sorted(rows, key=lambda row: row["severity"]):
        own = errors.setdefault(row["network"], {})
        own.setdefault(row["corruption"], []).append(1 - row[ERROR])
    clean, mine = errors[network][CLEAN][0], _without_clean(errors[network])
    theirs = {} if reference == network else errors.get(reference, {})
    reference_clean = theirs.get(CLEAN, [0.0])[0]
    per_corruption, relative = {}, []
    for name, values in mine.items():
        ratio = None
        if name in theirs:
            ratio = _ratio(values, theirs[name])
            added = [value - clean for value in values]
            relative.append(_ratio(added, [value - reference_clean for value in theirs[name]]))
        per_corruption[name] = {"errors": values, "mean": float(np.mean(values)), "ratio": ratio}
    ratios = [entry["ratio"] for entry in per_corruption.values()]
    return {
        "error": f"1 - {ERROR}",
        "reference": reference if theirs else None,
        "clean_error": clean,
        "reference_clean_error": reference_clean if theirs else None,
        "mean_error": float(np.mean([entry["mean"] for entry in per_corruption.values()])),
        "mean_corruption_error": _mean(ratios),
        "relative_mean_corruption_error": _mean(relative),
        "per_corruption": per_corruption,
    }


def error_intervals(
    rows: Sequence[dict[str, Any]],
    draws: Sequence[np.ndarray],
    network: str,
    reference: str,
    level: float,
) -> dict[str, list[float] | None]:
    """Ends of the means of `corruption_errors` over lesions drawn anew, by percentiles.

    Every condition and both networks see the same draws, so a ratio's interval knows that what is
    hard for one is hard for the other.

    Args:
        rows: as for `corruption_errors`.
        draws: of each row's balanced accuracy, float64 [draws], the same draws in all rows.
        network: as for `corruption_errors`.
        reference: likewise.
        level: the share of intervals that should hold the truth.

    Returns:
        Name of a mean -> its two ends; None where too few draws give it.
    """
    found = [
        corruption_errors(
            [row | {ERROR: float(values[draw])} for row, values in zip(rows, draws, strict=True)],
            network, reference,
        )
        for draw in range(len(draws[0]))
    ]  # fmt: skip
    tails = [(1 - level) / 2, (1 + level) / 2]
    values = {name: [each[name] for each in found if each[name] is not None] for name in MEANS}
    return {
        name: np.quantile(given, tails).tolist() if len(given) >= LEAST_SHARE * len(found) else None
        for name, given in values.items()
    }


def _without_clean(errors: dict[str, list[float]]) -> dict[str, list[float]]:
    return {name: values for name, values in errors.items() if name != CLEAN}


def _ratio(mine: Sequence[float], theirs: Sequence[float]) -> float | None:
    """Of the sums; None where the reference has nothing to compare with."""
    return float(sum(mine) / sum(theirs)) if sum(theirs) > 0 else None


def _mean(values: Sequence[float | None]) -> float | None:
    """None as soon as one is missing: a mean of fewer corruptions is another figure."""
    if not values or None in values:
        return None
    return float(np.mean(values))
