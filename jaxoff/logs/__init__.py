"""Logs of training: one interface, and three destinations of records."""

from jaxoff.logs.base import Guarded, Record, Sink, making
from jaxoff.logs.dashboard import WandB
from jaxoff.logs.jsonlines import JsonLines
from jaxoff.logs.progress import Progress

__all__ = ["Guarded", "JsonLines", "Progress", "Record", "Sink", "WandB", "making"]
