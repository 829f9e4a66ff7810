"""The command line. Each command is one call of a documented function.

The modules here import tyro, rich and the standard library; a command imports everything else that
it needs when it runs.
"""

from jaxoff.cli.main import main

__all__ = ["main"]
