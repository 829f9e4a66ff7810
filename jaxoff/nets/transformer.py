"""A causal transformer over each agent's history (GPT; Radford et al., 2018), and the memory that
it needs in a rollout.

Every agent of every episode is a sequence of its own; weights are shared, and agents are
distinguished by their number in the input. A step is one to three tokens: return to go,
observation, previous action. The action of a step is never an input at that step. Letters: C steps
of context, H width, F = O + N inputs.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxoff.errors import InvalidSetting
from jaxoff.nets.layers import Dense, dot_general
from jaxoff.types import Array, EnvSpec, Key, Params, TimeStep, Transition

MODES = {
    "state_only": ("obs",),
    "state_action": ("obs", "action"),
    "rtg_state_action": ("return", "obs", "action"),
}
SMALL = nn.initializers.normal(0.02)
Linear = functools.partial(nn.Dense, kernel_init=SMALL, dot_general=dot_general)


class Block(nn.Module):
    """A pre-norm block: x + attention(norm x), then x + MLP(norm x) of width 2 H with exact GELU;
    [..., L, H].
    """

    heads: int

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """Position l attends to positions 0..l."""
        length, width = x.shape[-2:]
        split = (*x.shape[:-1], 3, self.heads, width // self.heads)
        query, key, value = jnp.moveaxis(Linear(3 * width)(norm()(x)).reshape(split), -3, 0)
        scores = jnp.einsum("...qhd,...khd->...hqk", query, key) / jnp.sqrt(width / self.heads)
        shares = jax.nn.softmax(
            jnp.where(jnp.tril(jnp.ones((length, length), bool)), scores, -1e30)
        )
        found = jnp.einsum("...hqk,...khd->...qhd", shares, value).reshape(x.shape)
        x = x + Linear(width)(found)
        hidden = jax.nn.gelu(Linear(2 * width)(norm()(x)), approximate=False)
        return x + Linear(width)(hidden)


def norm() -> nn.LayerNorm:
    """Layer norm with PyTorch's epsilon."""
    return nn.LayerNorm(epsilon=1e-5)


class StepTransformer(nn.Module):
    """Steps to features [..., T, H], read at the last token of each step, T <= context.

    tokens: the tokens of a step, in order; obs, return and action are embedded as tanh(linear),
    tanh(linear), tanh(table). Two learned tables, initialised to zero, are added: over token slots,
    and over absolute time (0..horizon), shared by a step's tokens.
    """

    width: int
    layers: int
    heads: int
    tokens: tuple[str, ...]
    context: int
    horizon: int
    num_actions: int

    @nn.compact
    def __call__(self, obs: Array, last_actions: Array, to_go: Array, time: Array) -> Array:
        """obs [..., T, F], last_actions [..., T] int (-1 counts as 0), to_go [..., T], time [...,
        T] int.
        """
        steps, kinds = obs.shape[-2], len(self.tokens)
        if steps > self.context:
            raise InvalidSetting(
                f"transformer: field 'context': expected at least the {steps} steps of a "
                f"window, found {self.context}"
            )
        embedded = {
            "obs": lambda: self._encode("obs", obs),
            "return": lambda: self._encode("return", to_go[..., None]),
            "action": lambda: nn.Embed(
                self.num_actions, self.width, embedding_init=SMALL, name="action"
            )(jnp.maximum(last_actions, 0)),
        }
        # [..., T, tokens, H]
        x = jnp.stack([jnp.tanh(embedded[kind]()) for kind in self.tokens], -2)
        slots = self.param("slots", nn.initializers.zeros, (self.context * kinds, self.width))
        times = self.param("times", nn.initializers.zeros, (self.horizon + 1, self.width))
        x = x + jnp.take(times, jnp.clip(time, 0, self.horizon), 0)[..., None, :]
        x = x.reshape(*x.shape[:-3], steps * kinds, self.width) + slots[: steps * kinds]
        for _ in range(self.layers):
            x = Block(self.heads)(x)
        return norm()(x)[..., kinds - 1 :: kinds, :]

    def _encode(self, name: str, x: Array) -> Array:
        """A linear layer with PyTorch's default initialiser, as in the released code."""
        return Dense(self.width, name=name)(x)


class Memory(NamedTuple):
    """The last C steps of every agent, the oldest in slot 0, empty slots last.

    Leading axes are those of the batch.
    """

    obs: Array  # [..., N, C, F]
    last_actions: Array  # [..., N, C] int
    to_go: Array  # [..., C]
    left: Array  # [...] desired return minus the rewards so far
    steps: Array  # [...] int, steps seen before this one


@dataclasses.dataclass(frozen=True)
class ContextNet:
    """Features of every step, from windows in training and from a rolling context in a rollout;
    both agree.

    window: steps of context C; 0 is one step, negative the whole episode. agent_id: append the
        agent's number.
    A slot's position is counted from the window's first step, so every position in a full context
    shifts at each step. Keys of earlier steps therefore can't be cached: the last C steps are
    recomputed.
    """

    spec: EnvSpec
    width: int
    layers: int
    heads: int
    mode: str
    window: int
    agent_id: bool = True

    def __post_init__(self) -> None:
        if self.mode not in MODES:
            raise InvalidSetting(
                f"transformer: field 'mode': expected one of {', '.join(MODES)}, found "
                f"'{self.mode}'"
            )
        if not self.spec.discrete:
            raise InvalidSetting(
                f"transformer on '{self.spec.name}': expected discrete actions, found "
                "continuous ones"
            )
        if self.width % self.heads:
            raise InvalidSetting(
                f"transformer: field 'width': expected a multiple of {self.heads} heads, "
                f"found {self.width}"
            )

    @property
    def context(self) -> int:
        """Steps of context, C."""
        return self.spec.max_steps if self.window < 0 else max(self.window, 1)

    def net(self) -> StepTransformer:
        """The flax module."""
        sizes = (
            self.width,
            self.layers,
            self.heads,
            MODES[self.mode],
            self.context,
            self.spec.max_steps,
            self.spec.action_size,
        )
        return StepTransformer(*sizes)

    def init(self, key: Key) -> Params:
        """Parameters, shared by all agents."""
        none = jnp.zeros((self.spec.num_agents, 1), jnp.int32)
        return self.net().init(
            key,
            self.inputs(jnp.zeros((*none.shape, self.spec.obs_size))),
            none,
            jnp.zeros(none.shape),
            none,
        )

    def inputs(self, obs: Array) -> Array:
        """[..., N, T, O] -> [..., N, T, F], with the agent's number."""
        if not self.agent_id:
            return obs
        number = jnp.eye(self.spec.num_agents)[:, None]
        return jnp.concatenate(
            [obs, jnp.broadcast_to(number, (*obs.shape[:-1], self.spec.num_agents))], -1
        )

    def features(self, params: Params, batch: Transition, to_go: Array) -> Array:
        """Windows [B, T, ...] and returns to go [B, T] -> [B, T, N, H].

        Padding comes last, where no real step attends to it.
        """
        # [B, N, T, ...]
        assert batch.last_actions is not None
        obs, last = jnp.swapaxes(batch.obs, 1, 2), jnp.swapaxes(batch.last_actions, 1, 2)
        shared = lambda x: jnp.broadcast_to(x[:, None], last.shape)
        out = self.net().apply(
            params, self.inputs(obs), last, shared(to_go), shared(batch.steps_before)
        )
        return jnp.swapaxes(out, 1, 2)

    def initial(self, batch_shape: tuple[int, ...], target: Array | float) -> Memory:
        """An empty context; target: the desired return."""
        n, c = self.spec.num_agents, self.context
        width = self.spec.obs_size + (n if self.agent_id else 0)
        obs, last = (
            jnp.zeros((*batch_shape, n, c, width)),
            jnp.zeros((*batch_shape, n, c), jnp.int32),
        )
        left = jnp.broadcast_to(jnp.asarray(target, jnp.float32), batch_shape)
        return Memory(
            obs, last, jnp.zeros((*batch_shape, c)), left, jnp.zeros(batch_shape, jnp.int32)
        )

    def step(self, params: Params, memory: Memory, seen: TimeStep) -> tuple[Memory, Array]:
        """Append one step: (memory, its features [..., N, H])."""
        c = self.context
        full, slot = memory.steps >= c, jnp.minimum(memory.steps, c - 1)

        def push(kept: Array, new: Array, axis: int) -> Array:
            wide = lambda x: x.reshape(*x.shape, *[1] * (kept.ndim - x.ndim))
            moved = jnp.where(wide(full), jnp.roll(kept, -1, axis), kept)
            here = jnp.arange(c).reshape(-1, *[1] * (-axis - 1)) == wide(slot)
            return jnp.where(here, jnp.expand_dims(new, axis), moved)

        left = memory.left - seen.reward
        obs = push(memory.obs, self.inputs(seen.obs[..., None, :])[..., 0, :], -2)
        last = push(memory.last_actions, seen.last_actions, -1)
        memory = Memory(obs, last, push(memory.to_go, left, -1), left, memory.steps + 1)
        time = jnp.maximum(memory.steps - c, 0)[..., None] + jnp.arange(c)
        shared = lambda x: jnp.broadcast_to(x[..., None, :], last.shape)
        out: Any = self.net().apply(params, memory.obs, last, shared(memory.to_go), shared(time))
        index = jnp.broadcast_to(slot[..., None, None, None], (*out.shape[:-2], 1, 1))
        return memory, jnp.take_along_axis(out, index, -2)[..., 0, :]
