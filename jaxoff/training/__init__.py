"""Training: a `TrainSpec` describes a job, and `train` runs it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from jaxoff.errors import Interrupted
from jaxoff.training.spec import TrainSpec

if TYPE_CHECKING:
    from jaxoff.training.loop import train as train
    from jaxoff.training.results import Results as Results

__all__ = ["Interrupted", "Results", "TrainSpec", "train"]


def __getattr__(name: str) -> Any:
    """Names that need JAX are imported when they are first used (PEP 562)."""
    if name == "train":
        from jaxoff.training.loop import train

        return train
    if name == "Results":
        from jaxoff.training.results import Results

        return Results
    raise AttributeError(f"module 'jaxoff.training' has no attribute '{name}'")
