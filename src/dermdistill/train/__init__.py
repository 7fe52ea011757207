"""The loop that trains every stage; it knows no method by name."""

from dermdistill.train.learner import Learner
from dermdistill.train.loop import Trainer

__all__ = ["Learner", "Trainer"]
