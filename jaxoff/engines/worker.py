"""The process of one job of the engine `local`: reads the job from its standard input."""

from __future__ import annotations

import os
import pickle
import signal
import sys
import threading

from jaxoff.engines.assignment import DONE, carry_out
from jaxoff.engines.local import BROKEN, STOPPED
from jaxoff.errors import Interrupted


def _follow_parent() -> None:
    """Ask this process to stop once the parent closes the pipe, or is no more."""
    while os.read(0, 1):
        pass
    os.kill(os.getpid(), signal.SIGTERM)


def main() -> None:
    """Do the job; the exit status tells how it went."""
    assignment, cores = pickle.load(sys.stdin.buffer)
    threading.Thread(target=_follow_parent, daemon=True).start()
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, cores)
    try:
        state, text = carry_out(assignment, len(cores))
    except Interrupted as stop:
        print(f"jaxoff: {stop}", file=sys.stderr)
        raise SystemExit(STOPPED) from None
    if state != DONE:
        print(f"jaxoff: {text}", file=sys.stderr)
        raise SystemExit(BROKEN)


if __name__ == "__main__":
    main()
