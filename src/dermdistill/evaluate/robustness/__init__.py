"""How a run's answers hold: under dermoscopy's corruptions, and under attack.

Written into `RUN/robustness/`: `robustness.json`; `corruptions.csv` and `attacks.csv`, a row a
condition with an interval drawn by lesion; `predictions/`, every condition's probabilities in
ISIC's form, with `truth.csv`; `corruptions.png` (figures) and `examples.png` (what was shown).
"""

from pathlib import Path
from typing import Any

from dermdistill.errors import ConfigError
from dermdistill.evaluate.opened import open_run
from dermdistill.evaluate.robustness.attacked import ATTACK_COLUMNS, attack_conditions, attacked
from dermdistill.evaluate.robustness.corrupted import CORRUPTION_COLUMNS, corrupted
from dermdistill.evaluate.robustness.corruptions import CORRUPTIONS
from dermdistill.evaluate.robustness.pictures import contact_sheet, corruption_figure
from dermdistill.evaluate.robustness.purify import Purification
from dermdistill.evaluate.robustness.summary import corruption_errors, error_intervals
from dermdistill.models import Backbone
from dermdistill.run import RESEARCH_NOTICE, write_csv, write_json

FOLDER, SUMMARY = "robustness", "robustness.json"


def robustness_run(
    run: Path,
    images: int = 400,
    attack_images: int = 64,
    corruptions: tuple[str, ...] = tuple(CORRUPTIONS),
    teacher: bool = True,
    purification: Purification | None = None,
    progress: bool = True,
) -> dict[str, Any]:
    """Score a run on corrupted and on attacked test images; write `RUN/robustness/`.

    Args:
        run: a finished run of a network.
        images: corrupted test images, drawn by the run's seed; 0 takes all.
        attack_images: attacked test images, likewise the first of another draw; 0 attacks none.
        corruptions: which of `CORRUPTIONS`.
        teacher: compare the corruptions with the run's teacher, if it had one.
        purification: the defence that is attacked; None is the default one.
        progress: show a bar with the time left.

    Returns:
        What `robustness.json` holds.

    Raises:
        ConfigError: a negative number of images.
        RunError, DataError: the run or its images cannot be used.
    """
    if images < 0 or attack_images < 0:
        raise ConfigError(f"images is {images}, attack_images {attack_images}: both 0 or more")
    opened = open_run(run, progress)
    folder, seed = run / FOLDER, opened.config.seed
    networks: dict[str, Backbone] = {opened.origin["stage"]: opened.network}
    if teacher and opened.teacher_folder is not None:
        networks["teacher"] = opened.teacher()
    shown = opened.data.test.some(images, seed)
    rows, draws = corrupted(opened, networks, shown, corruptions, folder, progress)
    write_csv(folder / "corruptions.csv", CORRUPTION_COLUMNS,
              [[row[name] for name in CORRUPTION_COLUMNS] for row in rows])  # fmt: skip
    summary: dict[str, Any] = {
        "notice": RESEARCH_NOTICE,
        "images": len(shown),
        "corruptions": corruption_errors(rows, opened.origin["stage"], reference="teacher"),
    }
    level = opened.config.evaluation.level
    summary["corruptions"]["intervals"] = {"level": level} | error_intervals(
        rows, draws, opened.origin["stage"], "teacher", level
    )
    if attack_images:
        defence = purification or Purification()
        few = opened.data.test.some(attack_images, seed + 1)
        hits = attacked(opened, few, defence, folder, progress)
        write_csv(folder / "attacks.csv", ATTACK_COLUMNS,
                  [[row[name] for name in ATTACK_COLUMNS] for row in hits])  # fmt: skip
        summary["attacks"] = attack_conditions(defence, len(few)) | {"rows": hits}
    corruption_figure(folder / "corruptions.png", rows, run.name)
    contact_sheet(folder / "examples.png", shown, corruptions, seed)
    write_json(folder / SUMMARY, summary)
    return summary
