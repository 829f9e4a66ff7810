"""OMAR for discrete actions, in the form of the CFCQL code base (Shao et al., NeurIPS 2023).

Pan et al. (ICML 2022) did not release their code for discrete actions. One actor serves all agents;
twin critics see the state, the agent's own observation and its number, and are trained by
TD(lambda) with a conservative term -> td_target, critic_loss; the actor is trained by a policy
gradient and a regression onto the best action -> actor_loss. Over A discrete actions the search for
the best one is exact: an argmax.
Differs from the CFCQL code: unavailable actions are left out of the conservative term and of the
argmax, and padded steps out of the regression (`mask_cql`, `mask_argmax`, `mask_mse`; false: as in
their code); the critic makes one step on all steps of an episode (`per_timestep`: one update for
each step in order, as in their code); target networks are copied after the actor's step, their code
copies them before it. Their search by Gaussians over action numbers is switched off in their code
and not implemented here. The paper's own StarCraft study, a MATD3 with Gumbel-softmax actions, is
not implemented either, since its form was not published.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from flax import struct
from jax import lax

from jaxoff.batches import as_windows
from jaxoff.blocks import averaged, by_length, of_each, widest
from jaxoff.config import static
from jaxoff.errors import InvalidSetting
from jaxoff.losses.conservative import conservative_term
from jaxoff.losses.likelihood import expectation, masked_mean, taken
from jaxoff.losses.td import lambda_return
from jaxoff.nets.actors import Actors
from jaxoff.nets.layers import Dense, LayerInit
from jaxoff.nets.mlp import MLP
from jaxoff.optimisers import adam
from jaxoff.types import UNAVAILABLE, Array, EnvSpec, Key, Learner, Out, Params, Transition

SMALL = 1e-5  # added to a probability before its logarithm

Held = tuple[Params, optax.OptState]  # parameters and optimiser state of the critic


@struct.dataclass
class Config:
    """Settings of the CFCQL code base."""

    lr: float = 1e-3  # learning rate of the actor (Adam)
    critic_lr: float = 1e-3  # learning rate of the critics (Adam)
    gamma: float = 0.99
    trace: float = 0.6  # lambda of TD(lambda)
    cql: float = 5.0  # weight of the conservative term
    # the paper's tau: weight of the regression onto the best action against the policy gradient
    mimic: float = 0.5
    max_grad_norm: float = 10.0  # largest gradient norm of the actor and of the critic, each
    target_every: int = static(25)  # updates between hard copies to the target networks
    mask_cql: bool = static(True)  # conservative term over available actions only
    mask_argmax: bool = static(True)  # best action among the available ones only
    mask_mse: bool = static(True)  # regression onto the best action on real steps only
    twin_share_head: bool = static(True)  # both twin critics share the output layers of the first
    per_timestep: bool = static(False)  # one critic update for each step of the window
    hidden: int = static(64)  # width of the actor
    critic_hidden: int = static(256)  # width of the critics' two hidden layers
    recurrent: bool = static(False)  # actor with a GRU over the episode; needs window != 0
    layer_init: LayerInit = static("torch")  # initialisation of the layers: jaxoff/nets/layers.py
    steps: int = static(20000)
    # training budget in filled slots, which then sets `steps`; 0: none
    slots: int = static(0)
    batch_size: int = static(128)
    window: int = static(-1)  # -1: whole episodes; 0: single steps


class State(NamedTuple):
    """Trained parameters, target networks and optimiser states."""

    policy: Params
    critic: Params
    target_policy: Params
    target_critic: Params
    policy_opt: optax.OptState
    critic_opt: optax.OptState
    updates: Array


class Method(NamedTuple):
    """Networks and optimisers of one config."""

    config: Config
    actors: Actors
    critic: TwinCritic
    optimiser: optax.GradientTransformation
    critic_optimiser: optax.GradientTransformation


class TwinCritic(nn.Module):
    """Values of all actions by two networks, each with a head per action plus a head per state:
    [..., F] -> [2, ..., A].

    share_head: the second network has its own trunk, and the first one's heads.
    """

    actions: int
    hidden: int = 256
    share_head: bool = True
    layer_init: LayerInit = "torch"

    def setup(self) -> None:
        """Make trunks and heads."""
        heads = 1 if self.share_head else 2
        self.trunks = [
            MLP((self.hidden, self.hidden), layer_init=self.layer_init) for _ in range(2)
        ]
        self.of_action = [Dense(self.actions, self.layer_init) for _ in range(heads)]
        self.of_state = [Dense(1, self.layer_init) for _ in range(heads)]

    def __call__(self, x: Sequence[Array]) -> Array:
        """Both values of every action; the input may be given in parts, as for `Dense`."""
        features = [jax.nn.relu(trunk(x)) for trunk in self.trunks]
        heads = [0, 0] if self.share_head else [0, 1]
        return jnp.stack(
            [
                self.of_action[k](f) + self.of_state[k](f)
                for k, f in zip(heads, features, strict=True)
            ]
        )


def critic_input(state: Array, obs: Array) -> tuple[Array, Array, Array]:
    """Parts of the critic's input: state [..., 1, S], own observation [..., N, O] and the one-hot
    number of each agent [N, N].
    """
    return state[..., None, :], obs, jnp.eye(obs.shape[-2], dtype=obs.dtype)


def init(m: Method, key: Key) -> State:
    """Freshly initialised networks; target networks are equal to them."""
    policy_key, critic_key = jax.random.split(key)
    policy, spec = m.actors.init(policy_key), m.actors.spec
    critic = m.critic.init(critic_key, jnp.zeros(spec.state_size + spec.obs_size + spec.num_agents))
    opts = m.optimiser.init(policy), m.critic_optimiser.init(critic)
    return State(policy, critic, policy, critic, opts[0], opts[1], jnp.zeros((), jnp.int32))


# --- discrete: critic -----------------------------------------------------------------------------


def td_target(m: Method, state: State, batch: Transition) -> Array:
    """TD(lambda) return by each of the two target critics under the target actor's best action, the
    smaller of the two: [B, T, N], a constant.

    Every agent is given the reward of the team.
    """

    config = m.config
    chosen = of_each(
        lambda p, batch: jnp.argmax(m.actors.outputs(p, batch)[1], -1),
        state.target_policy,
        (batch,),
        batch.valid,
        widest(batch, config.hidden),
    )
    # [2, B, T, N]
    both = of_each(
        lambda p, batch, chosen: tuple(
            taken(q, chosen)
            for q in m.critic.apply(p, critic_input(batch.next_state, batch.next_obs))
        ),
        state.target_critic,
        (batch, chosen),
        batch.valid,
        widest(batch, config.critic_hidden),
    )
    returns = [
        lambda_return(
            batch.reward, batch.terminated, batch.valid, value, config.gamma, config.trace
        )
        for value in both
    ]
    return jnp.minimum(*returns)


def critic_loss(
    m: Method, params: Params, target: Array, batch: Transition
) -> tuple[Array, dict[str, Array]]:
    """Sum over both critics of the mean, over valid steps and agents, of (Q - y)^2 plus `cql` times
    the conservative term.
    """

    def part(params: Params, target: Array, batch: Transition) -> tuple[Array, dict[str, Array]]:
        both = m.critic.apply(params, critic_input(batch.state, batch.obs))
        valid = jnp.broadcast_to(batch.valid[..., None], target.shape)
        avail = batch.avail if m.config.mask_cql else jnp.ones_like(batch.avail)
        value: Any = sum(
            masked_mean(jnp.square(taken(q, batch.actions) - target), valid) for q in both
        )
        terms = (masked_mean(conservative_term(q, batch.actions, avail), valid) for q in both)
        conservative: Any = sum(terms)
        metrics = {
            "value": value,
            "conservative": conservative,
            "q": masked_mean(taken(both[0], batch.actions), valid),
        }
        return value + m.config.cql * conservative, metrics

    size = widest(batch, m.config.critic_hidden)
    return averaged(part, params, (target, batch), batch.valid, size)


def critic_step(
    m: Method, held: Held, target: Array, batch: Transition
) -> tuple[Held, dict[str, Array]]:
    """One gradient step of the twin critics."""
    params, opt = held
    grads, metrics = jax.grad(lambda p: critic_loss(m, p, target, batch), has_aux=True)(params)
    steps, opt = m.critic_optimiser.update(grads, opt)
    return (optax.apply_updates(params, steps), opt), metrics


def critic_sweep(
    m: Method, held: Held, target: Array, batch: Transition
) -> tuple[Held, dict[str, Array]]:
    """One gradient step of the twin critics for each time step of the window, in order, except
    where all is padding; means of the metrics.
    """

    def one(
        held: Held, slot: tuple[Array, Transition]
    ) -> tuple[Held, tuple[dict[str, Array], Array]]:
        target, batch = jax.tree.map(lambda x: x[:, None], slot)
        made = jnp.any(batch.valid > 0)
        after, metrics = critic_step(m, held, target, batch)
        return jax.tree.map(lambda new, old: jnp.where(made, new, old), after, held), (
            metrics,
            made.astype(jnp.float32),
        )

    slots = jax.tree.map(lambda x: jnp.moveaxis(x, 1, 0), (target, batch))
    held, (metrics, made) = lax.scan(one, held, slots)
    return held, {name: masked_mean(value, made) for name, value in metrics.items()}


# --- discrete: actor ------------------------------------------------------------------------------


def gradient_loss(logits: Array, q: Array, actions: Array) -> Array:
    """Policy gradient on the data's actions, -(Q(a) - E_pi Q) log(pi(a) + 1e-5), the first factor a
    constant; [..., A] -> [...].
    """
    advantage = lax.stop_gradient(taken(q, actions) - expectation(logits, q))
    return -advantage * jnp.log(taken(jax.nn.softmax(logits), actions) + SMALL)


def regression_loss(logits: Array, q: Array, avail: Array) -> Array:
    """Mean over all A actions of (pi - 1[argmax_a Q])^2, the best among those with avail > 0; [...,
    A] -> [...].
    """
    chex.assert_equal_shape([logits, q, avail])
    best = jnp.argmax(jnp.where(avail > 0, q, UNAVAILABLE), -1)
    return jnp.mean(jnp.square(jax.nn.softmax(logits) - jax.nn.one_hot(best, q.shape[-1])), -1)


def actor_loss(
    m: Method, params: Params, critic: Params, batch: Transition
) -> tuple[Array, dict[str, Array]]:
    """(1 - mimic) gradient_loss + mimic regression_loss, each averaged over steps and agents, with
    values of the first critic.
    """
    config = m.config
    if not config.mask_mse:
        # Padding has no available action, as in the CFCQL code: the policy is then constant, so a
        # padded step only counts in the mean. The slot after the last step of an episode is no
        # padding in that code, and the actor learns from it.
        real = jnp.concatenate([jnp.ones_like(batch.valid[:, :1]), batch.valid[:, :-1]], 1)
        batch = batch._replace(avail=batch.avail * real[..., None, None])
    # Without `mask_mse` the loss needs padded steps too, which blocks may leave out: one block.
    bytes_of = lambda hidden: widest(batch, hidden) if config.mask_mse else 0
    # [B, T, N, A]
    q = of_each(
        lambda p, batch: m.critic.apply(p, critic_input(batch.state, batch.obs))[0],
        critic,
        (batch,),
        batch.valid,
        bytes_of(config.critic_hidden),
    )

    def part(params: Params, q: Array, batch: Transition) -> tuple[Array, dict[str, Array]]:
        logits, _ = m.actors.outputs(params, batch)
        valid = jnp.broadcast_to(batch.valid[..., None], q.shape[:-1])
        gradient = masked_mean(gradient_loss(logits, q, batch.actions), valid)
        errors = regression_loss(
            logits, q, batch.avail if config.mask_argmax else jnp.ones_like(batch.avail)
        )
        regression = masked_mean(errors, valid if config.mask_mse else jnp.ones_like(valid))
        loss = (1 - config.mimic) * gradient + config.mimic * regression
        return loss, {"policy": loss, "gradient": gradient, "regression": regression}

    return averaged(part, params, (q, batch), batch.valid, bytes_of(config.hidden))


# --- update ---------------------------------------------------------------------------------------


def update(m: Method, state: State, batch: Transition) -> tuple[State, Out]:
    """The critic's step or steps, then the actor's by the new critic; every `target_every` updates
    the target networks are copied.
    """
    batch = by_length(as_windows(batch))
    target, steps_of = (
        td_target(m, state, batch),
        critic_sweep if m.config.per_timestep else critic_step,
    )
    (critic, critic_opt), metrics = steps_of(m, (state.critic, state.critic_opt), target, batch)
    grads, actor_metrics = jax.grad(lambda p: actor_loss(m, p, critic, batch), has_aux=True)(
        state.policy
    )
    steps, policy_opt = m.optimiser.update(grads, state.policy_opt)
    policy, updates = optax.apply_updates(state.policy, steps), state.updates + 1
    slow = state.target_policy, state.target_critic
    slow_policy, slow_critic = optax.periodic_update(
        (policy, critic), slow, updates, m.config.target_every
    )
    return State(policy, critic, slow_policy, slow_critic, policy_opt, critic_opt, updates), Out(
        metrics | actor_metrics
    )


# --- make -----------------------------------------------------------------------------------------


def method_of(config: Config, spec: EnvSpec) -> Method:
    """Networks of the discrete form.

    Raises InvalidSetting for a recurrent actor on single steps.
    """
    if config.recurrent and config.window == 0:
        raise InvalidSetting(
            "omar: field 'window': expected -1 (episodes) or a length with recurrent=true, found 0"
        )
    actors = Actors(
        spec, config.hidden, recurrent=config.recurrent, share=True, layer_init=config.layer_init
    )
    critic = TwinCritic(
        spec.action_size, config.critic_hidden, config.twin_share_head, config.layer_init
    )
    optimisers = (adam(lr, config.max_grad_norm) for lr in (config.lr, config.critic_lr))
    return Method(config, actors, critic, *optimisers)


def make(config: Config, spec: EnvSpec) -> Learner:
    """The learner; its policy is stochastic. Raises InvalidSetting for continuous actions."""
    if not spec.discrete:
        raise InvalidSetting(
            f"omar on '{spec.name}': expected discrete actions in this form, found continuous ones"
        )
    m = method_of(config, spec)
    return Learner(
        init=lambda key: init(m, key),
        update=lambda state, batch, key: update(m, state, batch),
        policy=lambda state: m.actors.policy(state.policy),
        target_policy=lambda state: m.actors.policy(state.target_policy),
    )
