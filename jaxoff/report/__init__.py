"""Tables, figures, GIFs and a web page from result folders.

Nothing here trains or needs a device. The public names are imported when they are first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jaxoff.errors import BrokenResult as BrokenResult
    from jaxoff.report.folder import report as report
    from jaxoff.report.load import Run as Run
    from jaxoff.report.load import load_experiment as load_experiment
    from jaxoff.report.load import load_run as load_run

_FACE = {
    "BrokenResult": "jaxoff.errors",
    "Run": "jaxoff.report.load",
    "load_experiment": "jaxoff.report.load",
    "load_run": "jaxoff.report.load",
    "report": "jaxoff.report.folder",
}
__all__ = ["BrokenResult", "Run", "load_experiment", "load_run", "report"]


def __getattr__(name: str) -> Any:
    """The public names (PEP 562)."""
    if name not in _FACE:
        raise AttributeError(f"module 'jaxoff.report' has no attribute '{name}'")
    return getattr(importlib.import_module(_FACE[name]), name)
