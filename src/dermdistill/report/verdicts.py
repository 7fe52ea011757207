"""What is better, and whether the interval allows to say so, in sentences."""

from collections.abc import Sequence

from dermdistill.evaluate.assess import AS_TRAINED, Assessment
from dermdistill.evaluate.intervals import Bootstrap, Difference
from dermdistill.evaluate.tally import Key
from dermdistill.evaluate.versus import Versus
from dermdistill.report.families import Family
from dermdistill.report.judged import HEADLINE, SIGNIFICANT, Judged, cell, worst_names

RANKED: dict[str, Key] = {
    "area under the curve for malignant": ("malignant", "auc"),
    "balanced accuracy (%)": HEADLINE,
}  # what a worst group is named by: the first that the images give


def with_interval(made: Bootstrap, key: Key, scale: float = 100.0, digits: int = 1) -> str:
    """The ends of a figure's interval in brackets, with its level; nothing where it has none."""
    ends = made.interval(key)
    if ends is None:
        return ""
    return f" ({100 * made.level:g} % interval {_ends(ends, scale, digits)})"


def difference_words(difference: Difference, level: float) -> str:
    """What a paired difference in [−1, 1] allows to say."""
    if difference.interval is None:
        return "There are too few images for an interval of the difference."
    low, high = difference.interval
    said = f"The {100 * level:g} % interval of the difference is {_ends((low, high))} points"
    if low <= 0 <= high:
        return f"{said}, which holds 0: these lesions do not tell the two apart."
    return f"{said}, which leaves 0 out: more than the luck of which lesions were drawn."


def ranking(judged: Sequence[Judged], versus: Sequence[Versus]) -> str | None:
    """How many of the other runs stand apart from the first; None without others."""
    tested = [
        (judged[one.place].tag, one.differences.get(HEADLINE), one.corrected.get(HEADLINE))
        for one in versus
    ]
    return _ranked(judged[0].tag, tested, "paired by lesion") if versus else None


def family_ranking(found: Sequence[Family]) -> str | None:
    """The same of the means over seeds; None without another family."""
    tested = [(family.label, family.difference, family.p_value) for family in found[1:]]
    how = "as means over seeds paired by lesion"
    return _ranked(found[0].label, tested, how) if tested else None


def _ranked(
    first: str, tested: Sequence[tuple[str, Difference | None, float | None]], how: str
) -> str:
    apart: dict[str, list[str]] = {"better": [], "worse": []}
    for name, made, p_value in tested:
        if made is not None and p_value is not None and p_value < SIGNIFICANT:
            apart["better" if made.value > 0 else "worse"].append(name)
    level = [name for name, _, _ in tested if name not in apart["better"] + apart["worse"]]
    parts = [f"{', '.join(names)} {'is' if len(names) == 1 else 'are'} {side}"
             for side, names in apart.items() if names]  # fmt: skip
    if level:
        parts.append(f"{', '.join(level)} cannot be told apart from it")
    return (
        f"Against {first} in balanced accuracy, {how} and corrected for "
        f"{len(tested)} comparison{'s' if len(tested) > 1 else ''}: {'; '.join(parts)}."
    )


def family_words(family: Family) -> str:
    """What the seeds of one method reach together."""
    made, spread = family.mean, family.spread(HEADLINE)
    said = (
        f"Over {len(family.members)} seeds {family.label} reaches a mean balanced accuracy of "
        f"{100 * made.point[HEADLINE]:.1f} %{with_interval(made, HEADLINE)}"
    )
    return f"{said}; between seeds its standard deviation is {100 * spread:.1f} points."


def calibration_words(made: Assessment) -> str:
    """How far the probabilities can be believed, and what a temperature mends."""
    confidence = made.test.probabilities.max(axis=1).mean()
    right = made.made.point["accuracy",]
    side = "more" if confidence > right else "less"
    error, mended = (made.calibration[name]["ece_mass"] for name in (AS_TRAINED, "temperature"))
    return (
        f"It is on average {100 * confidence:.1f} % confident and {100 * right:.1f} % right, "
        f"{side} sure than it should be: its calibration error is {100 * error:.1f} %, and "
        f"{100 * mended:.1f} % after temperature scaling on the validation part."
    )


def group_words(made: Assessment) -> str | None:
    """The group that fares worst in every column; None where nothing divides the images."""
    for label, key in RANKED.items():
        worst = worst_names(made, key)
        if not worst:
            continue
        parts = []
        for column, name in worst.items():
            group = next(one for one in made.groups[column] if one.name == name)
            parts.append(f"{column} {name} with {cell(group.made, key)}")
        return (
            f"The groups with the lowest {label} are {'; '.join(parts)}, against "
            f"{cell(made.made, key)} overall. Intervals that overlap say little."
        )
    return None


def _ends(ends: Sequence[float], scale: float = 100.0, digits: int = 1) -> str:
    low, high = (f"{scale * end:.{digits}f}".replace("-", "−") for end in ends)
    return f"{low} to {high}"
