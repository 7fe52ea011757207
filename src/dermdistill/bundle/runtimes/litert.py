"""LiteRT, for phones, browsers and, as here, laptops."""

import numpy as np
from ai_edge_litert.interpreter import Interpreter

from dermdistill.bundle.runtimes.base import Runtime


class LiteRt(Runtime):
    """Models in .tflite, in fp32 and int8, through XNNPACK."""

    def load(self, files: dict[str, bytes], threads: int) -> None:
        """From memory."""
        (content,) = files.values()
        self._interpreter = Interpreter(model_content=content, num_threads=threads)
        self._run = self._interpreter.get_signature_runner()

    def run(self, pixels: np.ndarray) -> dict[str, np.ndarray]:
        """As Runtime."""
        return self._run(**{self.model.input.name: pixels})
