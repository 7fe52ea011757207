"""A real bundle taken apart and put together otherwise, as a careless or hostile hand would."""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from dermdistill.bundle.archive import Archive, write_archive
from dermdistill.bundle.manifest import MANIFEST


def files_of(path: Path) -> dict[str, bytes]:
    """Every file of a bundle, the manifest first."""
    archive = Archive(path)
    return {name: archive.read(name) for name in archive.names}


def rebuild(
    path: Path,
    output: Path,
    changes: dict[str, bytes | None],
    edit: Callable[[dict[str, Any]], Any] = lambda manifest: None,
) -> Path:
    """A bundle with some files changed, added or (None) removed, whose digests fit again.

    Args:
        path: the bundle to start from.
        output: the new one.
        changes: file -> content.
        edit: changes the manifest in place, after its digests were made.
    """
    files = files_of(path)
    manifest = json.loads(files.pop(MANIFEST))
    for name, content in changes.items():
        files.pop(name) if content is None else files.update({name: content})
    manifest["files"] = {
        name: {"sha256": hashlib.sha256(content).hexdigest(), "bytes": len(content)}
        for name, content in files.items()
    }
    edit(manifest)
    write_archive(output, {MANIFEST: json.dumps(manifest).encode(), **files})
    return output
