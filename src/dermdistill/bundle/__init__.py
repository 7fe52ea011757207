"""Bundles: a student in many formats with all that an app must know, in one verified zip."""

from dermdistill.bundle.formats import FORMATS
from dermdistill.bundle.golden import check_golden
from dermdistill.bundle.reader import Bundle
from dermdistill.bundle.runtimes import Answers, Runtime, can_run, open_runtime

__all__ = ["FORMATS", "Answers", "Bundle", "Runtime", "can_run", "check_golden", "open_runtime"]
