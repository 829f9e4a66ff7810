"""Requests to stop a training."""

from __future__ import annotations

import os
import signal
import threading
from typing import Any

CHUNK_S = 10.0  # longest duration of a chunk, so that it stops and shows progress in time


class Stop:
    """Requests to stop, by SIGTERM or SIGINT.

    At the first request the current chunk is finished and the state is saved; a second request
    stops at once.
    """

    def __init__(self) -> None:
        self.requested = False
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Stop:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGTERM, signal.SIGINT):
                self._before[number] = signal.signal(number, self._ask)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _ask(self, number: int, _: object) -> None:
        if self.requested:
            raise KeyboardInterrupt
        self.requested = True
        text = f"saving after this chunk, at most {CHUNK_S + 2:.0f} s; again to stop now\n"
        os.write(2, text.encode())
