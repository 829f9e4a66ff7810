"""`python -m jaxoff.cli`, the same as `jaxoff`."""

from jaxoff.cli import main

main()
