"""`python -m experiments.pjap`: see `experiments.pjap.command`."""

import sys

from jaxoff import runtime

if __name__ == "__main__":
    runtime.setup()  # before the first array, and importing a simulator makes some
    from experiments.pjap.command import main

    sys.stdout.writelines(f"{path}\n" for path in main())
