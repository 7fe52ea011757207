"""A round trip of every architecture on the ladder of students through every format.

    python benchmarks/ladder.py [--networks A,B] [--formats F,G] [--output ladder.csv]

Weights are random, the size is 128 px, the classes are 8: what is asked is whether a format can
hold the architecture and whether its runtime then answers as torch does, not how good it is. A
network has a process of its own, and another one behind each abort, since converters abort on what
they do not know. The file has a line a pair and is continued where it is there. Exits 1 if a pair
failed that EXPECTED does not explain; beside the file then stands its table as Markdown.
"""

import argparse
import csv
import io
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from dermdistill.bundle import FORMATS, can_run
from dermdistill.bundle.manifest import Input, Model
from dermdistill.bundle.runtimes import Answers, load_runtime
from dermdistill.config import NetworkConfig
from dermdistill.evaluate.ood.strangers import noise_images
from dermdistill.export import compare, converter
from dermdistill.export.graph import DeployedGraph
from dermdistill.export.subject import Subject
from dermdistill.models import build_backbone, merge_branches
from dermdistill.run import write_text

# From under 0.3 M to over 5 M parameters (counted with 8 classes).
NETWORKS = (
    "test_efficientnet", "test_resnet", "mobilenetv3_small_050", "lcnet_050", "mobilenetv2_035",
    "tinynet_e", "mobilenetv3_small_100", "mobilenetv2_050", "mobilenetv4_conv_small_050",
    "mobilenetv2_100", "mobilenetv4_conv_small", "ghostnet_100", "tf_efficientnet_lite0",
    "mobilenetv3_large_100", "efficientnet_b0", "repvit_m0_9", "mobileone_s0", "fastvit_t8",
    "efficientvit_b0", "tf_efficientnet_lite2",
)  # fmt: skip
EXPECTED = {
    ("ghostnet_100", "coreml"): "coremltools 9 does not know the operator alias of torch.export",
}
PX, CLASSES, IMAGES, TIMEOUT_S = 128, 8, 16, 1500
LOGIT_STD = 2.0
MARK = "row: "  # before the rows of a process, among what converters print
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
    @torch.no_grad()
    def graph(self) -> DeployedGraph:
        """The network, so that every part of it counts and the images get different answers."""
        torch.manual_seed(0)
        network = build_backbone(NetworkConfig(self.name, weights="none"), CLASSES)
        for name, parameter in network.named_parameters():
            if parameter.ndim == 1:  # norms and scales of branches that start at 0 or near it
                low, high = (-0.1, 0.1) if name.endswith("bias") else (0.5, 1.5)
                parameter.uniform_(low, high)
        images = torch.from_numpy(self._noise(2)).permute(0, 3, 1, 2) / 255
        for part in network.modules():
            if isinstance(part, nn.BatchNorm2d | nn.BatchNorm1d):
                part.momentum = 1.0  # one pass, and they know what they will normalise
        network.train()(images)
        parts = network.eval().classifier.modules()
        heads = [part for part in parts if isinstance(part, nn.Linear)]
        scale = LOGIT_STD / network(images).logits.std(0).mean()
        for head in heads:
            head.weight.mul_(scale)
        mean = network(images).logits.mean(0)
        for head in heads:
            head.bias.sub_(mean)
        return DeployedGraph(merge_branches(network, PX), PX).eval()

    rounded = Subject.rounded

    @property
    def px(self) -> int:
        """Side of the images."""
        return PX

    @property
    def origin(self) -> dict[str, Any]:
        """What an error names, and how it was trained: not at all."""
        return {"network": self.name, "network_config": {}}

    def fitting_pixels(self) -> np.ndarray:
        """Of another seed than the images compared on."""
        return self._noise(1)

    @torch.no_grad()
    def answers(self, pixels: np.ndarray) -> Answers:
        """Torch's."""
        found = [tensor.numpy() for tensor in self.graph(torch.from_numpy(pixels))]
        absent = dict.fromkeys(Answers._fields)
        return Answers(**absent | dict(zip(self.graph.output_names, found, strict=True)))

    @staticmethod
    def _noise(seed: int) -> np.ndarray:
        return noise_images(PX, IMAGES, seed)


def try_pairs(network: str, formats: str) -> int:
    """Print a marked row a format as soon as it is there."""
    torch.set_num_threads(1)
    subject = Untrained(network)
    for name in formats.split(","):
        row = io.StringIO()
        csv.DictWriter(row, COLUMNS).writerow(try_pair(subject, name))
        print(MARK + row.getvalue().strip(), flush=True)
    return 0


def try_pair(subject: Untrained, format_name: str) -> dict[str, Any]:
    """Convert, load, ask, compare; one row."""
    known = FORMATS[format_name]
    row = {"network": subject.name, "format": format_name,
           "parameters": sum(p.numel() for p in subject.graph.network.parameters()),
           "cam": subject.graph.class_maps is not None}  # fmt: skip
    files = converter(format_name).convert(subject)
    row["mb"] = round(sum(map(len, files.values())) / 1e6, 3)
    if not can_run(format_name):
        return row | {"reason": "converted, not run here"}
    model = Model(
        known.engine, known.precision, list(files),
        Input(known.input, known.pixel_type, known.layout, known.batch),
        known.outputs(subject.graph.output_names), None, {},
    )  # fmt: skip
    pixels = noise_images(PX, IMAGES, seed=0)
    theirs = load_runtime(format_name, model, files).predict(pixels)
    parity = compare(theirs, subject.answers(pixels), "noise")
    return row | {"probability": parity.probability, "top1_agreement": parity.top1_agreement}


def in_fresh_process(network: str, formats: list[str]) -> Iterator[dict[str, Any]]:
    """The rows of a network; an abort is a row too, and another process goes on behind it."""
    left = list(formats)
    while left:
        command = [sys.executable, __file__, "--try", network, ",".join(left)]
        try:
            done = subprocess.run(command, capture_output=True, text=True, check=False,
                                  timeout=TIMEOUT_S * len(left))  # fmt: skip
            code, said, stdout = f"exit code {done.returncode}", done.stderr, done.stdout
        except subprocess.TimeoutExpired as late:
            code, said, stdout = f"over {TIMEOUT_S} s", "", (late.stdout or b"").decode()
        written = [line.removeprefix(MARK) for line in stdout.splitlines() if line.startswith(MARK)]
        yield from csv.DictReader(written, COLUMNS)
        left = left[len(written) :]
        if left:
            yield {"network": network, "format": left.pop(0), "reason": reason(code, said)}


def reason(code: str, said: str) -> str:
    """The line of a process's last words that says most."""
    lines = [line.strip() for line in said.splitlines() if line.strip()] or ["no word"]
    last = next((line for line in reversed(lines) if "Error" in line), lines[-1])
    return f"{code}: {last[:200]}"


def passes(row: dict[str, Any]) -> bool:
    """Whether a pair did what it should: fp32 within 1e-4; int8 ran at all."""
    if not row.get("mb"):
        return False
    if FORMATS[row["format"]].precision != "fp32":
        return True
    return float(row["probability"]) < 1e-4


def show(row: dict[str, Any]) -> bool:
    """Print a row; whether it failed without a known reason."""
    mark = "ok" if passes(row) else "FAILED"
    cells = [row.get(key) or "" for key in ("mb", "probability", "reason")]
    print(f"{row['network']:<28}{row['format']:<17}{mark:<8}", *cells, flush=True)
    return mark == "FAILED" and (row["network"], row["format"]) not in EXPECTED


def table(rows: list[dict[str, Any]]) -> str:
    """Markdown: a row a network, a column a format, and the reasons of what failed."""
    lines = ["| network | parameters, M | " + " | ".join(FORMATS) + " |",
             "|---" * (2 + len(FORMATS)) + "|"]  # fmt: skip
    for network in dict.fromkeys(row["network"] for row in rows):
        own = {row["format"]: row for row in rows if row["network"] == network}
        size = max((int(row["parameters"]) for row in own.values() if row["parameters"]), default=0)
        cells = [cell(own.get(name)) for name in FORMATS]
        lines.append(f"| {network} | {size / 1e6:.2f} | {' | '.join(cells)} |")
    failed = [f"- {row['network']}, {row['format']}: {row['reason'] or row['probability']}"
              for row in rows if not passes(row)]  # fmt: skip
    return "\n".join([*lines, "", *failed]) + "\n"


def cell(row: dict[str, Any] | None) -> str:
    """What the table says of a pair: how far it is from torch."""
    if row is None:
        return "not tried"
    if not passes(row):
        return "**fails**"
    return f"{float(row['probability']):.0e}" if row["probability"] else "written"


def main(arguments: list[str] | None = None) -> int:
    """Parse the options, try what the file does not have yet, print the table and the verdict."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--networks", default=",".join(NETWORKS))
    parser.add_argument("--formats", default=",".join(FORMATS))
    parser.add_argument("--output", type=Path, default=Path("ladder.csv"))
    parser.add_argument("--try", dest="asked", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.asked:
        return try_pairs(*options.asked)
    if not options.output.exists():
        options.output.write_text(",".join(COLUMNS) + "\n")
    with open(options.output, newline="") as file:
        known = {(row["network"], row["format"]): row for row in csv.DictReader(file)}
    wrong = 0
    for network in options.networks.split(","):
        formats = options.formats.split(",")
        wrong += sum(show(known[network, name]) for name in formats if (network, name) in known)
        for row in in_fresh_process(network, [f for f in formats if (network, f) not in known]):
            with open(options.output, "a", newline="") as file:
                csv.DictWriter(file, COLUMNS, lineterminator="\n").writerow(row)
            wrong += show(row)
    with open(options.output, newline="") as file:
        write_text(options.output.with_suffix(".md"), table(list(csv.DictReader(file))))
    print(f"{'FAIL' if wrong else 'PASS'}: {wrong} pairs failed without a known reason")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
