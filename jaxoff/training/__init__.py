"""Training: `TrainSpec` says what, `train` does it."""

from jaxoff.training.loop import train
from jaxoff.training.results import Interrupted, Results
from jaxoff.training.spec import TrainSpec

__all__ = ["Interrupted", "Results", "TrainSpec", "train"]
