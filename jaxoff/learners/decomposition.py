"""An ensemble of nets that decompose a team's reward into own rewards of agents, its learner, and
its verdict on a dataset.

r_tot(s, o, a) = sum_i lambda_i r(o_i, a_i), where lambda is a softmax over agents of the attention
of the state on each agent's observation and action (Tian et al., AAAI 2023, Eq. 1-5). Needs nothing
but the team's reward.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from jax import lax

from jaxoff.batches import flatten
from jaxoff.data.dataset import Dataset
from jaxoff.losses.credit import decomposition_error, episode_means, moments, returns_to_go
from jaxoff.losses.likelihood import masked_mean
from jaxoff.nets.layers import Dense, LayerInit
from jaxoff.nets.mixers import QMixer
from jaxoff.nets.mlp import MLP
from jaxoff.types import UNAVAILABLE, Array, EnvSpec, Key, Learner, Out, Params, Policy, Transition

KINDS = ("attention", "sum", "monotonic")
_STEPS_AT_ONCE = 2**15  # steps times agents in one part of a pass over a dataset


class RewardDecomposition(nn.Module):
    """One member: state [..., S], observation and action of each agent [..., N, F] -> (own rewards
    [..., N], their total [...]).

    kind: "attention", own rewards are lambda_i r_i with lambda a softmax over agents; "sum", they
    are r_i; both add up to the total. "monotonic": the total is a monotone mixer of r_i (QMIX), so
    r_i is known up to a monotone map only. scale: divide attention scores by sqrt(hidden).
    present [..., N] bool: agents where it is false have no reward and no attention.
    """

    hidden: int = 64
    kind: str = "attention"
    scale: bool = False
    layer_init: LayerInit = "torch"

    @nn.compact
    def __call__(
        self, state: Array, seen: Array, present: Array | None = None
    ) -> tuple[Array, Array]:
        """(own rewards, total)."""
        width, start = self.hidden, self.layer_init
        own = MLP((width, width, 1), layer_init=start, name="reward")(seen)[..., 0]
        if self.kind == "attention":
            of_team, of_agent = (
                MLP((width, width), layer_init=start, name=name) for name in ("team", "agent")
            )
            query = Dense(width, start, use_bias=False, name="query")(of_team(state))
            key = Dense(width, start, use_bias=False, name="key")(of_agent(seen))
            score = jnp.einsum("...h,...nh->...n", query, key) / (
                math.sqrt(width) if self.scale else 1.0
            )
            own = own * jax.nn.softmax(
                score if present is None else jnp.where(present, score, UNAVAILABLE), -1
            )
        own = own if present is None else jnp.where(present, own, 0.0)
        return own, QMixer(layer_init=start, name="mixer")(
            own, state
        ) if self.kind == "monotonic" else jnp.sum(own, -1)


class Decomposed(NamedTuple):
    """State of the fit: parameters have a leading axis [M]."""

    params: Params
    opt: optax.OptState


class Credit(NamedTuple):
    """The verdict on a dataset of E episodes of at most T steps; 0 on padding."""

    reward: Array  # [E, T, N] mean own reward over members
    spread: Array  # [E, T, N] standard deviation of own rewards over members
    # [E, N] mean over an episode's steps of the discounted own return to go
    priority: Array


@dataclasses.dataclass(frozen=True)
class Decomposition:
    """`members` independent nets.

    mask_dead: agents whose observation is all zero have no reward and no attention.
    """

    spec: EnvSpec
    members: int = 5
    hidden: int = 64
    kind: str = "attention"
    scale: bool = False
    mask_dead: bool = False
    layer_init: LayerInit = "torch"

    def net(self) -> RewardDecomposition:
        """The flax module of one member."""
        return RewardDecomposition(self.hidden, self.kind, self.scale, self.layer_init)

    def init(self, key: Key) -> Params:
        """Parameters [M, ...]."""
        n, width = self.spec.num_agents, self.spec.obs_size + self.spec.action_size
        return jax.vmap(
            lambda k: self.net().init(k, jnp.zeros(self.spec.state_size), jnp.zeros((n, width)))
        )(jax.random.split(key, self.members))

    def predict(self, params: Params, batch: Transition) -> tuple[Array, Array]:
        """Own rewards [M, ..., N] and totals [M, ...] of every member, at the steps [...] of a
        batch.
        """
        actions = (
            jax.nn.one_hot(batch.actions, self.spec.action_size)
            if self.spec.discrete
            else batch.actions
        )
        seen = jnp.concatenate([batch.obs, actions], -1)
        present = jnp.any(batch.obs != 0, -1) if self.mask_dead else None
        return jax.vmap(lambda p: self.net().apply(p, batch.state, seen, present))(params)

    def credit(self, params: Params, dataset: Dataset, gamma: Array | float) -> Credit:
        """The verdict on a dataset, in one pass over parts of several episodes."""

        def judge(batch: Transition) -> Credit:
            mean, spread = (
                x * batch.valid[..., None] for x in moments(self.predict(params, batch)[0])
            )
            return Credit(
                mean, spread, episode_means(returns_to_go(mean, batch.valid, gamma), batch.valid)
            )

        return over_episodes(dataset, judge)


def over_episodes(dataset: Dataset, function: Callable[[Transition], Any]) -> Any:
    """function(batch [C, T, ...]) of all episodes of a dataset, in parts of C: arrays [E, ...]."""
    steps = dataset.max_length
    size = max(1, min(dataset.num_episodes, _STEPS_AT_ONCE // (steps * dataset.spec.num_agents)))

    def some(first: Array) -> Any:
        rows = dataset.episode_row[jnp.minimum(first + jnp.arange(size), dataset.num_episodes - 1)]
        return function(dataset.window(rows, steps))

    parts = lax.map(some, jnp.arange(0, dataset.num_episodes, size))
    return jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:])[: dataset.num_episodes], parts)


def fit(model: Decomposition, params: Params, batch: Transition) -> tuple[Array, dict[str, Array]]:
    """The loss (Eq. 3), a mean over the valid steps of a batch, and metrics: R^2 of the mean total,
    mean own rewards.
    """
    rows = flatten(batch)
    own, totals = model.predict(params, rows)
    loss = masked_mean(decomposition_error(totals, rows.reward), rows.valid)
    mean = jnp.mean(totals, 0)
    errors, centred = (
        jnp.square(mean - rows.reward),
        jnp.square(rows.reward - masked_mean(rows.reward, rows.valid)),
    )
    metrics = {
        "error": loss,
        "r2": 1.0
        - masked_mean(errors, rows.valid) / jnp.maximum(masked_mean(centred, rows.valid), 1e-12),
    }
    agents = range(model.spec.num_agents)
    return loss, metrics | {
        f"own_reward_{i}": masked_mean(jnp.mean(own[..., i], 0), rows.valid) for i in agents
    }


def decomposition_learner(model: Decomposition, optimiser: optax.GradientTransformation) -> Learner:
    """Fits all members to the same batches; they differ only by their random initialisation.

    It has no policy.
    """

    def init(key: Key) -> Decomposed:
        params = model.init(key)
        return Decomposed(params, optimiser.init(params))

    def update(state: Decomposed, batch: Transition, key: Key) -> tuple[Decomposed, Out]:
        grads, metrics = jax.grad(lambda p: fit(model, p, batch), has_aux=True)(state.params)
        changes, opt = optimiser.update(grads, state.opt)
        return Decomposed(optax.apply_updates(state.params, changes), opt), Out(metrics)

    def policy(state: Decomposed) -> Policy:
        raise TypeError(
            "a decomposition of rewards: expected a stage with a policy, found one without"
        )

    return Learner(init, update, policy)
