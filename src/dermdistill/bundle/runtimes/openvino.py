"""OpenVINO, for Intel processors."""

import numpy as np
import openvino

from dermdistill.bundle.runtimes.base import Runtime


class OpenVino(Runtime):
    """Models in OpenVINO's IR on the CPU, in fp32: its own choice would be bf16."""

    def load(self, files: dict[str, bytes], threads: int) -> None:
        """From memory."""
        core = openvino.Core()
        model = core.read_model(files["model.xml"], files["model.bin"])
        settings = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": threads}
        self._model = core.compile_model(model, "CPU", settings)

    def run(self, pixels: np.ndarray) -> dict[str, np.ndarray]:
        """As Runtime."""
        found = self._model({self.model.input.name: pixels})
        return {name: np.array(found[name]) for name in self.model.outputs.values()}
