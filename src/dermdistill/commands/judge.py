"""Commands that judge and show finished runs; heavy imports wait until a command runs."""

import json
import sys
from pathlib import Path

from dermdistill.config import load_config
from dermdistill.errors import ConfigError
from dermdistill.run import CONFIG, METRICS, RESEARCH_NOTICE

REPORT = "report.html"


def evaluate(
    run: str | None = None,
    images: str | None = None,
    model: str | None = None,
    output: str | None = None,
    layout: str = "auto",
) -> None:
    """Score a finished run again on its held-out images, or on another folder of images.

    Args:
        run: a run directory; its figures and predictions are rewritten.
        images: a folder of labelled images to score a run on instead.
        model: the run directory to score on `images`; no file of it is changed.
        output: where that result goes; by default beside the model.
        layout: of `images`: "auto", "isic2019", "ham10000" or "folders".
    """
    if (images is None) == (run is None) or (images is None) != (model is None):
        raise ConfigError(
            "evaluate takes a run directory, or --images FOLDER with --model RUN; "
            "see `dermdistill evaluate --help`"
        )
    if images is None:
        from dermdistill.distill import evaluate as score_again

        score_again(Path(run))
        tell(Path(run))
        return
    from dermdistill.evaluate.drift import drifts_of, told
    from dermdistill.evaluate.images import score_images

    place = output or f"{model.rstrip('/')}-on-{Path(images).resolve().name}"
    scored = score_images(model, images, place, layout)
    tell(scored)
    for drift in drifts_of(scored, load_config(scored / CONFIG).evaluation):
        print(*told(drift), sep="\n")


def report(runs: list[str], output: str = REPORT) -> None:
    """Write one self-contained HTML page about one or several runs.

    Args:
        runs: run directories.
        output: the page.
    """
    from dermdistill.report import write_report

    print(f"report: {write_report([Path(run) for run in runs], Path(output))}")


def explain(
    run: str,
    part: str = "test",
    images: int = 200,
    masks: str | None = None,
    teacher: bool = True,
    map: str = "auto",
    stride: int | None = None,
) -> None:
    """Show where a run sees its answers, and score that; writes RUN/explain/.

    Args:
        run: a run directory.
        part: "test", "validation" or "train".
        images: how many images, drawn at random; 0 takes all.
        masks: folder with the lesions' outlines, ID_segmentation.png, if there are any.
        teacher: compare with the maps of the run's teacher, if it had one.
        map: "cam" is the exact class activation map of networks that pool by the mean;
            "gradcam", "gradcam++", "hirescam", "layercam" and "xgradcam" estimate one (they need
            pip install 'dermdistill[explain]'); "auto" is exact where it can be.
        stride: let those estimates look at the stage whose map is so many times smaller than the
            image, instead of the last; in small images 16 sees more than 32.
    """
    from dermdistill.evaluate.explain import FOLDER, GALLERY, explain_run

    found = explain_run(Path(run), part, images, masks, teacher, map, stride)
    print(f"map: {found['map']}, {found['images']} {part} images")
    for name, measure in found["measures"].items():
        mean = "-" if measure["mean"] is None else f"{measure['mean']:.3f}"
        print(f"  {name:<17} {mean:>6}  {measure['meaning']}")
    print(f"pictures: {Path(run) / FOLDER / GALLERY}")


def robustness(run: str, images: int = 400, attack_images: int = 64, teacher: bool = True) -> None:
    """Corrupt and attack a run's test images, and score it on them; writes RUN/robustness/.

    Args:
        run: a run directory.
        images: test images to corrupt, drawn at random; 0 takes all.
        attack_images: test images to attack; 0 attacks none.
        teacher: divide the errors by those of the run's teacher, if it had one.
    """
    from dermdistill.evaluate.robustness import FOLDER, robustness_run

    found = robustness_run(Path(run), images, attack_images, teacher=teacher)
    errors = found["corruptions"]
    ends = {name: f" ({pair[0]:.3f} to {pair[1]:.3f})" for name, pair in errors["intervals"].items()
            if name != "level" and pair}  # fmt: skip
    print(f"balanced error: clean {errors['clean_error']:.3f}{ends['clean_error']}, corrupted "
          f"{errors['mean_error']:.3f}{ends['mean_error']}, {found['images']} images")  # fmt: skip
    for name, entry in errors["per_corruption"].items():
        print(f"  {name:<15}" + "".join(f" {error:.3f}" for error in entry["errors"]))
    if errors["mean_corruption_error"] is not None:
        print(f"mean corruption error: {errors['mean_corruption_error']:.3f}"
              f"{ends['mean_corruption_error']} of the teacher's")  # fmt: skip
    for row in found.get("attacks", {}).get("rows", []):
        print(f"  {row['defence']:<9} {row['attack']:<8} {row['epsilon_255']}/255  accuracy "
              f"{row['accuracy']:.3f} ({row['low']:.3f} to {row['high']:.3f})")  # fmt: skip
    print(f"all of it: {Path(run) / FOLDER}")


def ood(
    run: str,
    others: str | None = None,
    masks: str | None = None,
    images: int = 400,
    fit_images: int = 0,
) -> None:
    """Fit and measure how a run notices images unlike its training's; writes RUN/ood/.

    Args:
        run: a run directory.
        others: a folder with a subfolder of pictures for each kind of stranger; noise and skin
            beside the lesions are always tried.
        masks: folder with the lesions' outlines, so that patches of skin hold none.
        images: test images, drawn at random, and as many of noise; 0 takes all.
        fit_images: training images to fit on, drawn at random; 0 takes all.
    """
    from dermdistill.evaluate.ood import FOLDER, ood_run

    found = ood_run(Path(run), others, masks, images, fit_images)
    for name, score in found["scores"].items():
        areas = {kind: figures.get("auroc") for kind, figures in score["strangers"].items()}
        text = ", ".join(f"{kind} {area:.3f}" for kind, area in areas.items() if area is not None)
        print(f"{name:<12} AUROC: {text}")
    print(f"default: {found['default']}; all of it: {Path(run) / FOLDER}")


def tell(run: Path) -> None:
    """The figures of a run in a few lines."""
    metrics = json.loads((run / METRICS).read_text())
    for part in ("validation", "test"):
        figures = metrics[part]
        print(f"{part:<10} balanced accuracy {figures['balanced_accuracy']:.3f}, accuracy "
              f"{figures['accuracy']:.3f}, {figures['images']} images")  # fmt: skip
    print(f"run: {run}")
    print(RESEARCH_NOTICE, file=sys.stderr)
