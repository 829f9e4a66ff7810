"""OMAR for continuous actions (Pan et al., ICML 2022): MA-CQL whose actors are also drawn to the best of a search over the critic.

Critics are those of MA-CQL (cql_continuous.py). The policy of each agent, by the critic just updated  -> actor_loss:
    mimic mean (pi(o) - a^)^2 - (1 - mimic) mean Q_1(o, pi(o)) + penalty mean pi(o)^2
a^, a constant, is pi(o) where Q_1(o, pi(o)) >= Q_1(o, u), else u, the best sample that a search ends with  -> target_action.
Searches: softmax (particle games), cem (HalfCheetah), random (an ablation)                             -> search
As the released code: the spread of the softmax search is unweighted, around the new mean; u is the best of the last
iteration's samples, neither the best of all nor the mean; Q is not divided by its size. Slides print the policy's loss
with the wrong sign. mimic = 1 leaves no policy gradient. `mimic` is the paper's tau, which is no rate of slow nets.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import chex
import jax
import jax.numpy as jnp
from jax import lax

from baselines import cql_continuous, cql_team
from baselines.cql_continuous import Method
from jaxoff.losses.likelihood import masked_mean
from jaxoff.nets.actor_critic import Mine, learner, stages
from jaxoff.nets.normalised import Net
from jaxoff.optimisers import adam
from jaxoff.types import Array, EnvSpec, Key, Learner, Params, Stage

if TYPE_CHECKING:
    from baselines.omar import Config

SEARCHES = ("softmax", "cem", "random")
SMALL = 1e-10  # added to a spread
Value = Callable[[Array], Array]  # [K, M, A] -> [K, M]


# --- search ------------------------------------------------------------------------------------------


def softmax_update(samples: Array, q: Array) -> tuple[Array, Array]:
    """Mean with weights softmax_k q, and unweighted spread around it: samples [K, M, A], q [K, M] -> [M, A] each."""
    chex.assert_equal_shape([samples[..., 0], q])
    mean = jnp.sum(jax.nn.softmax(q, 0)[..., None] * samples, 0)
    return mean, jnp.sqrt(jnp.mean(jnp.square(samples - mean), 0)) + SMALL


def cem_update(samples: Array, q: Array, elites: tuple[Array, Array]) -> tuple[Array, Array, tuple[Array, Array]]:
    """Mean and spread (over E - 1) of the E best of samples [K, M, A] and former elites ([E, M, A], values [E, M]); and these."""
    count = elites[1].shape[0]
    pool, values = jnp.concatenate([samples, elites[0]]), jnp.concatenate([q, elites[1]])
    best, index = lax.top_k(values.T, count)  # [M, E]
    chosen = jnp.take_along_axis(pool, index.T[..., None], 0)
    return jnp.mean(chosen, 0), jnp.std(chosen, 0, ddof=1) + SMALL, (chosen, best.T)


def best_of(samples: Array, q: Array) -> tuple[Array, Array]:
    """The sample of the largest value, and that value: [K, M, A], [K, M] -> [M, A], [M]."""
    index = jnp.argmax(q, 0)[None]
    return jnp.take_along_axis(samples, index[..., None], 0)[0], jnp.take_along_axis(q, index, 0)[0]


def search(config: Config, value: Value, shape: tuple[int, int], bound: float, key: Key) -> tuple[Array, Array]:
    """The sample that a search for a maximum of value ends with, and its value: [M, A], [M]. shape: (M, A).

    Samples are clipped to +-bound before they are valued. softmax: the best of the last iteration. cem: the best of the last
    samples and the elites before. random: the best of as many uniform samples as the others draw in all.
    """
    draws, rounds = config.search_samples, config.search_iterations
    if config.search == "random":
        samples = jax.random.uniform(key, (draws * rounds, *shape), minval=-bound, maxval=bound)
        return best_of(samples, value(samples))

    def one(carry: tuple[Array, Array, Any], key: Key) -> tuple[tuple[Array, Array, Any], tuple[Array, Array]]:
        mean, spread, elites = carry
        samples = jnp.clip(mean + spread * jax.random.normal(key, (draws, *shape)), -bound, bound)
        q = value(samples)
        if config.search == "softmax":
            return (*softmax_update(samples, q), None), best_of(samples, q)
        mean, spread, elites = cem_update(samples, q, elites)
        return (mean, spread, elites), (elites[0][0], elites[1][0])

    count: int = config.search_elites
    elites: Any = None
    if config.search == "cem":
        elites = jnp.zeros((count, *shape)), jnp.full((count, shape[0]), -jnp.inf)
    start = *(jnp.broadcast_to(x * bound, shape) for x in (config.search_mean, config.search_spread)), elites
    _, found = lax.scan(one, start, jax.random.split(key, rounds))
    return jax.tree.map(lambda x: x[-1], found)


def target_action(own: Array, own_value: Array, found: Array, found_value: Array) -> Array:
    """a^: own actions [M, A] where their values [M] are at least those of what a search found, else that; a constant."""
    return lax.stop_gradient(jnp.where((own_value >= found_value)[:, None], own, found))


# --- policies ----------------------------------------------------------------------------------------


def rectified_loss(own: Array, wanted: Array, q: Array, mimic: Array | float, penalty: Array | float) -> Array:
    """mimic (pi - a^)^2 - (1 - mimic) Q_1 + penalty pi^2, squares averaged over action dimensions: [M, A], [M, A], [M] -> [M]."""
    chex.assert_equal_shape([own, wanted])
    chex.assert_equal_shape([own[:, 0], q])
    squared = lambda x: jnp.mean(jnp.square(x), -1)  # noqa: E731
    return mimic * squared(own - wanted) - (1.0 - mimic) * q + penalty * squared(own)


def objective(m: Method, own: Array, value: Value, penalty: Array | float, key: Key) -> tuple[Array, dict[str, Array]]:
    """`rectified_loss` of own actions [M, A] by a search over the value, unreduced [M]."""
    q = value(own[None])[0]
    found = search(m.config, value, own.shape, m.agents.spec.action_bound, key)
    wanted = target_action(own, q, *found)
    told = {"policy_value": q, "mimic_error": jnp.mean(jnp.square(own - wanted), -1), "search_better": (found[1] > q).astype(q.dtype)}
    return rectified_loss(own, wanted, q, m.config.mimic, penalty), told


def actor_loss(m: Method, policy: Net, critic: Net, mine: Mine, key: Key) -> tuple[Array, dict[str, Array]]:
    """Mean of `objective` over valid rows of one agent."""
    rows = mine.rows
    own = m.agents.act(policy, jnp.take(rows.obs, mine.agent, 1), rows.valid)
    loss, told = objective(m, own, lambda samples: m.agents.first_values(critic, mine, samples), m.config.action_penalty, key)
    told = {name: masked_mean(value, rows.valid) for name, value in ({"policy": loss} | told).items()}
    return told["policy"], told


# --- make --------------------------------------------------------------------------------------------


def method_of(config: Config, spec: EnvSpec) -> Method:
    """Nets of the continuous form. Raises ValueError for unknown words and sizes that can't be."""
    if config.search not in SEARCHES:
        raise ValueError(f"omar: field 'search': expected one of {', '.join(SEARCHES)}, found '{config.search}'")
    if config.search == "cem" and not 2 <= config.search_elites <= config.search_samples:
        raise ValueError(f"omar: field 'search_elites': expected 2 to search_samples={config.search_samples}, found {config.search_elites}")
    return cql_continuous.method_of(config, spec, "omar")


def make(config: Config, spec: EnvSpec) -> Learner | tuple[Stage, ...]:
    """The learner; its policies are deterministic."""
    m = method_of(config, spec)
    if config.shared_team:
        return cql_team.make(config, spec, "omar", objective)

    def of_critic(critic: Params, mine: Mine, key: Key) -> tuple[Array, dict[str, Array]]:
        return cql_continuous.critic_loss(m, critic, mine, key)

    def of_actor(policy: Params, critic: Params, mine: Mine, key: Key) -> tuple[Array, dict[str, Array]]:
        return actor_loss(m, policy, critic, mine, key)

    both = adam(config.lr, config.max_grad_norm), adam(config.critic_lr, config.max_grad_norm)
    passes = cql_continuous.passes_of(config)
    return stages(m.agents, learner(m.agents, both, config.polyak, of_critic, of_actor, passes=passes), config.steps)
