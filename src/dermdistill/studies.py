"""Commands that study a finished run; heavy imports wait until a command runs."""

from pathlib import Path


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
