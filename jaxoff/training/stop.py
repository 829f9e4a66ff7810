"""Requests to stop a training."""

from __future__ import annotations

import os
import signal
import threading
from typing import Any

CHUNK_S = 10.0  # longest duration of a chunk, so that it stops and shows progress in time


class Stop:
    """Requests to stop, by SIGTERM or SIGINT, or by SIGUSR2 where somebody handles that already.

    At the first request the current chunk is finished and the state is saved; a second request
    stops at once. A process with a handler of SIGUSR2 belongs to a scheduler, which may send
    several signals before the time is over; there only the first counts.
    """

    def __init__(self) -> None:
        self.received: list[int] = []
        self._before: dict[int, Any] = {}
        self._scheduled = False

    @property
    def requested(self) -> bool:
        """Whether a request has come."""
        return bool(self.received)

    def __enter__(self) -> Stop:
        if threading.current_thread() is threading.main_thread():
            self._scheduled = callable(signal.getsignal(signal.SIGUSR2))
            more = (signal.SIGUSR2,) if self._scheduled else ()
            for number in (signal.SIGTERM, signal.SIGINT, *more):
                self._before[number] = signal.signal(number, self._ask)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _ask(self, number: int, _: object) -> None:
        first = not self.received
        self.received.append(number)
        if not first:
            if self._scheduled:
                return
            raise KeyboardInterrupt
        text = f"saving after this chunk, at most {CHUNK_S + 2:.0f} s; again to stop now\n"
        os.write(2, text.encode())
