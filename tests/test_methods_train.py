"""Every method trains through the real command and beats its own untrained start."""

import json

import pytest
import yaml

import small
from dermdistill.cli import main
from dermdistill.config import to_dict
from dermdistill.methods import METHODS
from dermdistill.run import METRICS, PROVENANCE

EPOCHS = 6


@pytest.fixture(scope="module")
def output(tmp_path_factory):
    """One folder, so that the teachers and the pretext are trained once."""
    return tmp_path_factory.mktemp("methods")


@pytest.mark.slow
@pytest.mark.parametrize("name", METHODS)
def test_beats_its_untrained_start(output, name, capsys):
    losses = {}
    for what, fit in (
        # A step at a rate of nearly nothing leaves the network as it started.
        ("untrained", small.fit(epochs=1, max_steps=1, lr=1e-12, weight_decay=0.0)),
        ("trained", small.fit(epochs=EPOCHS, lr=3e-3)),
    ):
        config = small.config(output, name, student_fit=fit, precision="bf16")
        recipe = output / f"{name}-{what}.yaml"
        recipe.write_text(yaml.safe_dump(to_dict(config)))
        assert main(["distill", "--config", str(recipe)]) == 0
        run = output / capsys.readouterr().out.split("run: ")[1].split()[0]
        assert json.loads((run / PROVENANCE).read_text())["method"] == name
        assert (run / "onnx" / "model.onnx").exists()
        assert json.loads((run / METRICS).read_text())["test"]["images"] > 0
        lines = small.history(run, "validation")
        losses[what] = min(line["loss"] for line in lines)
    assert losses["trained"] < losses["untrained"], losses
