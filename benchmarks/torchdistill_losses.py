"""Compare the rivals' losses with torchdistill's (1.1.5), up to what docs/fidelity.md explains.

    pip install torchdistill
    python benchmarks/torchdistill_losses.py

Every loss on the same random inputs in float64. Exit 1: one is off by more than its bar. SP is left
out: torchdistill brings rows to the absolute sum 1, the paper to the length 1.
"""

import sys

import torch
import torch.nn.functional as F
from torch import Tensor
from torchdistill.losses import mid_level

from dermdistill import losses

SAMPLES, EXACT = 8, 1e-12
TAP = ("tap", "output", "tap", "output")
PAIR = {"pair": {side: {"path": "tap", "io": "output"} for side in ("student", "teacher")}}
KERNEL = {"type": "gaussian", "gamma": 0.4, "max_p": 2}


def draw(*shape: int) -> Tensor:
    """Random numbers of a batch."""
    return torch.randn(SAMPLES, *shape, dtype=torch.float64)


def theirs(loss: torch.nn.Module, *taps: Tensor | tuple[Tensor, Tensor], **more: Tensor) -> Tensor:
    """A loss of torchdistill, which reads dictionaries of layers: the student's, the teacher's."""
    return loss(*({"tap": {"output": tap}, **more} for tap in taps))


def batch_norm(rows: Tensor) -> Tensor:
    """SRD's normalisation, which torchdistill leaves to a wrapper of the model."""
    return F.batch_norm(rows, None, None, training=True, eps=1e-4)


def comparisons() -> list[tuple[str, Tensor, Tensor, float]]:
    """Name, our value, theirs, and the relative difference that is allowed."""
    maps, rows = (draw(5, 4, 4), draw(7, 4, 4)), (draw(6), draw(6))
    logits = draw(8), 3 * draw(8)
    mean, variance = draw(7, 4, 4), torch.rand(7, dtype=torch.float64) + 0.5
    dist = losses.inter_class_loss(*logits, 2.0) + losses.intra_class_loss(*logits, 2.0)
    units = [F.normalize(one) for one in rows]
    congruence = mid_level.CCKDLoss("tap", "tap", KERNEL, "none")
    norms = [batch_norm(one) for one in rows]
    same = {"logits": {"output": logits[1]}}  # no divergence of outputs, SRD's second term
    srd = mid_level.SRDLoss(*TAP, *("logits", "output") * 2, exponent=4.0)
    log_sum = theirs(srd, *norms, **same) / 2
    standard = [losses.standardise_logits(one, 1.0) for one in logits]
    standardised = mid_level.LogitStdKDLoss(*TAP, temperature=2.0, alpha=0.0)
    return [
        ("at", losses.attention_loss(*maps), theirs(mid_level.ATLoss(PAIR), *maps), EXACT),
        # They add 1e-7 inside the logarithm, we to the neighbours' weights.
        ("pkt", losses.pkt_loss(*rows), theirs(mid_level.PKTLoss(*TAP), *rows), 1e-5),
        ("dist", dist, theirs(mid_level.DISTLoss(*TAP, tau=2.0), *logits), EXACT),
        (
            "vid",
            losses.variational_loss(mean, variance, maps[1]),
            theirs(mid_level.VIDLoss(PAIR), (mean, variance.view(1, -1, 1, 1)), maps[1]),
            EXACT,
        ),
        (  # theirs is the norm, of embeddings that are not brought to length 1
            "cc",
            losses.correlation_congruence_loss(*rows, 0.4),
            theirs(congruence, *units) ** 2 / SAMPLES**2,
            EXACT,
        ),
        # Theirs is 2 log(sum), ours log(1 + sum).
        ("srd", losses.log_power_loss(*rows), log_sum.exp().log1p(), EXACT),
        # They add 1e-7 to the deviation.
        ("standardised", losses.kd_loss(*standard, 2.0) / 4, theirs(standardised, *logits), 1e-6),
    ]  # fmt: skip


def main() -> int:
    """Print the table; 1 where a loss is off."""
    torch.manual_seed(0)
    failed = 0
    for name, our, their, bar in comparisons():
        off = abs(our / their - 1).item()
        failed += not off <= bar
        print(f"{name:13} {our.item():.12g} {their.item():.12g} off by {off:.1e}, bar {bar:.0e}")
    print("FAILED" if failed else "ok")
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
