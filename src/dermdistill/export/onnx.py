"""ONNX: RGB in [0, 1] in, logits out, the network's normalisation inside the graph."""

import contextlib
import io
import logging
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import torch
from torch import Tensor, nn

from dermdistill.data.store import Store
from dermdistill.data.views import upright_view
from dermdistill.errors import DataError, RunError
from dermdistill.evaluate.predictions import Predictions
from dermdistill.models import Backbone, load_network
from dermdistill.run import PROVENANCE, atomic_write, read_json, write_json

OPSET = 20
PARITY_IMAGES = 64
PARITY_TOLERANCE = 1e-3  # of a logit; fp32 kernels of two runtimes differ by about 1e-5


class _Logits(nn.Module):
    """The network as the graph shows it: images in, logits out."""

    def __init__(self, network: Backbone):
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        return self.network(images).logits


def export_onnx(run: Path) -> dict[str, Any]:
    """Write `onnx/model.onnx` and `onnx/parity.json` into a run; batch size is free.

    Returns:
        Images compared, their source, largest difference of a logit, share of equal answers.

    Raises:
        RunError: the run is not finished, or ONNX Runtime does not answer as torch does.
    """
    origin = read_json(run / PROVENANCE)
    network = _Logits(load_network(run)).eval()
    px = origin["input_px"]
    path = run / "onnx" / "model.onnx"
    with atomic_write(path) as temporary:
        _write(network, px, temporary)
        images, source = _parity_images(run, origin, px)
        parity = {"source": source, **_compare(network, temporary, images)}
        if parity["largest_logit_difference"] > PARITY_TOLERANCE:
            raise RunError(
                f"the ONNX export of {run} differs from torch by "
                f"{parity['largest_logit_difference']:.2g} of a logit (allowed: "
                f"{PARITY_TOLERANCE}), so it was not kept. Please report the network "
                f"{origin['network']!r} and the versions in {PROVENANCE}"
            )
    write_json(run / "onnx" / "parity.json", parity)
    return parity


def _write(network: nn.Module, px: int, path: Path) -> None:
    example = torch.rand(2, 3, px, px)
    batch = torch.export.Dim("batch", min=1)
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    with contextlib.redirect_stdout(io.StringIO()):  # the exporter prints its own progress
        program = torch.onnx.export(
            network, (example,), dynamo=True, opset_version=OPSET, input_names=["images"],
            output_names=["logits"], dynamic_shapes=({0: batch},), external_data=False,
        )  # fmt: skip
        program.save(str(path), external_data=False)


def _parity_images(run: Path, origin: dict[str, Any], px: int) -> tuple[Tensor, str]:
    """Held-out images of the run's own store, or noise where the store is gone."""
    try:
        store = Store.open(origin["store"]["folder"])
        ids = Predictions.load(run / "predictions-test.csv").ids[:PARITY_IMAGES]
        return upright_view(torch.from_numpy(store.images[store.rows(ids)])), "test images"
    except DataError:
        generator = torch.Generator().manual_seed(0)
        return torch.rand(PARITY_IMAGES, 3, px, px, generator=generator), "random noise"


@torch.no_grad()
def _compare(network: nn.Module, path: Path, images: Tensor) -> dict[str, Any]:
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    theirs = session.run(["logits"], {"images": images.numpy()})[0]
    ours = network(images).numpy()
    return {
        "images": len(images),
        "largest_logit_difference": float(np.abs(theirs - ours).max()),
        "top1_agreement": float((theirs.argmax(1) == ours.argmax(1)).mean()),
        "onnxruntime": onnxruntime.__version__,
    }
