"""Distil dermoscopy classifiers small enough for a phone, and prove how good they are.

For research only. This is no medical device and gives no diagnosis: see a dermatologist.
"""

import importlib
import os
from typing import Any

# ONNX Runtime's official builds write a session's identity to the disk and send events to their
# maker from the moment they are imported (its Privacy.md, since 1.32); medical images are near.
os.environ["ORT_DISABLE_TELEMETRY"] = "1"

# Large tensors in large pages (Linux): on a CPU a step's maps are taken from the system anew and
# again, and page by page that costs more than computing on them (docs/performance.md). torch reads
# this when it makes its first tensor, which other libraries do while they are imported.
os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")

_HOMES = {
    "Config": "config", "load_config": "config",
    "DermdistillError": "errors",
    "read_table": "data.readers", "make_split": "data.splits", "pack": "data.pack",
    "audit": "data.audit", "synthesise": "data.phantom",
    "METHODS": "methods", "build_method": "methods",
    "load_network": "models", "export_run": "export", "Bundle": "bundle", "write_report": "report",
}  # fmt: skip
__all__ = sorted(_HOMES)


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used: `import dermdistill` does no work."""
    if name not in _HOMES:
        raise AttributeError(f"module 'dermdistill' has no attribute {name!r}")
    return getattr(importlib.import_module(f"dermdistill.{_HOMES[name]}"), name)
