"""The app and the model behind HTTP, on this machine unless told otherwise."""

from dermdistill.serve.limits import Limits
from dermdistill.serve.run import serve

__all__ = ["Limits", "serve"]
