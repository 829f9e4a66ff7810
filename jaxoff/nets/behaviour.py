"""Autoregressive behaviour model: how teammates act, given the state and one agent's own action.

mu_i(a_j | s, a_i, earlier teammates) of AlberDICE (Matsunaga et al., 2023) and InSPO: one net per anchor
agent i, used for each teammate j. Its input is the one-hot of j, the state, the one-hot of a_i, and the
one-hots of teammates before j (n - 2 slots, increasing index, zero until filled).
"""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from jaxoff.losses.likelihood import log_prob
from jaxoff.nets.actors import UNAVAILABLE
from jaxoff.nets.mlp import MLP
from jaxoff.types import Array, EnvSpec, Key, Params


@dataclasses.dataclass(frozen=True)
class TeammateModel:
    """Nets of all anchors, parameters with a leading axis [N]. For two or more agents."""

    spec: EnvSpec
    hidden: int
    layers: int = 2

    def __post_init__(self) -> None:
        if self.spec.num_agents < 2:
            raise ValueError(f"teammate model of '{self.spec.name}': expected at least 2 agents, found {self.spec.num_agents}")

    def net(self) -> MLP:
        """The flax module of one anchor."""
        return MLP((self.hidden,) * self.layers + (self.spec.action_size,))

    def init(self, key: Key) -> Params:
        """Parameters [N, ...]."""
        n, a = self.spec.num_agents, self.spec.action_size
        width = n + self.spec.state_size + a + max(n - 2, 0) * a
        return jax.vmap(lambda k: self.net().init(k, jnp.zeros(width)))(jax.random.split(key, n))

    def log_prob(self, params: Params, anchor: Array | int, state: Array, actions: Array, avail: Array) -> Array:
        """log mu(a_j | s, a_i, ...) of every agent j under one anchor's own parameters; 0 for j = anchor.

        state [M, S], actions [M, N] int, avail [M, N, A] -> [M, N].
        """
        n, a = self.spec.num_agents, self.spec.action_size
        one_hot = jax.nn.one_hot(actions, a)  # [M, N, A]
        own = jnp.take(one_hot, anchor, 1)
        # Slot k of target j holds the k-th teammate, if it comes before j. Tables are indexed by the anchor.
        mates = np.array([[j for j in range(n) if j != i] for i in range(n)])  # [N, n-1]
        slots = jnp.asarray(mates[:, : n - 2])[anchor]  # [n-2]
        before = (slots[None] < jnp.arange(n)[:, None]).astype(jnp.float32)  # [target, slot]
        shown = jnp.take(one_hot, slots, 1)[:, None] * before[None, :, :, None]  # [M, N, n-2, A]
        x = jnp.concatenate(
            [
                jnp.broadcast_to(jnp.eye(n), (len(state), n, n)),
                jnp.broadcast_to(state[:, None], (len(state), n, state.shape[-1])),
                jnp.broadcast_to(own[:, None], (len(state), n, a)),
                shown.reshape(len(state), n, -1),
            ],
            -1,
        )
        logits = jnp.where(avail > 0, self.net().apply(params, x), UNAVAILABLE)
        return jnp.where(jnp.arange(n) == anchor, 0.0, log_prob(logits, actions))
