"""MACQL: conservative values with a linear mixer, the baseline of Tian et al. (AAAI 2023, Eq. 13),
for discrete actions.

Q_tot = sum_i w_i(s) Q_i + b(s). For each agent, values of available actions are held below those of
the data's actions -> conservative_loss; n-step Tree Backup with the target networks -> tree_backup,
backup_target; the sum of both -> loss. Differs: Eq. 13 prints logsumexp(w_i Q_i + b) for each agent
against one Q_tot, which leaves (N - 1) b in the loss and so rewards b -> -inf; we cancel b
(`cql_literal`: as printed). One-step double Q is the alternative target
(`cql_target=onestep_double`). Public code also has forms with sampled joint actions; these are not
implemented, since under a linear mixer the logsumexp over an agent's own actions is exact.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import struct
from jax import lax

from jaxoff.batches import as_windows
from jaxoff.blocks import averaged, by_length, widest
from jaxoff.config import static
from jaxoff.errors import InvalidSetting
from jaxoff.losses.conservative import conservative_term
from jaxoff.losses.likelihood import masked_mean, taken
from jaxoff.losses.td import one_step_target, squared_td_error
from jaxoff.nets.actors import Actors, greedy
from jaxoff.nets.layers import LayerInit
from jaxoff.nets.mixers import LinearMixer
from jaxoff.optimisers import rmsprop
from jaxoff.types import Array, EnvSpec, Key, Learner, Out, Params, Transition

ACTIONS = ("discrete",)


@struct.dataclass
class Config:
    """Settings of Tian et al. (Table 11) where they print one."""

    lr: float = 5e-4  # learning rate (RMSprop) of values and mixer
    gamma: float = 0.99
    cql: float = 2.0  # weight of the conservative term (Eq. 13, beta_CQL)
    trace: float = 0.93  # lambda of Tree Backup
    max_grad_norm: float = 10.0  # gradient-norm limit, of values and mixer together
    n_step: int = static(5)  # steps of Tree Backup, within the window
    # target of the values: n-step Tree Backup, or one-step double Q
    cql_target: Literal["tree_backup", "onestep_double"] = static("tree_backup")
    # policy pi_i that Tree Backup evaluates: greedy or softmax in the target values
    backup_policy: Literal["greedy", "softmax"] = static("greedy")
    cql_literal: bool = static(False)  # conservative term as printed in Eq. 13, with the mixer bias
    mixer_bias: bool = static(True)  # whether the mixer has the bias b(s)
    target_every: int = static(100)  # updates between hard copies to the target networks
    embed: int = static(32)  # width of the mixer
    hidden: int = static(64)
    recurrent: bool = static(False)  # GRU nets over the episode; needs window != 0
    layer_init: LayerInit = static("torch")  # initialisation of the layers: jaxoff/nets/layers.py
    steps: int = static(15000)
    batch_size: int = static(32)
    window: int = static(-1)  # -1: whole episodes; 0: single steps, where n is 1


class State(NamedTuple):
    """Trained parameters, target networks and optimiser state."""

    critic: Params  # value nets of all agents
    mixer: Params
    target_critic: Params
    target_mixer: Params
    opt: optax.OptState
    updates: Array


class Method(NamedTuple):
    """Nets and optimiser of one config."""

    config: Config
    actors: Actors
    mixer: LinearMixer
    optimiser: optax.GradientTransformation


def init(m: Method, key: Key) -> State:
    """Fresh nets; the target networks start as copies of them."""
    critic_key, mixer_key = jax.random.split(key)
    critic, spec = m.actors.init(critic_key), m.actors.spec
    mixer = m.mixer.init(mixer_key, jnp.zeros(spec.num_agents), jnp.zeros(spec.state_size))
    return State(
        critic, mixer, critic, mixer, m.optimiser.init((critic, mixer)), jnp.zeros((), jnp.int32)
    )


# --- targets --------------------------------------------------------------------------------------


def tree_backup(
    q: Array,
    next_value: Array,
    match: Array,
    reward: Array,
    terminated: Array,
    valid: Array,
    gamma: Array | float,
    trace: Array | float,
    n: int,
) -> Array:
    """n-step Tree Backup along windows (Precup et al., 2000; with a trace, Munos et al., 2016), a
    constant: [B, T] each -> [B, T].

    With delta_t = r_t + gamma (1 - terminated_t) V_{t+1} - Q_t:
    y_t = Q_t + sum_{l < n} (prod_{c=1..l} gamma trace pi(a_{t+c})) delta_{t+l}, up to the last
    valid step. q: Q_t of the action taken; next_value: V_{t+1}, the expectation under pi; match:
        pi(a_t) of the joint action.
    """
    ahead = lambda x, k: jnp.pad(x, ((0, 0), (0, k)))[:, k:]
    delta = jnp.where(valid > 0, reward + gamma * (1.0 - terminated) * next_value - q, 0.0)
    # nothing follows a terminated step, whatever the window holds there
    follows = jnp.where(valid > 0, 1.0 - terminated, 0.0)
    # factor of the trace from t to t + 1
    link = jnp.where(ahead(valid, 1) > 0, gamma * trace * follows * ahead(match, 1), 0.0)
    total, weight = q, jnp.ones_like(q)
    for step in range(n):
        total = total + weight * ahead(delta, step)
        weight = weight * ahead(link, step)
    return lax.stop_gradient(total)


def backup_target(m: Method, state: State, batch: Transition) -> Array:
    """Tree Backup with values and policy of the target networks, windows [B, T, ...] -> [B, T].

    pi is a product over agents and the mixer is linear, so E_pi Q_tot = sum_i w_i E_pi_i Q_i + b.
    """
    slow, next_slow = m.actors.outputs(state.target_critic, batch)
    pi, next_pi = (action_probs(m.config.backup_policy, x) for x in (slow, next_slow))
    expected = jnp.sum(jnp.where(batch.next_avail > 0, next_pi * next_slow, 0.0), -1)
    q = m.mixer.apply(state.target_mixer, taken(slow, batch.actions), batch.state)
    next_value = m.mixer.apply(state.target_mixer, expected, batch.next_state)
    match = jnp.prod(taken(pi, batch.actions), -1)
    c = m.config
    return tree_backup(
        q,
        next_value,
        match,
        batch.reward,
        batch.terminated,
        batch.valid,
        c.gamma,
        c.trace,
        c.n_step,
    )


def double_target(m: Method, state: State, batch: Transition, next_q: Array) -> Array:
    """Double Q target [...]: the target networks value each agent's argmax of `next_q` [..., N, A]
    at the next state.
    """
    _, slow = m.actors.outputs(state.target_critic, batch)
    value = m.mixer.apply(state.target_mixer, taken(slow, jnp.argmax(next_q, -1)), batch.next_state)
    return one_step_target(batch.reward, batch.terminated, value, m.config.gamma)


def action_probs(kind: str, q: Array) -> Array:
    """pi_i over available actions, q [..., A] -> [..., A]: greedy, or softmax at temperature 1."""
    return (
        jax.nn.one_hot(jnp.argmax(q, -1), q.shape[-1], dtype=q.dtype)
        if kind == "greedy"
        else jax.nn.softmax(q)
    )


# --- loss -----------------------------------------------------------------------------------------


def conservative_loss(m: Method, q: Array, weights: Array, bias: Array, batch: Transition) -> Array:
    """Eq. 13, first part, unreduced: sum_i logsumexp_a w_i Q_i(a) - w_i Q_i(a_i in the data), q
    [..., N, A] -> [...].
    """
    term = jnp.sum(conservative_term(weights[..., None] * q, batch.actions, batch.avail), -1)
    return term + (m.actors.spec.num_agents - 1) * bias if m.config.cql_literal else term


def loss(
    m: Method, params: tuple[Params, Params], state: State, batch: Transition
) -> tuple[Array, dict[str, Array]]:
    """Eq. 13 over valid steps, and metrics.

    params: (critic, mixer); batch: windows [B, T, ...].
    """
    critic, mixer = params
    q, next_q = m.actors.outputs(critic, batch)
    weights, bias = m.mixer.apply(mixer, batch.state, method="weights")
    backup = m.config.cql_target == "tree_backup"
    target = backup_target(m, state, batch) if backup else double_target(m, state, batch, next_q)
    total = jnp.sum(weights * taken(q, batch.actions), -1) + bias
    value = masked_mean(squared_td_error(total, target), batch.valid)
    conservative = masked_mean(conservative_loss(m, q, weights, bias, batch), batch.valid)
    metrics = {
        "value": value,
        "conservative": conservative,
        "q_total": masked_mean(total, batch.valid),
    }
    return m.config.cql * conservative + value, metrics | {
        "target": masked_mean(target, batch.valid)
    }


def update(m: Method, state: State, batch: Transition) -> tuple[State, Out]:
    """One step of values and mixer; target networks are copied every `target_every` updates."""
    params, updates = (state.critic, state.mixer), state.updates + 1
    batch = by_length(as_windows(batch))
    of_part = lambda p, part: loss(m, p, state, part)
    size = widest(batch, m.config.hidden)
    grads, metrics = jax.grad(
        lambda p: averaged(of_part, p, (batch,), batch.valid, size), has_aux=True
    )(params)
    steps, opt = m.optimiser.update(grads, state.opt)
    critic, mixer = optax.apply_updates(params, steps)
    slow = (state.target_critic, state.target_mixer)
    target_critic, target_mixer = optax.periodic_update(
        (critic, mixer), slow, updates, m.config.target_every
    )
    return State(critic, mixer, target_critic, target_mixer, opt, updates), Out(metrics)


# --- make -----------------------------------------------------------------------------------------


def method_of(config: Config, spec: EnvSpec) -> Method:
    """The nets of the discrete form. Raises InvalidSetting for what it can't do."""
    if config.recurrent and config.window == 0:
        raise InvalidSetting(
            "macql: field 'window': expected -1 (episodes) or a length with recurrent=true, found 0"
        )
    actors = Actors(
        spec, config.hidden, recurrent=config.recurrent, share=True, layer_init=config.layer_init
    )
    mixer = LinearMixer(config.embed, spec.num_agents, config.mixer_bias, config.layer_init)
    return Method(config, actors, mixer, rmsprop(config.lr, config.max_grad_norm))


def make(config: Config, spec: EnvSpec) -> Learner:
    """The learner; its policy takes the argmax of each agent's values.

    Raises InvalidSetting for continuous actions.
    """
    if not spec.discrete:
        raise InvalidSetting(
            f"macql on '{spec.name}': expected discrete actions, found continuous ones, "
            "which are cql's"
        )
    m = method_of(config, spec)
    return Learner(
        init=lambda key: init(m, key),
        update=lambda state, batch, key: update(m, state, batch),
        policy=lambda state: greedy(m.actors.policy(state.critic)),
    )
