"""GPUs as XLA describes them (chips/*.txtpb), and the least time that an update takes on one."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

FOLDER = Path(__file__).parent / "chips"
LAUNCH_S = (2e-6, 5e-6)  # seconds from one kernel's start to the next one's, at least
SHARE = 0.75  # of a GPU's memory, which JAX takes for arrays unless it is told otherwise


@dataclasses.dataclass(frozen=True)
class Floor:
    """Least seconds of an update, by what takes them; the largest of the three binds it."""

    launches_s: float  # at the smaller of LAUNCH_S
    bandwidth_s: float
    arithmetic_s: float

    @property
    def seconds(self) -> float:
        """The floor."""
        return max(dataclasses.astuple(self))

    @property
    def binds(self) -> str:
        """What binds: launches, bandwidth or arithmetic."""
        parts = dataclasses.asdict(self)
        return max(parts, key=lambda name: parts[name]).removesuffix("_s")


@dataclasses.dataclass(frozen=True)
class Chip:
    """A described GPU. flops: float32 operations per second, where a multiplication and an
    addition of a matrix product go together.
    """

    name: str
    description: str  # in XLA's text format
    memory_bytes: int
    bandwidth: int  # bytes per second
    flops: float

    @property
    def usable_bytes(self) -> float:
        """What programs may take of its memory."""
        return SHARE * self.memory_bytes

    def floor(self, kernels: float, moved: float, products: float, others: float) -> Floor:
        """The floor of an update. kernels: launched; moved: bytes read and written; products,
        others: operations of matrix products, and others, which come one at a time.
        """
        arithmetic = products / self.flops + others / (self.flops / 2)
        return Floor(kernels * LAUNCH_S[0], moved / self.bandwidth, arithmetic)


def load(path: Path) -> Chip:
    """A chip from the file of its description."""
    text = path.read_text()

    def number(name: str) -> float:
        found = re.search(rf"\b{name}: ([\d.]+)", text)
        assert found is not None, f"{path.name}: {name}"
        return float(found[1])

    title = re.search(r'device_description_str: "([^"]*)"', text)
    assert title is not None, path.name
    flops = 2e9 * number("core_count") * number("fpus_per_core") * number("clock_rate_ghz")
    memory, bandwidth = int(number("device_memory_size")), int(number("memory_bandwidth"))
    return Chip(title[1], text, memory, bandwidth, flops)


CHIPS = {path.stem: load(path) for path in sorted(FOLDER.glob("*.txtpb"))}
