"""Nets of all agents, for policies or action values: shared or one per agent, feed-forward or
recurrent.

The same object serves training (outputs for every slot of a batch) and execution (a `Policy`).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxoff import blocks, distributions
from jaxoff.nets.layers import LayerInit
from jaxoff.nets.mlp import MLP
from jaxoff.nets.recurrent import GRUReset, RecurrentNet
from jaxoff.nets.units import RecurrentUnitNet, UnitNet, unit_list
from jaxoff.types import (
    UNAVAILABLE,
    Array,
    Carry,
    Distribution,
    EnvSpec,
    Key,
    Params,
    Policy,
    TimeStep,
    Transition,
)


def greedy(policy: Policy) -> Policy:
    """The policy that always plays the mode of another one over discrete actions: argmax of its
    logits, or values.
    """

    def distribution(memory: Carry, seen: TimeStep) -> tuple[Carry, Distribution]:
        memory, dist = policy.distribution(memory, seen)
        best = jax.nn.one_hot(dist.mode(), seen.avail.shape[-1])
        return memory, distributions.categorical(jnp.where(best > 0, 0.0, UNAVAILABLE))

    return Policy(policy.initial, distribution)


def init_by_type(init: Callable[[Key], Params], key: Key, types: Sequence[int]) -> Params:
    """Parameters for each type of agent, on a leading axis in order of first appearance; without
    that axis where all agents are of one type.
    """
    count = len(set(types))
    return init(key) if count == 1 else jax.vmap(init)(jax.random.split(key, count))


def over_agents(
    function: Callable[..., Any], types: Sequence[int], out_axes: int = 0
) -> Callable[..., Any]:
    """Map function(parameters, ...) of one agent over all agents: parameters as `init_by_type`
    makes them, other arguments [N, ...].
    """
    kinds = list(dict.fromkeys(types))

    def all_agents(params: Params, *args: Any) -> Any:
        if len(kinds) == 1:
            return jax.vmap(function, (None, *[0] * len(args)), out_axes)(params, *args)
        own = jax.tree.map(lambda x: x[np.array([kinds.index(kind) for kind in types])], params)
        return jax.vmap(function, out_axes=out_axes)(own, *args)

    return all_agents


@dataclasses.dataclass(frozen=True)
class Actors:
    """Nets that map each agent's input to logits (discrete) or bounded actions (continuous).

    recurrent: a GRU over the episode that also sees the previous action, from zero memory. share:
    one set of weights, with the agent's number appended to its input; else parameters have a
    leading axis [N]. hidden: width of each layer; layers: hidden layers of the feed-forward net.
    types: with `share`, the type of each agent; weights are then shared within a type, and have a
    leading axis of types where there are several. head: where it is not 0, the weights of the last
    layer of a feed-forward net start uniform in +-head. numbered: whether a shared net takes the
    agent's number. last_action, activated: whether a recurrent net takes the previous action, and
    whether a ReLU follows its GRU. units: a net for battles that treats units alike (`UnitNet`);
    `hidden` is the width of a unit's embedding.
    """

    spec: EnvSpec
    hidden: int
    layers: int = 2
    recurrent: bool = False
    share: bool = False
    types: tuple[int, ...] = ()
    head: float = 0.0
    numbered: bool = True
    last_action: bool = True
    activated: bool = False
    units: bool = False
    layer_init: LayerInit = "torch"
    reset_gate: GRUReset = "after"

    def net(self) -> Any:
        """The flax module of one agent."""
        out = self.spec.action_size
        if self.units:
            listed = unit_list(self.spec)
            assert listed is not None, self.spec.name
            net = RecurrentUnitNet if self.recurrent else UnitNet
            return net(listed, self.hidden, out, self.layer_init, self.head)
        if self.recurrent:
            return RecurrentNet(self.hidden, out, self.activated, self.layer_init, self.reset_gate)
        return MLP(
            (self.hidden,) * self.layers + (out,), layer_init=self.layer_init, head=self.head
        )

    @property
    def memory_size(self) -> int:
        """Width of an agent's memory."""
        return self.hidden * (2 if self.units else 1)

    def init(self, key: Key) -> Params:
        """Parameters; with a leading axis [N] unless shared."""
        width = self.spec.obs_size + (self.spec.num_agents if self.share and self.numbered else 0)
        if self.recurrent:
            width += self.spec.action_size if self.last_action else 0
            init = lambda k: self.net().init(k, jnp.zeros(self.memory_size), jnp.zeros((1, width)))
        else:
            init = lambda k: self.net().init(k, jnp.zeros(width))
        if self.share:
            return init_by_type(init, key, self._types())
        return jax.vmap(init)(jax.random.split(key, self.spec.num_agents))

    def outputs(
        self, params: Params, batch: Transition, *, masked: bool = True, both: bool = False
    ) -> tuple[Array, Array]:
        """Outputs [..., N, A] of all agents at this and the next slot; logits if discrete, masked
        if `masked`. both: the caller uses both, so that one product may give them.

        A recurrent net needs windows [B, T, ...] and starts each with empty memory.
        """
        each = self._each(params, lambda p, i: self.one(p, i, batch, masked=masked, both=both))
        return each[0], each[1]

    def one(
        self,
        params: Params,
        agent: Array | int,
        batch: Transition,
        *,
        masked: bool = True,
        both: bool = False,
    ) -> tuple[Array, Array]:
        """Outputs [..., A] of one agent from its own parameters, at this and the next slot."""
        obs, next_obs = (self._seen(x, agent) for x in (batch.obs, batch.next_obs))
        avail, next_avail = (
            jnp.take(x, agent, -2, mode="clip") if masked else jnp.ones(())
            for x in (batch.avail, batch.next_avail)
        )
        if not self.recurrent:
            if both and not blocks.fits_cache():
                now, then = self.net().apply(params, jnp.stack([obs, next_obs]))
            else:  # in two calls, so that the half that a caller does not use costs nothing
                now, then = self.net().apply(params, obs), self.net().apply(params, next_obs)
            return self._finish(now, avail), self._finish(then, next_avail)
        encoded = lambda actions: self._encode(
            jnp.take(actions, agent, -1 if self.spec.discrete else -2)
        )
        taken = encoded(batch.actions)
        # One unroll over T + 1 slots: the action of slot t is the previous action of slot t + 1.
        # Where a window begins inside an episode, the action before it is known, as it is in
        # execution.
        first = jnp.zeros_like(taken) if batch.last_actions is None else encoded(batch.last_actions)
        x = jnp.concatenate([obs, next_obs[..., -1:, :]], -2)
        before = jnp.concatenate([first[..., :1, :], taken], -2)
        memory = jnp.zeros((*x.shape[:-2], self.memory_size))
        _, out = self.net().apply(
            params, memory, jnp.concatenate([x, before], -1) if self.last_action else x
        )
        return self._finish(out[..., :-1, :], avail), self._finish(out[..., 1:, :], next_avail)

    def unroll(self, params: Params, memory: Carry, seen: TimeStep, reset: Array) -> Array:
        """Outputs [B, T, N, A] over windows of time steps [B, T, ...], from a given memory; masked
        logits if discrete.

        memory: as `policy` carries it at the first step. reset [B, T]: where an episode begins and
            the memory restarts.
        """

        def one(params: Params, agent: Array) -> Array:
            x = self._seen(seen.obs, agent)
            if not self.recurrent:
                return self.net().apply(params, x)
            return self.net().apply(
                params, jnp.take(memory, agent, -2), self._with_last(x, agent, seen), reset
            )[1]

        return self._finish(self._each(params, one), seen.avail)

    def policy(self, params: Params) -> Policy:
        """The joint policy: Categorical over available actions, or Deterministic."""
        n = self.spec.num_agents

        def initial(batch_shape: tuple[int, ...]) -> Carry:
            return jnp.zeros((*batch_shape, n, self.memory_size)) if self.recurrent else ()

        def distribution(memory: Carry, seen: TimeStep) -> tuple[Carry, Distribution]:
            if self.recurrent:
                memory, out = self._each(params, lambda p, i: self._step(p, i, memory, seen))
            else:
                out = self._each(params, lambda p, i: self.net().apply(p, self._seen(seen.obs, i)))
            out = self._finish(out, seen.avail)
            make = distributions.categorical if self.spec.discrete else distributions.deterministic
            return memory, make(out)

        return Policy(initial, distribution)

    def _step(
        self, params: Params, agent: Array, memory: Array, seen: TimeStep
    ) -> tuple[Array, Array]:
        x = self._with_last(self._seen(seen.obs, agent), agent, seen)
        after, out = self.net().apply(params, jnp.take(memory, agent, -2), x[..., None, :])
        return after, out[..., 0, :]

    def _each(self, params: Params, function: Any) -> Any:
        """function(parameters, agent) of every agent, stacked on axis -2."""
        each = (
            over_agents(function, self._types(), -2)
            if self.share
            else jax.vmap(function, out_axes=-2)
        )
        return each(params, jnp.arange(self.spec.num_agents))

    def _types(self) -> tuple[int, ...]:
        return self.types or (0,) * self.spec.num_agents

    def _seen(self, obs: Array, agent: Array | int) -> Array:
        own = jnp.take(obs, agent, -2, mode="clip")
        if not (self.share and self.numbered):
            return own
        number = jax.nn.one_hot(agent, self.spec.num_agents)
        return jnp.concatenate(
            [own, jnp.broadcast_to(number, (*own.shape[:-1], self.spec.num_agents))], -1
        )

    def _with_last(self, x: Array, agent: Array, seen: TimeStep) -> Array:
        if not self.last_action:
            return x
        return jnp.concatenate(
            [x, self._encode(jnp.take(seen.last_actions, agent, -1 if self.spec.discrete else -2))],
            -1,
        )

    def _encode(self, actions: Array) -> Array:
        # the one-hot of -1 (no previous action) is zero
        return jax.nn.one_hot(actions, self.spec.action_size) if self.spec.discrete else actions

    def _finish(self, out: Array, avail: Array) -> Array:
        if self.spec.discrete:
            return jnp.where(avail > 0, out, UNAVAILABLE)
        return self.spec.action_bound * jnp.tanh(out)
