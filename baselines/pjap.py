"""Proximal joint-action prioritisation (Tilbury et al., 2024): draw the data that resemble the
current joint policy.

It is a sampler, and so orthogonal to the method: `--sampler pjap` works with every actor.
Eq. 6 -> priority_of; Eq. 7 (single steps) and Eq. 8 (windows) -> joint_distance.
Differs from the paper: the distance is the mean over agents and action dimensions as in the
authors' code (Eq. 7 writes the sum, which `distance="sum"` gives; in the toy game alpha for the sum
is a quarter of alpha for the mean); for discrete actions, which the paper does not treat, it is the
mean over agents of 1 - pi_i(a_i). There are no importance weights: the bias is the purpose. With
windows of a recurrent policy, refresh=0 refreshes the priorities of the training batch, as in the
authors' code, which also ramps the steepness up (`ramp`); the paper does not mention this ramp.
Their later code refreshes 1,024 other windows instead, without the ramp (`refresh_from`).
"""

from __future__ import annotations

from typing import Literal

import jax
import jax.numpy as jnp
from flax import struct

from jaxoff.config import static
from jaxoff.data.dataset import Dataset
from jaxoff.data.samplers import RefreshFrom, prioritised
from jaxoff.errors import InvalidSetting
from jaxoff.types import Array, EnvSpec, Feedback, Policy, Sampler, TimeStep, Transition


@struct.dataclass
class Config:
    """Floats are leaves and may be swept; the rest is static."""

    # sharpness of the priorities (Eq. 6); with the steepness s of the authors' code, alpha = s^2
    alpha: float = 16.0
    eps: float = 1e-3  # lower bound of priorities (Eq. 6), which keeps every item reachable
    exponent: float = 1.0  # items are drawn in proportion to priority ** exponent
    # updates over which the steepness sqrt(alpha) rises linearly from 0; 0: no ramp
    ramp: float = 0.0
    # priorities refreshed in each update; 0: those of the training batch; -1: all
    refresh: int = static(128)
    # where refresh > 0, how its items are drawn: by their current priorities, or uniformly
    refresh_from: RefreshFrom = static("priorities")
    # reduction of the distance over agents and action dimensions
    distance: Literal["mean", "sum"] = static("mean")
    clip_actions: bool = static(False)  # clip recorded actions to the action bound
    # policy whose distance from the data counts, where a learner has both
    policy: Literal["target", "online"] = static("target")


def make(config: Config, batch_size: int, window: int) -> Sampler:
    """The sampler. window: 0 for single steps, else the length of the windows.

    Raises InvalidSetting for whole episodes (-1).
    """
    if window < 0:
        raise InvalidSetting(
            f"pjap: field 'window': expected 0 (single steps) or a length, found {window}"
        )
    if config.refresh_from == "uniform" and config.refresh <= 0:
        taken = "every item" if config.refresh else "the training batch"
        raise InvalidSetting(
            f"pjap: field 'refresh_from': expected priorities where refresh={config.refresh} "
            f"({taken}), found 'uniform', which needs a number of items to draw, refresh > 0",
        )

    def priority(dataset: Dataset, outcome: Feedback, batch: Transition) -> Array:
        policy = (
            outcome.online
            if config.policy == "online" and outcome.online is not None
            else outcome.policy
        )
        d = joint_distance(policy, batch, dataset.spec, config.distance, config.clip_actions)
        return priority_of(
            d, config.alpha * jnp.square(ramped(outcome.updates, config.ramp)), config.eps
        )

    return prioritised(
        batch_size,
        priority,
        exponent=config.exponent,
        refresh=config.refresh,
        refresh_from=config.refresh_from,
        window=window,
    )


def ramped(updates: Array, ramp: float | Array) -> Array:
    """Share of the final steepness after `updates` updates: min(1, updates / ramp), and 1 without a
    ramp.
    """
    return jnp.where(ramp > 0, jnp.minimum(updates / jnp.maximum(ramp, 1.0), 1.0), 1.0)


def priority_of(distance: Array, alpha: float | Array, eps: float | Array) -> Array:
    """Eq. 6: max(exp(-alpha d^2), eps), in [eps, 1], for distances [...]."""
    return jnp.maximum(jnp.exp(-alpha * jnp.square(distance)), eps)


def joint_distance(
    policy: Policy, batch: Transition, spec: EnvSpec, kind: str = "mean", clip: bool = False
) -> Array:
    """Distance [B] of the policy's joint action from the recorded one, for steps [B, ...] (Eq. 7)
    or windows [B, T, ...] (Eq. 8).

    kind: "mean" or "sum" over agents and action dimensions; over the steps of a window it is always
    the mean of the valid ones. clip: clip recorded continuous actions to the action bound. A policy
    with memory starts each window with an empty memory, as in training. The result carries no
    gradient.
    """
    if batch.reward.ndim == 1:  # single steps
        return _reduce(_gaps(policy, batch, spec, clip, None)[1], spec, kind)
    by_time = jax.tree.map(lambda x: jnp.moveaxis(x, 1, 0), batch)
    first = _no_action(batch.actions[:, 0], spec)
    if batch.last_actions is not None:  # where a window begins inside an episode
        first = batch.last_actions[:, 0]
    last = jnp.concatenate([first[None], by_time.actions[:-1]])  # actions one step later
    reward = jnp.concatenate([jnp.zeros_like(by_time.reward[:1]), by_time.reward[:-1]])

    def step(carry, now):
        piece, last_actions, last_reward = now
        return _gaps(policy, piece, spec, clip, carry, last_actions, last_reward)

    _, gaps = jax.lax.scan(step, policy.initial(batch.reward.shape[:1]), (by_time, last, reward))
    valid = by_time.valid
    return (_reduce(gaps, spec, kind) * valid).sum(0) / jnp.maximum(valid.sum(0), 1.0)


def _gaps(
    policy: Policy,
    batch: Transition,
    spec: EnvSpec,
    clip: bool,
    carry,
    last_actions=None,
    last_reward=None,
):
    """One step of the policy on [B, ...]: (carry, differences [B, N, A], or [B, N] if discrete)."""
    shape = batch.reward.shape
    no = jnp.zeros(shape, bool)
    timestep = TimeStep(
        obs=batch.obs,
        state=batch.state,
        avail=batch.avail,
        reward=jnp.zeros(shape) if last_reward is None else last_reward,
        terminated=no,
        truncated=no,
        last_actions=_no_action(batch.actions, spec) if last_actions is None else last_actions,
    )
    carry, dist = policy.distribution(policy.initial(shape) if carry is None else carry, timestep)
    if spec.discrete:
        gaps = 1.0 - jnp.exp(dist.log_prob(batch.actions))
    else:
        actions = (
            jnp.clip(batch.actions, -spec.action_bound, spec.action_bound)
            if clip
            else batch.actions
        )
        gaps = jnp.abs(dist.mode() - actions)
    return carry, jax.lax.stop_gradient(gaps)


def _no_action(actions: Array, spec: EnvSpec) -> Array:
    """The value of last actions [B, N(, A)] after a reset."""
    return jnp.full_like(actions, -1) if spec.discrete else jnp.zeros_like(actions)


def _reduce(gaps: Array, spec: EnvSpec, kind: str) -> Array:
    """Mean or sum over agents and true (not padded) action dimensions: [..., N] or [..., N, A] ->
    [...].
    """
    if spec.discrete:
        return gaps.mean(-1) if kind == "mean" else gaps.sum(-1)
    sizes = jnp.array(spec.action_sizes or (spec.action_size,) * spec.num_agents)
    real = (jnp.arange(spec.action_size) < sizes[:, None]).astype(gaps.dtype)  # [N, A]
    total = (gaps * real).sum((-2, -1))
    return total / real.sum() if kind == "mean" else total
