"""The fit of behaviour models: each agent's own behaviour policy, and its teammates' actions given
the state and its own action.

InSPO (Liu et al., AAAI 2025), Eq. 21 and 22; the nets are in jaxoff/nets/behaviour.py.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from jaxoff.batches import flatten
from jaxoff.losses.likelihood import masked_mean, negative_log_likelihood
from jaxoff.nets.actors import Actors
from jaxoff.nets.behaviour import TeammateModel
from jaxoff.types import Array, Key, Learner, Out, Params, Transition

HELD_OUT_EVERY = 20  # one episode in 20 is held out and decides when the fit stops
CHECKS = 100  # number of checks of the held-out likelihood in a stage


class Behaviour(NamedTuple):
    """State of the fit."""

    policy: Params  # mu_i
    teammates: Params  # mu_i(a_-i | s, a_i), [N]
    opt: optax.OptState
    updates: Array
    held_out: Array  # [2] sum and number of held-out losses since the last check
    best: Array  # lowest mean held-out loss so far
    bad_checks: Array  # checks without improvement since then


def behaviour_losses(
    actors: Actors, teammates: TeammateModel, params: tuple[Params, Params], batch: Transition
) -> Array:
    """-sum_i log mu_i(a_i | o_i) - sum_i sum_j log mu_i(a_j | s, a_i, ...): per row [M] of the
    flattened batch.
    """
    out, _ = actors.outputs(params[0], batch)
    own = jnp.sum(negative_log_likelihood(out, batch.actions), -1).reshape(-1)
    rows = flatten(batch)
    anchors = jnp.arange(actors.spec.num_agents)
    mates = jax.vmap(lambda p, i: teammates.log_prob(p, i, rows.state, rows.actions, rows.avail))(
        params[1], anchors
    )
    return own - jnp.sum(mates, (0, 2))


def behaviour_learner(
    actors: Actors,
    teammates: TeammateModel,
    optimiser: optax.GradientTransformation,
    steps: int,
    patience: int,
) -> Learner:
    """Fits both behaviour models at once (InSPO Eq. 21 and 22).

    One episode in 20 is held out of the loss. There are 100 checks of the held-out likelihood in
    the stage; after `patience` checks without improvement, parameters no longer change.
    """
    check_every = max(steps // CHECKS, 1)

    def init(key: Key) -> Behaviour:
        policy_key, mates_key = jax.random.split(key)
        params = actors.init(policy_key), teammates.init(mates_key)
        zero = jnp.zeros((), jnp.int32)
        return Behaviour(
            *params, optimiser.init(params), zero, jnp.zeros(2), jnp.full((), 1e9), zero
        )

    def update(state: Behaviour, batch: Transition, key: Key) -> tuple[Behaviour, Out]:
        rows, before = flatten(batch), (state.policy, state.teammates)
        held = rows.valid * (rows.episode % HELD_OUT_EVERY == HELD_OUT_EVERY - 1)

        def loss_of(params: tuple[Params, Params]) -> tuple[Array, Array]:
            losses = behaviour_losses(actors, teammates, params, batch)
            return masked_mean(losses, rows.valid - held), losses

        (loss, losses), grads = jax.value_and_grad(loss_of, has_aux=True)(before)
        changes, opt = optimiser.update(grads, state.opt)
        going = state.bad_checks < patience
        keep = lambda new, old: jnp.where(going, new, old)
        (policy, mates), opt = jax.tree.map(
            keep, (optax.apply_updates(before, changes), opt), (before, state.opt)
        )
        sums = state.held_out + jnp.stack([jnp.sum(losses * held), jnp.sum(held)])
        # once stopped, the fit stays stopped: a lucky draw later does not restart it
        check = ((state.updates + 1) % check_every == 0) & (sums[1] > 0) & going
        mean = sums[0] / jnp.maximum(sums[1], 1.0)
        bad = jnp.where(
            check, jnp.where(mean < state.best, 0, state.bad_checks + 1), state.bad_checks
        )
        best = jnp.where(check, jnp.minimum(mean, state.best), state.best)
        state = Behaviour(
            policy, mates, opt, state.updates + 1, jnp.where(check, 0.0, sums), best, bad
        )
        return state, Out({"behaviour": loss, "behaviour_training": going.astype(jnp.float32)})

    return Learner(init, update, lambda state: actors.policy(state.policy))
