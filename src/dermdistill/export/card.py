"""The model card: what a bundle's model is, how good it was found, and what it is not for."""

from typing import Any

from dermdistill.bundle.decision import Decision
from dermdistill.bundle.manifest import Model
from dermdistill.export.subject import Subject
from dermdistill.run import METRICS, RESEARCH_NOTICE, read_json

LIMITS = """\
## Limits

- It knows the classes above and no others: every image gets one of them, a photograph of a cat too,
  and noticing that it is one is not sure.
- Its figures are from images of the same cameras and clinics as its training images; from others
  they will be lower.
- Dark skin is rare in public dermoscopy; nothing is known about how it fares there.
- ISIC images are CC BY-NC 4.0: weights trained on them are for non-commercial research.
"""


def write_card(subject: Subject, models: dict[str, Model]) -> str:
    """The card as Markdown, from the run's own files."""
    origin = subject.origin
    metrics = read_json(subject.run / METRICS)
    parameters = sum(weight.numel() for weight in subject.graph.network.parameters())
    lines = [
        f"# {subject.run.name}", "", f"> **{RESEARCH_NOTICE}**", "",
        f"A {origin['network']} of {parameters:,} parameters for square "
        f"dermoscopy images of {subject.px} px, trained by `{origin['method']}`"
        f"{_how(origin['network_config'])}.", "",
        *_figures(metrics), "",
        *_formats(models), "",
        *_answers(subject.decision), "",
        LIMITS,
        "## Origin", "",
        f"- Images: {origin['images']['train']:,} for training, {origin['images']['validation']:,} "
        f"for validation, {origin['images']['test']:,} for the test, split by "
        f"{origin['split']['protocol']} (digest {origin['split']['digest'][:12]}).",
        f"- Seed {origin['seed']}, commit {origin['commit'] or 'unknown'}, "
        f"torch {origin['versions'].get('torch', 'unknown')}.",
    ]  # fmt: skip
    return "\n".join(lines) + "\n"


def _how(network_config: dict[str, Any]) -> str:
    """What beside its method made the network what it is."""
    pruned = network_config.get("prune_ratio")
    cut = f" after {pruned:.0%} of every layer's channels were taken out" if pruned else ""
    return cut + (", computing in 8 bits as it learnt" if network_config.get("int8") else "")


def _figures(metrics: dict[str, Any]) -> list[str]:
    test = metrics["test"]
    rows = [
        f"| {name} | {each['support']} | {_share(each['sensitivity'])} "
        f"| {_share(each['specificity'])} | {_share(each['auc'])} |"
        for name, each in test["per_class"].items()
    ]
    return [
        f"## Figures on {test['images']:,} test images", "",
        f"Balanced accuracy {_share(test['balanced_accuracy'])}, accuracy "
        f"{_share(test['accuracy'])}, macro AUC {_share(test['macro_auc'])}. One seed.", "",
        "| class | images | sensitivity | specificity | AUC |", "|---|---|---|---|---|", *rows,
    ]  # fmt: skip


def _formats(models: dict[str, Model]) -> list[str]:
    rows = []
    for name, model in models.items():
        parity = model.parity
        words = (
            "unverified: it runs on its own devices only" if parity is None else
            f"{parity.probability:.1e} of a probability at most, same answer on "
            f"{parity.top1_agreement:.1%} of {parity.images} {parity.source}"
        )  # fmt: skip
        rows.append(f"| {name} | {model.precision} | {words} |")
    return ["## Formats", "", "| format | precision | apart from torch in fp32 |", "|---|---|---|",
            *rows]  # fmt: skip


def _answers(decision: Decision) -> list[str]:
    """How outputs become answers, or that nothing was fitted."""
    calibration, abstention = decision.calibration, decision.abstention
    conformal, ood = decision.conformal, decision.ood
    return [
        "## Answers", "",
        "- Probabilities are not calibrated." if calibration is None else
        f"- Probabilities are calibrated: temperature {calibration.temperature:.3f}, fitted on "
        f"{calibration.images:,} {calibration.fitted_on}.",
        "- It never says that it is not sure." if abstention is None else
        f"- Below {abstention.least_probability:.3f} it says \"not sure\", and answers "
        f"{abstention.answered_ratio:.0%}: fitted on {abstention.fitted_on}.",
        "- It gives no sets of classes." if conformal is None else
        f"- Its sets of classes hold the truth with chance {conformal.coverage:g}: fitted on "
        f"{conformal.fitted_on}.",
        "- It does not notice images that are no lesions." if ood is None else
        f"- It says that an image is unlike its training images where its score is above "
        f"{ood.threshold:.4f}, as it is for {1 - ood.kept_ratio:.0%} of the lesions: fitted on "
        f"{ood.fitted_on}. It notices most photographs and textures, and misses much else.",
    ]  # fmt: skip


def _share(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"
