"""One training: `python -m jaxoff.experiments.drill.job FOLDER SPEC DEVICES WANDB [PEER NUMBER]`.

SPEC is a TrainSpec as JSON; PEER and NUMBER: the address and the number of two joint processes.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import jax

from jaxoff import runtime


def main() -> None:
    """Train, and end with status 143 after a stop."""
    folder, settings, devices, wandb, *pair = sys.argv[1:]
    if pair:
        jax.config.update("jax_cpu_collectives_implementation", "gloo")
    runtime.setup(cpu_devices=int(devices))
    if pair:
        jax.distributed.initialize(pair[0], num_processes=2, process_id=int(pair[1]))
    from jaxoff.errors import Interrupted
    from jaxoff.logs import WandB
    from jaxoff.training import TrainSpec, train

    spec, out = TrainSpec(**json.loads(settings)), Path(folder)
    begun = (out / "checkpoint").exists()
    sinks = [WandB("offline", "jaxoff", "drill", out / "wandb", resume=begun)]
    try:
        train(spec, out, sinks if wandb == "offline" else ())
    except Interrupted:
        raise SystemExit(143) from None


if __name__ == "__main__":
    main()
