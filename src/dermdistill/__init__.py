"""Distil dermoscopy classifiers small enough for a phone, and prove how good they are.

For research only. This is no medical device and gives no diagnosis: see a dermatologist.
"""

import importlib
from typing import Any

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
