"""A network under attack, with and without purification; attacks that know of it and that do not.

Every attack is white-box: it has the network's gradients. Purification is met by three: `plain`,
made without it; `through`, by its exact gradient, averaged over its noise; `bpda`, by a gradient
that takes it for the identity. What counts for the defence is the worst of the three.
"""

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dermdistill.data.dataset import Part
from dermdistill.data.views import upright_view
from dermdistill.display import Display
from dermdistill.evaluate.intervals import bootstrap
from dermdistill.evaluate.metrics import classification_metrics
from dermdistill.evaluate.opened import OpenedRun
from dermdistill.evaluate.predict import as_predictions
from dermdistill.evaluate.robustness.attacks import Logits, fgsm, pgd, straight_through
from dermdistill.evaluate.robustness.purify import Purification
from dermdistill.models import Backbone
from dermdistill.runtime import derived_seed

EPSILONS = (1, 2, 4, 8)  # in 255ths: the steps that a stored pixel has
PGD_STEPS, NOISE_DRAWS, ATTACK_BATCH = 10, 4, 32
NONE, PURIFIED = "none", "purified"
ATTACKS = (  # (attack, defence it meets)
    ("fgsm", NONE), ("pgd", NONE),
    ("plain", PURIFIED), ("through", PURIFIED), ("bpda", PURIFIED),
)  # fmt: skip
ATTACK_COLUMNS = ("defence", "attack", "epsilon_255", "images", "low", "high", "accuracy",
                  "balanced_accuracy")  # fmt: skip


def attack_conditions(defence: Purification, images: int) -> dict[str, Any]:
    """What the rows were made with, as plain values."""
    return {
        "images": images,
        "norm": "largest change of a pixel, in 255ths",
        "pgd_steps": PGD_STEPS,
        "noise_draws": NOISE_DRAWS,
        "purification": asdict(defence),
        "attacks": {
            "clean": "no attack",
            "fgsm": "one step of the gradient's sign",
            "pgd": f"{PGD_STEPS} steps from a random start",
            "plain": "pgd made without the purification that it then meets",
            "through": f"pgd through the purification, its noise averaged over {NOISE_DRAWS} draws",
            "bpda": "pgd that takes the purification's gradient for the identity's",
        },
    }


def attacked(
    opened: OpenedRun, part: Part, defence: Purification, folder: Path, progress: bool
) -> list[dict[str, Any]]:
    """Figures of a run's network under every attack and epsilon; writes its predictions.

    `low` and `high` are the ends of the accuracy.
    Computed in fp32: bf16 gradients would make the attacks weaker than they are.
    """
    jobs = [("clean", NONE, 0), ("clean", PURIFIED, 0)]
    jobs += [(attack, met, epsilon) for attack, met in ATTACKS for epsilon in EPSILONS]
    display = Display("attacks", len(jobs), 0, progress)
    rows, units = [], opened.units(part)
    for attack, met, epsilon in jobs:
        logits = [
            _answers(opened, defence, part, chosen, attack, met, epsilon / 255)
            for chosen in np.array_split(np.arange(len(part)), -(-len(part) // ATTACK_BATCH))
        ]
        predictions = as_predictions(torch.cat(logits), part, opened.data.classes)
        predictions.save(folder / "predictions" / f"attack-{met}-{attack}-{epsilon}.csv")
        figures = classification_metrics(predictions)
        made = bootstrap(predictions, units, opened.config.evaluation)
        low, high = made.interval(("accuracy",)) or (None, None)
        rows.append({"defence": met, "attack": attack, "epsilon_255": epsilon, "images": len(part),
                     "low": low, "high": high}
                    | {name: figures[name] for name in ATTACK_COLUMNS[-2:]})  # fmt: skip
        display.step({f"{attack} {epsilon}": figures["accuracy"]})
    predictions.save_truth(folder / "attacks-truth.csv")
    display.close()
    return rows


def _answers(
    opened: OpenedRun, defence: Purification, part: Part, chosen: np.ndarray,
    attack: str, met: str, epsilon: float,
) -> Tensor:  # fmt: skip
    """Logits of some images after an attack, as the defended network gives them."""
    device, first = opened.fabric.device, int(chosen[0])
    images = upright_view(part.pixels(chosen).to(device))
    target = torch.from_numpy(part.labels[chosen]).to(device)

    def generator(purpose: str) -> torch.Generator:
        # The attacker's noise is never the defender's.
        return torch.Generator().manual_seed(derived_seed(opened.config.seed, purpose, first))

    noise = generator("attack noise")
    views: dict[str, Callable[[Tensor], Tensor]] = {
        "fgsm": lambda seen: seen,
        "pgd": lambda seen: seen,
        "plain": lambda seen: seen,
        "through": lambda seen: defence(seen, noise),
        "bpda": lambda seen: straight_through(lambda inner: defence(inner, noise), seen),
    }
    network = opened.network.given(part.about(chosen))
    if attack == "fgsm":
        images = fgsm(_logits(network, views[attack]), images, target, epsilon)
    elif attack != "clean":
        draws = NOISE_DRAWS if attack in ("through", "bpda") else 1
        images = pgd(_logits(network, views[attack]), images, target, epsilon, PGD_STEPS,
                     generator("attack start"), draws)  # fmt: skip
    with torch.no_grad():
        if met == PURIFIED:
            images = defence(images, generator("defence noise"))
        return _logits(network, lambda seen: seen)(images).float().cpu()


def _logits(network: Backbone, view: Callable[[Tensor], Tensor]) -> Logits:
    """A network's logits behind a change of its images, in fp32."""
    return lambda images: network(view(images)).logits
