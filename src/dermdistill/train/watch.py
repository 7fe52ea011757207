"""Whether a training still computes with numbers, without stopping the device to ask."""

from dataclasses import dataclass, field

import torch
from torch import Tensor

from dermdistill.errors import RunError
from dermdistill.types import Terms

GRADIENT = "the gradient's norm"


@dataclass
class NumberWatch:
    """Keeps each step's terms on the device until somebody looks, all at once.

    A look is one transfer. It comes before anything is saved, so no saved state ever holds what
    is no number, and it still knows the step, the terms and the images that began it.
    """

    _steps: list[tuple[int, list[str], list[str]]] = field(default_factory=list)
    _values: list[Tensor] = field(default_factory=list)

    def note(self, step: int, ids: list[str], terms: Terms, gradient_norm: Tensor) -> None:
        """Keep a step's terms.

        Args:
            step: its number, counted from 1.
            ids: of its images.
            terms: what the method returned.
            gradient_norm: of all that is trained, before clipping.
        """
        values = {name: value for name, (_, value) in terms.items()} | {GRADIENT: gradient_norm}
        self._steps.append((step, ids, list(values)))
        self._values += [value.detach().float() for value in values.values()]

    def look(self, stage: str, advice: str) -> None:
        """Forget the kept steps if all is well.

        Args:
            stage: the stage's name.
            advice: what to do about it.

        Raises:
            RunError: a term or the gradient is no finite number; names it, the step and the images.
        """
        steps, self._steps = self._steps, []
        if not steps:
            return
        values, self._values = torch.stack(self._values), []
        finite = iter(values.isfinite().tolist())
        shown = iter(values.tolist())
        for step, ids, names in steps:
            known = [(name, next(shown), next(finite)) for name in names]
            bad = [(name, value) for name, value, fine in known if not fine]
            if bad:
                became = " and ".join(f"{name} became {value}" for name, value in bad)
                raise RunError(
                    f"{became} at step {step} of {stage}, on the images {', '.join(ids)}. {advice}"
                )
