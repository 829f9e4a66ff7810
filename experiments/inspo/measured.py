"""Numbers of InSPO's claims that need no training: the theory's exact iteration, and replays of the
public buffers in our games.
"""

from __future__ import annotations

from collections.abc import Iterator

import jax
import numpy as np
from jaxoff.experiments.evidence.measures import Measure, Measured
from jaxoff.experiments.inspo import tabular

from jaxoff import registry
from jaxoff.data import recipes
from jaxoff.envs.games.bridge import make_bridge
from jaxoff.envs.games.matrix import XOR, mne
from jaxoff.names import DataOptions, Task


def tabular_games() -> Iterator[Measured]:
    """Fixed points of the exact iteration: how far they are from Eq. 12, the smallest change of the
    objective in a step, and on XOR the probability of the likeliest joint action in the data.
    """
    balanced, imbalanced = [1 / 3] * 3, [0.8, 0.1, 0.1]
    settings = [(1.0, 0.0), (1.0, 1.0), (1.0, 5.0), (5.0, 5.0), (0.05, 0.02)]
    for name, payoff, mu in (
        ("matrix/mne/balanced", mne(0.0), balanced),
        ("matrix/mne/imbalanced", mne(0.0), imbalanced),
        ("matrix/mne-20/imbalanced", mne(-20.0), imbalanced),
        ("matrix/xor/c", XOR, [2 / 3, 1 / 3]),
    ):
        both = np.array([mu, mu])
        for seed, (alpha, beta) in enumerate(settings):
            end = tabular.fixed_point(payoff, both, alpha, beta)
            policies, before = both.copy(), tabular.objective(payoff, both, both, alpha, beta)
            least = np.inf
            for agent in [0, 1, 1, 0] * 50:
                policies = tabular.sweep(payoff, both, policies, alpha, beta, order=(agent,))
                after = tabular.objective(payoff, both, policies, alpha, beta)
                least, before = min(least, after - before), after
            found = {"residual": tabular.residual(payoff, both, end, alpha, beta)}
            found |= {"smallest step": least, "alpha": alpha, "beta": beta}
            yield Measured("exact iteration", name, seed, found)
    both = np.array([[0.5, 0.5], [0.5, 0.5]])
    for seed, order in enumerate(((0, 1), (1, 0))):
        end = tabular.fixed_point(XOR, both, 0.05, 0.02, order=order)
        likeliest = max(end[0, 0] * end[1, 1], end[0, 1] * end[1, 0])
        yield Measured("exact iteration", "matrix/xor/b", seed, {"likeliest": float(likeliest)})


def replays(data_dir: str) -> Iterator[Measured]:
    """Recorded numbers of the public buffers that our games, played by the same actions, do not
    give, and how many there are; of the buffers that are there.
    """
    fields = ("state", "obs", "avail", "actions", "reward", "terminated", "truncated", "filled")
    for first in ("alberdice:grid/bridge/optimal", "alberdice:matrix/xor/b"):
        for task in registry.family_of(Task.parse(first)).tasks():
            try:
                data = registry.make_data(task, DataOptions(data_dir=data_dir))
            except FileNotFoundError:
                continue
            bridge = "bridge" in str(task)
            env = make_bridge(horizon=50) if bridge else registry.make_env(task)
            ours = recipes.replay(env, data.actions, jax.random.key(0))
            pairs = [(np.asarray(getattr(ours, x)), np.asarray(getattr(data, x))) for x in fields]
            numbers = {
                "mismatches": float(sum((a != b).sum() for a, b in pairs)),
                "compared": float(sum(b.size for _, b in pairs)),
            }
            yield Measured("replay", str(task), 0, numbers)


MEASURES = {"tabular": Measure(tabular_games), "replays": Measure(replays, public=True)}
