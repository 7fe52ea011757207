"""What 200 injected faults leave behind: nothing lost, nothing half-written, and a way out told.

    python benchmarks/faults.py [--faults 200] [--seed 0] [--record FILE]

A training of seconds on synthetic images runs in a process of its own (forked, so that torch is
imported once), meets one fault at a drawn moment, and is then recovered as its message says. Bars,
for every fault: the exit code and the message name what happened and what to do, without a trace
of the program's inside; every file is whole or absent; no more steps are lost than lie between
two checkpoints; and the recovered run ends in the bits of one that nothing disturbed. With
--record, what is done stands in a file, and the same command goes on behind it.
"""

import argparse
import contextlib
import json
import os
import random
import shutil
import sys
import tempfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import yaml

from fault_kinds import KINDS, Trial

IMAGES = 128


def check_files(trial: Trial) -> None:
    """Every file that has its final name is whole."""
    from dermdistill.models.weights import read_state

    for path in (trial.folder / "runs").rglob("*"):
        try:
            if path.suffix == ".json":
                json.loads(path.read_text())
            elif path.suffix == ".yaml":
                yaml.safe_load(path.read_text())
            elif path.suffix == ".safetensors":
                read_state(path)
        except Exception as error:
            trial.problems.append(f"{path.name} is no whole file: {error}")


def results(run: Path) -> dict[str, str]:
    """Digest of all that a fault must not change."""
    from dermdistill.run import digest_file, digest_of, read_json

    names = ("best.safetensors", "last.safetensors", "history.jsonl", "predictions-test.csv")
    metrics = read_json(run / "metrics.json")
    metrics.pop("wall_s")  # seconds are no result
    return {name: digest_file(run / name) for name in names} | {"metrics": digest_of(metrics)}


def inject(trial: Trial, kind: Callable[[Trial], None], expected: dict[str, str]) -> None:
    """One fault, the look at what it left, the recovery and the comparison."""
    with contextlib.suppress(StopIteration):  # a fault before the run directory was made
        kind(trial)
    check_files(trial)
    trial.recover()
    check_files(trial)
    if not any((trial.folder / "runs").glob("teacher-*/metrics.json")):
        return
    left = [path.name for path in trial.run.rglob("*.tmp")]
    trial.expect(not left, f"temporary files stay: {left}")
    other = [name for name, value in results(trial.run).items() if value != expected[name]]
    trial.expect(not other, f"other bits: {', '.join(other)}")


def outcome_of(root: Path, number: int, seed: int, expected: dict[str, str]) -> dict:
    """One fault, in a folder that is gone afterwards: its kind, and what was wrong."""
    folder = root / f"fault-{number}"
    folder.mkdir()
    kind = KINDS[number % len(KINDS)]
    trial = Trial(folder, root / "images", root / "store", random.Random(f"{seed} {number}"))
    inject(trial, kind, expected)
    shutil.rmtree(folder)
    return {"seed": seed, "fault": number, "kind": kind.__name__, "problems": trial.problems}


def recorded(record: Path | None, seed: int) -> dict[int, dict]:
    """The outcomes that stand in a record, by the fault's number."""
    if record is None or not record.exists():
        return {}
    outcomes = map(json.loads, record.read_text().splitlines())
    return {outcome["fault"]: outcome for outcome in outcomes if outcome["seed"] == seed}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--faults", type=int, default=200, help="how many")
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    parser.add_argument("--record", type=Path, help="file of what is done, a line a fault")
    arguments = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"
    import torch

    import dermdistill.distill  # noqa: F401  once, for all forked processes
    from dermdistill.data.phantom import synthesise

    torch.set_num_threads(1)
    done, good, count = recorded(arguments.record, arguments.seed), 0, Counter()
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        synthesise(root / "images", IMAGES, 48, seed=7, workers=1)
        (root / "whole").mkdir()
        whole = Trial(root / "whole", root / "images", root / "store", random.Random(0))
        whole.recover()
        if whole.problems:
            print("\n".join(whole.problems))
            return 1
        expected = results(whole.run)
        for number in range(arguments.faults):
            outcome = done.get(number) or outcome_of(root, number, arguments.seed, expected)
            if arguments.record and number not in done:
                with open(arguments.record, "a") as file:
                    file.write(json.dumps(outcome) + "\n")
            good, count = good + (not outcome["problems"]), count + Counter([outcome["kind"]])
            print(f"{number + 1:>3} {outcome['kind']:<20} "
                  + ("; ".join(outcome["problems"]) or "good"), flush=True)  # fmt: skip
    listed = ", ".join(f"{kind.replace('_', ' ')} {n}" for kind, n in count.items())
    met = good == arguments.faults
    print(f"{'met' if met else 'SHORT'}: {good} of {arguments.faults} faults lost nothing, left no "
          f"half file and told the way out ({listed})")  # fmt: skip
    return 0 if met else 1


if __name__ == "__main__":
    sys.exit(main())
