"""ExecuTorch, for phones and, as here, laptops."""

import numpy as np
import torch
from executorch.runtime import Runtime as Engine

from dermdistill.bundle.runtimes.base import Runtime


class ExecuTorch(Runtime):
    """Programs in .pte, in fp32 and int8, through XNNPACK. Its tensors are torch's."""

    def load(self, files: dict[str, bytes], threads: int) -> None:
        """From memory."""
        from executorch.extension.pybindings import portable_lib

        (content,) = files.values()
        portable_lib._unsafe_reset_threadpool(threads)
        self._program = Engine.get().load_program(content)  # the method lives in its memory
        self._method = self._program.load_method("forward")

    def run(self, pixels: np.ndarray) -> dict[str, np.ndarray]:
        """As Runtime."""
        found = self._method.execute([torch.from_numpy(pixels)])
        return {str(place): tensor.numpy().copy() for place, tensor in enumerate(found)}
