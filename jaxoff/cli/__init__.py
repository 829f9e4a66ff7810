"""The command line. Everything it does is one call of a documented function.

Its modules import tyro, rich and the standard library; a command imports what else it needs when
it runs.
"""

from jaxoff.cli.main import main

__all__ = ["main"]
