"""NCNN, for phones and, as here, laptops."""

import tempfile
from pathlib import Path

import ncnn
import numpy as np

from dermdistill.bundle.runtimes.base import Runtime


class Ncnn(Runtime):
    """Models in NCNN's two files, in fp32 on the CPU."""

    def load(self, files: dict[str, bytes], threads: int) -> None:
        """Through files of names that we choose, since its Python side reads nothing else."""
        self._net = ncnn.Net()
        self._net.opt.num_threads = threads
        self._net.opt.use_vulkan_compute = False
        for half in ("fp16_packed", "fp16_storage", "fp16_arithmetic", "bf16_storage"):
            setattr(self._net.opt, f"use_{half}", False)
        with tempfile.TemporaryDirectory() as folder:
            for name, content in files.items():
                (Path(folder) / name).write_bytes(content)
            self._net.load_param(f"{folder}/model.param")
            self._net.load_model(f"{folder}/model.bin")

    def run(self, pixels: np.ndarray) -> dict[str, np.ndarray]:
        """As Runtime; NCNN knows no axis of images, and keeps no array that it does not own."""
        extractor = self._net.create_extractor()
        extractor.input(self.model.input.name, ncnn.Mat(pixels[0]).clone())
        return {name: np.array(extractor.extract(name)[1])[None]
                for name in self.model.outputs.values()}  # fmt: skip
