"""MADT: behaviour cloning with a causal transformer (Meng et al., 2021, arXiv 2112.02845), its
offline stage.

Every agent of every episode is a sequence; cross-entropy of a_t given a window of at most C steps
-> cloning_loss. Modes: state_only (o_t; the released default, with C = 1), state_action (o_t,
a_{t-1}), rtg_state_action (return to go, o_t, a_{t-1}); the network and its rolling context are in
jaxoff/nets/transformer.py. Evaluate with --greedy. Differs: unavailable actions are masked in the
loss too (mask_loss=false: as released); steps at which an agent has a single available action, as a
dead unit has, are left out of the loss; a window never crosses the end of an episode, and windows
of short episodes are padded at the end; a window's first step is drawn uniformly. The critic and
the online stage, which no offline result uses, are not implemented. Controls: weighting=filter
drops episodes below half of the best return, weighting=return draws steps by their episode's
positivity.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from flax import struct

from jaxoff import distributions
from jaxoff.batches import as_windows, choosing
from jaxoff.config import static
from jaxoff.data import samplers
from jaxoff.data.dataset import Dataset
from jaxoff.data.returns import (
    Returns,
    check_scale,
    episode_returns,
    no_returns,
    positivity,
    returns_of,
    share_of_best,
)
from jaxoff.losses.likelihood import masked_mean, negative_log_likelihood
from jaxoff.nets.transformer import ContextNet, Linear, Memory
from jaxoff.optimisers import adamw
from jaxoff.types import (
    UNAVAILABLE,
    Array,
    Distribution,
    EnvSpec,
    Key,
    Learner,
    Out,
    Params,
    Policy,
    Sampler,
    Stage,
    TimeStep,
    Transition,
)

POOR = 0.5  # share of the best return below which an episode is poor

ACTIONS = ("discrete",)


@struct.dataclass
class Config:
    """Settings of the released code where it has them."""

    lr: float = 5e-4  # learning rate of AdamW, constant
    weight_decay: float = 0.1  # weight decay of linear weights
    max_grad_norm: float = 0.5
    # initial return-to-go in evaluations; used by mode=rtg_state_action
    target_return: float = 20.0
    return_low: float = 0.0  # return of doing nothing; used with weighting
    return_high: float = 20.0  # return of a perfect episode; used with weighting
    # slope of positivity over the share of the best return; used by weighting=return
    slope: float = 10.0
    midpoint: float = 0.5  # share of the best return at which positivity is 1/2
    # inputs of the transformer, apart from the agent's number
    mode: Literal["state_only", "state_action", "rtg_state_action"] = static("state_only")
    # draw steps uniformly, from all but poor episodes, or by their episode's positivity
    weighting: Literal["none", "filter", "return"] = static("none")
    mask_loss: bool = static(True)  # mask unavailable actions in the loss too
    agent_id: bool = static(True)  # the agent's number is an input
    hidden: int = static(32)
    layers: int = static(2)
    heads: int = static(2)
    steps: int = static(10_000)
    batch_size: int = static(128)  # windows of all agents
    window: int = static(1)  # length C of the context; 0 is 1, -1 whole episodes


class State(NamedTuple):
    """Trained parameters, optimiser state, and the dataset's returns."""

    policy: Params  # {"trunk", "head"}
    opt: optax.OptState
    returns: Returns


class Method(NamedTuple):
    """Networks and optimiser of one config."""

    config: Config
    trunk: ContextNet
    head: nn.Dense
    optimiser: optax.GradientTransformation


def init(m: Method, returns: Returns, key: Key) -> State:
    """Freshly initialised networks."""
    trunk_key, head_key = jax.random.split(key)
    params = {
        "trunk": m.trunk.init(trunk_key),
        "head": m.head.init(head_key, jnp.zeros(m.config.hidden)),
    }
    return State(params, m.optimiser.init(params), returns)


def logits_of(m: Method, params: Params, batch: Transition, to_go: Array) -> Array:
    """Logits [B, T, N, A] over windows, not masked."""
    return m.head.apply(params["head"], m.trunk.features(params["trunk"], batch, to_go))


def cloning_loss(m: Method, params: Params, batch: Transition, to_go: Array) -> Array:
    """-log pi(a_t) of each step and agent, [B, T, N]."""
    logits = logits_of(m, params, batch, to_go)
    if m.config.mask_loss:
        logits = jnp.where(batch.avail > 0, logits, UNAVAILABLE)
    return negative_log_likelihood(logits, batch.actions)


def update(m: Method, state: State, batch: Transition, key: Key) -> tuple[State, Out]:
    """One step of AdamW on the mean over all agents' steps."""
    batch = as_windows(batch)
    weight, to_go = choosing(batch), state.returns.ahead(batch)
    share = share_of_best(state.returns.whole(batch), m.config.return_low, m.config.return_high)[
        ..., None
    ]

    def loss_of(params: Params) -> tuple[Array, Array]:
        losses = cloning_loss(m, params, batch, to_go)
        return masked_mean(losses, weight), losses

    (loss, losses), grads = jax.value_and_grad(loss_of, has_aux=True)(state.policy)
    changes, opt = m.optimiser.update(grads, state.opt, state.policy)
    metrics = {"policy": loss, "policy_poor": masked_mean(losses, weight * (share < POOR))}
    return state._replace(policy=optax.apply_updates(state.policy, changes), opt=opt), Out(metrics)


def policy_of(m: Method, state: State) -> Policy:
    """Categorical over available actions; its memory is the context."""

    def distribution(memory: Memory, seen: TimeStep) -> tuple[Memory, Distribution]:
        memory, features = m.trunk.step(state.policy["trunk"], memory, seen)
        logits = m.head.apply(state.policy["head"], features)
        return memory, distributions.categorical(logits, avail=seen.avail)

    return Policy(lambda shape: m.trunk.initial(shape, m.config.target_return), distribution)


def draw_weights(config: Config, dataset: Dataset) -> Array:
    """Weight with which each real step is drawn, [M]: 0 in poor and 1 in other episodes, or its
    episode's positivity.
    """
    share = share_of_best(episode_returns(dataset), config.return_low, config.return_high)
    if config.weighting == "filter":
        return (share >= POOR).astype(jnp.float32)
    return positivity(share, config.slope, config.midpoint)


def method_of(config: Config, spec: EnvSpec) -> Method:
    """Networks of a config."""
    trunk = ContextNet(
        spec,
        config.hidden,
        config.layers,
        config.heads,
        config.mode,
        config.window,
        config.agent_id,
    )
    head = Linear(spec.action_size, use_bias=False)
    return Method(config, trunk, head, adamw(config.lr, config.max_grad_norm, config.weight_decay))


def make(config: Config, spec: EnvSpec) -> tuple[Stage, ...]:
    """One stage, which reads the dataset's returns first; for discrete actions."""
    m = method_of(config, spec)
    if config.weighting != "none":
        check_scale("madt", config.return_low, config.return_high)

    def prepare(before: None, dataset: Dataset, key: Key) -> State:
        return init(m, returns_of(dataset), key)

    def sampler(state: State) -> Sampler:
        return samplers.weighted(
            config.batch_size, lambda dataset: draw_weights(config, dataset), config.window
        )

    learner = Learner(
        lambda key: init(m, no_returns(), key),
        lambda *args: update(m, *args),
        lambda state: policy_of(m, state),
    )
    return (
        Stage(
            "train", learner, config.steps, prepare, None if config.weighting == "none" else sampler
        ),
    )
