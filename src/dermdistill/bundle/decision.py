"""How a network's outputs become answers: fitted on a run's validation part, kept in a file.

The test part has no say in it, so its figures still judge what is fitted here.
"""

import os
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from dermdistill.bundle.manifest import Abstention, Calibration, Conformal, Ood
from dermdistill.bundle.strict import decode
from dermdistill.config import EvaluationConfig
from dermdistill.errors import RunError
from dermdistill.evaluate.assess import read_part
from dermdistill.evaluate.calibration import fit_temperature
from dermdistill.evaluate.conformal import conformal_quantile, first_of_each
from dermdistill.evaluate.groups import units_of
from dermdistill.evaluate.selective import least_confidence
from dermdistill.run import read_json, write_json

DECISION = "decision.json"  # in the run directory


@dataclass(frozen=True)
class Decision:
    """What was fitted to a run's outputs; all of it optional."""

    calibration: Calibration | None = None
    abstention: Abstention | None = None
    conformal: Conformal | None = None
    ood: Ood | None = None

    @classmethod
    def of(cls, run: Path) -> "Decision":
        """A run's decision.json, or nothing where there is none.

        Raises:
            RunError: the file has other fields than these.
        """
        path = run / DECISION
        if not path.is_file():
            return cls()
        absent = {field.name: None for field in fields(cls)}
        try:
            return decode(absent | read_json(path), cls, DECISION)
        except ValueError as error:
            raise RunError(f"{path} cannot be used: {error}") from error


def write_decision(
    run: str | os.PathLike, settings: EvaluationConfig, ood: Ood | None = None
) -> Decision:
    """Fit what a run's validation predictions allow, and write `RUN/decision.json`.

    The temperature comes first; the thresholds are of the probabilities that it leaves. Sets are
    fitted on one image of each lesion, since their promise holds for independent images.

    Args:
        run: a run directory with the files of its validation part.
        settings: the promised coverage, and how often an answer should be right.
        ood: what was fitted to its embeddings, which no file of predictions has.

    Raises:
        DataError: a file is missing or malformed, or holds no labelled image.
    """
    trained, groups = read_part(run, "validation")
    scaling = fit_temperature(trained)
    validation = scaling.apply(trained)
    lesions = validation.subset(first_of_each(units_of(groups)))
    least, answered = least_confidence(validation, settings.answered_accuracy)
    decision = Decision(
        Calibration(
            temperature=float(1 / scaling.scale[0]),
            fitted_on="validation images",
            images=len(validation),
        ),
        Abstention(
            least_probability=least,
            fitted_on=f"{len(validation)} validation images, so that {settings.answered_accuracy:g}"
            " of the answered ones are right",
            answered_ratio=answered,
        ),
        Conformal(
            score="threshold",
            coverage=settings.coverage,
            quantile=conformal_quantile(lesions, settings.coverage),
            fitted_on=f"one image of each of {len(lesions)} validation lesions",
        ),
        ood,
    )
    write_json(Path(run) / DECISION, asdict(decision))
    return decision
