"""Trained networks as files for other runtimes, each compared with torch before it counts."""

from pathlib import Path
from typing import Any

from dermdistill.errors import unknown_name
from dermdistill.export.onnx import export_onnx

FORMATS = {"onnx": export_onnx}


def export_run(run: Path, to: str) -> dict[str, Any]:
    """Export a run's network into `RUN/<format>/`; return its parity with torch.

    Raises:
        ConfigError: no such format.
        RunError: the run is not finished, or the export does not agree with torch.
    """
    if to not in FORMATS:
        raise unknown_name("export format", to, FORMATS)
    return FORMATS[to](run)
