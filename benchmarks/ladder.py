"""A round trip of every architecture on the ladder of students through every format.

    python benchmarks/ladder.py [--networks A,B] [--formats F,G] [--output ladder.csv]

Weights are random, the size is 128 px, the classes are 8: what is asked is whether a format can
hold the architecture and whether its runtime then answers as torch does, not how good it is. Each
pair has a process of its own, since converters abort on what they do not know. The file has a line
a pair and is continued where it is there. Exits 1 if a pair failed that EXPECTED does not explain.
"""

import argparse
import csv
import importlib
import subprocess
import sys
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch

from dermdistill.bundle import FORMATS, can_run
from dermdistill.bundle.manifest import Input, Model
from dermdistill.bundle.runtimes import Answers, load_runtime
from dermdistill.config import NetworkConfig
from dermdistill.export import CONVERTERS, compare
from dermdistill.export.graph import DeployedGraph
from dermdistill.models import build_backbone

# From under 0.3 M to over 5 M parameters (counted with 8 classes).
NETWORKS = (
    "test_efficientnet", "test_resnet", "mobilenetv3_small_050", "lcnet_050", "mobilenetv2_035",
    "tinynet_e", "mobilenetv3_small_100", "mobilenetv2_050", "mobilenetv4_conv_small_050",
    "mobilenetv2_100", "mobilenetv4_conv_small", "ghostnet_100", "tf_efficientnet_lite0",
    "mobilenetv3_large_100", "efficientnet_b0", "repvit_m0_9", "mobileone_s0", "fastvit_t8",
    "efficientvit_b0", "tf_efficientnet_lite2",
)  # fmt: skip
EXPECTED: dict[tuple[str, str], str] = {}
PX, CLASSES, IMAGES, TIMEOUT_S = 128, 8, 8, 1500
COLUMNS = (
    "network",
    "parameters",
    "format",
    "mb",
    "probability",
    "top1_agreement",
    "cam",
    "reason",
)


@dataclass(frozen=True)
class Untrained:
    """What the converters ask of a subject, around random weights and noise."""

    name: str

    @cached_property
    def graph(self) -> DeployedGraph:
        """The network with statistics that keep its activations in range."""
        torch.manual_seed(0)
        network = build_backbone(NetworkConfig(self.name, weights="none"), CLASSES)
        network.train()
        with torch.no_grad():  # batch norms see what they will normalise
            for _ in range(10):
                network(torch.rand(16, 3, PX, PX))
        return DeployedGraph(network.eval(), PX).eval()

    @property
    def px(self) -> int:
        """Side of the images."""
        return PX

    @property
    def origin(self) -> dict[str, Any]:
        """What an error names."""
        return {"network": self.name}

    def calibration_pixels(self) -> np.ndarray:
        """Noise of another seed than the one compared on."""
        return np.random.default_rng(1).integers(0, 256, (IMAGES, PX, PX, 3), np.uint8)

    @torch.no_grad()
    def answers(self, pixels: np.ndarray) -> Answers:
        """Torch's."""
        found = [tensor.numpy() for tensor in self.graph(torch.from_numpy(pixels))]
        absent = dict.fromkeys(Answers._fields)
        return Answers(**absent | dict(zip(self.graph.output_names, found, strict=True)))


def try_pair(network: str, format_name: str) -> dict[str, Any]:
    """Convert, load, ask, compare; one row."""
    known, subject = FORMATS[format_name], Untrained(network)
    row = {"network": network, "format": format_name,
           "parameters": sum(p.numel() for p in subject.graph.network.parameters()),
           "cam": subject.graph.class_maps is not None}  # fmt: skip
    module = importlib.import_module(f"dermdistill.export.{CONVERTERS[format_name]}")
    files = module.convert(subject)
    row["mb"] = round(sum(map(len, files.values())) / 1e6, 3)
    if not can_run(format_name):
        return row | {"reason": "converted, not run here"}
    model = Model(
        known.engine, known.precision, list(files),
        Input(known.input, known.pixel_type, known.layout, known.batch),
        known.outputs(subject.graph.output_names), None, {},
    )  # fmt: skip
    pixels = np.random.default_rng(0).integers(0, 256, (IMAGES, PX, PX, 3), np.uint8)
    theirs = load_runtime(format_name, model, files).predict(pixels)
    parity = compare(theirs, subject.answers(pixels), "noise")
    return row | {"probability": parity.probability, "top1_agreement": parity.top1_agreement}


def in_fresh_process(network: str, format_name: str) -> dict[str, Any]:
    """`try_pair` where an abort is a row too."""
    command = [sys.executable, __file__, "--pair", network, format_name]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False,
                              timeout=TIMEOUT_S)  # fmt: skip
    except subprocess.TimeoutExpired:
        return {"network": network, "format": format_name, "reason": f"over {TIMEOUT_S} s"}
    if done.returncode == 0:
        return next(csv.DictReader(done.stdout.splitlines()[-1:], COLUMNS))
    said = [line for line in done.stderr.splitlines() if line.strip()] or ["no word"]
    last = next((line for line in reversed(said) if "Error" in line), said[-1])
    reason = f"exit code {done.returncode}: {last.strip()[:200]}"
    return {"network": network, "format": format_name, "reason": reason}


def passes(row: dict[str, Any]) -> bool:
    """Whether a pair did what it should: fp32 within 1e-3 on random weights; int8 ran at all."""
    if not row.get("mb"):
        return False
    if FORMATS[row["format"]].precision != "fp32":
        return True
    return float(row["probability"]) < 1e-3


def main(arguments: list[str] | None = None) -> int:
    """Parse the options, try what the file does not have yet, print the table and the verdict."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--networks", default=",".join(NETWORKS))
    parser.add_argument("--formats", default=",".join(FORMATS))
    parser.add_argument("--output", type=Path, default=Path("ladder.csv"))
    parser.add_argument("--pair", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.pair:
        torch.set_num_threads(1)
        csv.DictWriter(sys.stdout, COLUMNS).writerow(try_pair(*options.pair))
        return 0
    if not options.output.exists():
        options.output.write_text(",".join(COLUMNS) + "\n")
    with open(options.output, newline="") as file:
        known = {(row["network"], row["format"]): row for row in csv.DictReader(file)}
    wrong = 0
    for network in options.networks.split(","):
        for format_name in options.formats.split(","):
            row = known.get((network, format_name)) or in_fresh_process(network, format_name)
            if (network, format_name) not in known:
                with open(options.output, "a", newline="") as file:
                    csv.DictWriter(file, COLUMNS, lineterminator="\n").writerow(row)
            expected = EXPECTED.get((network, format_name))
            wrong += not passes(row) and expected is None
            mark = "ok" if passes(row) else "FAILED"
            cells = [row.get(key) or "" for key in ("mb", "probability", "reason")]
            print(f"{network:<28}{format_name:<17}{mark:<8}", *cells, flush=True)
    print(f"{'FAIL' if wrong else 'PASS'}: {wrong} pairs failed without a known reason")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
