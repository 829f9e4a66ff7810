"""Tables, figures, GIFs and a web page from result folders.

Nothing here trains or needs a device.
"""

from jaxoff.errors import BrokenResult
from jaxoff.report.folder import report
from jaxoff.report.load import Run, load_experiment, load_run

__all__ = ["BrokenResult", "Run", "load_experiment", "load_run", "report"]
