"""Errors that name the thing, its value, what is allowed, and the next step."""

import difflib
import os
from collections.abc import Iterable

SHOWN = 16  # allowed names that a message lists; timm alone has over a thousand


class DermdistillError(Exception):
    """Base of every error that a user can act on; the command line prints it without a trace."""


class ConfigError(DermdistillError):
    """A setting is wrong; nothing was read or written yet."""


class DataError(DermdistillError):
    """A table, an image, a store or a split is missing, broken or does not fit another."""


class RunError(DermdistillError):
    """A run directory cannot be read, written or continued."""


class TerminatedError(DermdistillError):
    """The process was told to end (SIGTERM); the same command continues its work."""


class ToolchainError(DermdistillError):
    """A package or a tool that something asked for needs is not installed."""


class BundleError(DermdistillError):
    """A bundle is refused; `reason` says why without naming the file."""

    def __init__(self, path: str | os.PathLike, reason: str):
        super().__init__(
            f"the bundle {os.fspath(path)} is refused: {reason}. Get it again from where it came "
            "from, or export it again"
        )
        self.reason = reason


def unknown_name(kind: str, name: str, allowed: Iterable[str]) -> ConfigError:
    """The error for a name that is not in a list, with the nearest allowed names.

    Args:
        kind: what the name stands for, in the singular ("method").
        name: what was given.
        allowed: every name that would have been right.
    """
    allowed = sorted(allowed)
    near = difflib.get_close_matches(str(name), allowed, n=3, cutoff=0.5)
    hint = f"did you mean {' or '.join(map(repr, near))}?" if near else "choose one of them."
    shown = ", ".join(allowed[:SHOWN])
    more = f" and {len(allowed) - SHOWN} more" if len(allowed) > SHOWN else ""
    return ConfigError(f"no {kind} {name!r}; {hint} Allowed: {shown}{more}.")
