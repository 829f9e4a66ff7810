"""Proximal joint-action prioritisation (Tilbury et al., 2024): draw the data that resemble the
current joint policy.

A sampler, and so orthogonal to the method: `--sampler pjap` works with every actor.
Eq. 6 -> priority_of; Eq. 7 (single steps) and Eq. 8 (windows) -> joint_distance.
Differs from the paper: the distance is the mean over agents and action dimensions as in the
authors' code (Eq. 7 writes the sum, which `distance="sum"` gives; in the toy game alpha for it is a
quarter of alpha for the mean); for discrete actions, which the paper does not treat, it is the mean
over agents of 1 - pi_i(a_i). No importance weights: the bias is the purpose. Windows of a recurrent
policy: refresh=0 refreshes those of the training batch, as in the authors' code, which also ramps
    the steepness up (`ramp`), without a word in the paper.
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

    alpha: float = 16.0  # Eq. 6, sharpness; with the steepness s of the authors' code, alpha = s^2
    eps: float = 1e-3  # Eq. 6, floor, which keeps every item reachable
    exponent: float = 1.0  # items are drawn in proportion to priority ** exponent
    # updates over which the steepness sqrt(alpha) rises to its value, on a line; 0: there from the
    # start
    ramp: float = 0.0
    refresh: int = static(128)  # items refreshed an update; 0: the training batch; -1: all
    # Where refresh > 0, how its items are drawn: by their current priorities, or all alike.
    refresh_from: RefreshFrom = static("priorities")
    # mean | sum, over agents and action dimensions
    distance: Literal["mean", "sum"] = static("mean")
    clip_actions: bool = static(False)  # recorded actions to the action bound
    # target | online: whose distance, where a learner has both
    policy: Literal["target", "online"] = static("target")


def make(config: Config, batch_size: int, window: int) -> Sampler:
    """window: 0 for single steps, else windows of that length.

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
    """Share of the steepness after so many updates: min(1, updates / ramp), and 1 without a
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
    the mean of the valid ones. clip: recorded continuous actions to the action bound. A policy with
    memory starts each window with an empty one, as it does in training. Carries no gradient.
    """
    if batch.reward.ndim == 1:  # single steps
        return _reduce(_gaps(policy, batch, spec, clip, None)[1], spec, kind)
    by_time = jax.tree.map(lambda x: jnp.moveaxis(x, 1, 0), batch)
    first = _no_action(batch.actions[:, 0], spec)
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
    """What stands for the last actions [B, N(, A)] after a reset."""
    return jnp.full_like(actions, -1) if spec.discrete else jnp.zeros_like(actions)


def _reduce(gaps: Array, spec: EnvSpec, kind: str) -> Array:
    """[..., N] or [..., N, A] -> [...], over true (not padded) dimensions."""
    if spec.discrete:
        return gaps.mean(-1) if kind == "mean" else gaps.sum(-1)
    sizes = jnp.array(spec.action_sizes or (spec.action_size,) * spec.num_agents)
    real = (jnp.arange(spec.action_size) < sizes[:, None]).astype(gaps.dtype)  # [N, A]
    total = (gaps * real).sum((-2, -1))
    return total / real.sum() if kind == "mean" else total
