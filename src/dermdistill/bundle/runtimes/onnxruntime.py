"""ONNX Runtime, for laptops and servers."""

import numpy as np
import onnxruntime

from dermdistill.bundle.runtimes.base import Runtime


class OnnxRuntime(Runtime):
    """Models in ONNX, in fp32 and int8, on the CPU."""

    def load(self, files: dict[str, bytes], threads: int) -> None:
        """From memory: no path is opened, so no weight can come from elsewhere."""
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
        (content,) = files.values()
        self._session = onnxruntime.InferenceSession(
            content, options, providers=["CPUExecutionProvider"]
        )

    def run(self, pixels: np.ndarray) -> dict[str, np.ndarray]:
        """As Runtime."""
        names = list(self.model.outputs.values())
        found = self._session.run(names, {self.model.input.name: pixels})
        return dict(zip(names, found, strict=True))
