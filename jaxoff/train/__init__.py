"""Training: `TrainSpec` says what, `train` does it."""

from jaxoff.train.loop import train
from jaxoff.train.results import Interrupted, Results
from jaxoff.train.spec import TrainSpec

__all__ = ["Interrupted", "Results", "TrainSpec", "train"]
