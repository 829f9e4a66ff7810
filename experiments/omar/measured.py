"""Numbers of OMAR's claims that take seconds: steps of the worlds, the motivating value."""

from __future__ import annotations

from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np
from jaxoff.experiments.evidence.measures import Measure, Measured
from jaxoff.experiments.omar import landscape, parts

from jaxoff.envs.mpe.omar import Chase, make_spread
from jaxoff.envs.mpe.physics import ParticleState, advance

# One step of each world, from the authors' code in double precision: bodies, velocities and actions
# before it; positions and team rewards after it.
ACTIONS = [(1, 0), (-0.5, 0.25), (0, -1)]
SPREAD = [(0, 0), (0.2, 0), (-0.5, 0.5), (0.05, 0), (1, 1), (-0.5, 0.4)]
SPREAD_SPEEDS = [(0, 0), (0, 0), (0.1, -0.2)]
SPREAD_AFTER = [(-0.05, 0), (0.275, 0.0125), (-0.4925, 0.435)]
MOVERS = [(0, 0), (0.3, 0.3), (-0.4, 0.1), (0.1, 0.05)]
SPEEDS = [(0, 0), (0.2, 0), (0, -0.3), (0.5, 0.5)]
LANDMARKS = {
    "tag": [(0.5, 0.5), (-0.6, -0.2)],
    "world": [(0.5, 0.5), (-0.6, -0.2), (0.3, -0.7), (0, 0.1), (-0.8, 0.8)],
}
FLIGHT = {"tag": (-0.201182, 0.298293), "world": (0.0845888, 0.2117299)}  # of the authors' prey
AFTER = {
    "tag": [(0.0781966, -0.0059017), (0.2699997, 0.3224997), (-0.4, 0), (0.1171143, 0.1411286)],
    "world": [(0.0826685, -0.0036658), (0.2699997, 0.3224997), (-0.4, 0), (0.1583657, 0.1250425)],
}
REWARD = {"tag": -0.0925332, "world": -0.0948343}


def golden_steps() -> Iterator[Measured]:
    """The largest difference of one step of each world from the published numbers."""
    array = lambda x: jnp.array(x, jnp.float32)
    start = lambda x, v: ParticleState(array(x), array(v), jnp.array(0, jnp.int32))
    state = start(SPREAD, SPREAD_SPEEDS)
    after, seen = jax.jit(make_spread().step)(jax.random.key(0), state, array(ACTIONS))
    gaps = [after.positions[:3] - array(SPREAD_AFTER), seen.agent_reward / 20.816284 - 1.0]
    yield Measured("golden step", "mpe/spread", 0, {"largest difference": _largest(gaps)})
    for world, landmarks in LANDMARKS.items():
        chase, state = Chase(world), start(MOVERS + landmarks, SPEEDS)
        after = advance(chase.bodies, state, array([*ACTIONS, FLIGHT[world]]))
        gaps = [after.positions[:4] - array(AFTER[world]), chase.team_reward(after) - REWARD[world]]
        yield Measured("golden step", f"mpe/{world}", 0, {"largest difference": _largest(gaps)})


def _largest(gaps: list[jax.Array]) -> float:
    return max(float(jnp.abs(gap).max()) for gap in gaps)


def climbs() -> Iterator[Measured]:
    """The last action of the actor of the motivating example, by search and tau, of 20 keys."""
    keys = jax.random.split(jax.random.key(0), 20)
    for name, config in parts.SEARCHES.items():
        play = jax.jit(
            jax.vmap(
                lambda mimic, key, config=config: landscape.climb(config, mimic, key)[-1],
                (None, 0),
            )
        )
        for share in parts.SHARES:
            for seed, end in enumerate(np.asarray(play(np.float32(share), keys))):
                task = f"value of two modes, tau {share:g}"
                yield Measured(name, task, seed, {"last action": float(end)})


MEASURES = {
    "golden-steps": Measure(golden_steps),
    "motivating-value": Measure(climbs, slow=True),  # a minute or two
}
