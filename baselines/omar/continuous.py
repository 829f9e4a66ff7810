"""OMAR for continuous actions (Pan et al., ICML 2022): MA-CQL whose actors are also drawn to the
best action that a search over the critic finds.

Critics are those of MA-CQL (baselines/cql/agents.py). The policy loss of each agent, with the
critic just updated -> actor_loss:
    mimic mean (pi(o) - a^)^2 - (1 - mimic) mean Q_1(o, pi(o)) + penalty mean pi(o)^2
a^, a constant, is pi(o) where Q_1(o, pi(o)) >= Q_1(o, u), else u, the best sample that a search
ends with -> target_action. Searches: softmax (particle games), cem (HalfCheetah), random (an
ablation) -> search.
As in the released code: the spread of the softmax search is unweighted, around the new mean; u is
the best of the last iteration's samples, neither the best of all nor the mean; Q is not divided by
its size. The authors' slides print the policy's loss with the wrong sign. mimic = 1 leaves no
policy gradient. `mimic` is the paper's tau, which is not the rate of the target networks.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import chex
import jax
import jax.numpy as jnp
from flax import struct
from jax import lax
from jaxoff.baselines.cql import agents, team
from jaxoff.baselines.cql.agents import Method

from jaxoff.config import static
from jaxoff.errors import InvalidSetting
from jaxoff.learners.actor_critic import AgentBatch, learner, own_of, stages
from jaxoff.losses.likelihood import masked_mean
from jaxoff.nets.layers import LayerInit
from jaxoff.nets.normalised import Net
from jaxoff.optimisers import adam
from jaxoff.types import Array, EnvSpec, Key, Learner, Params, Stage

SMALL = 1e-10  # added to a standard deviation
Value = Callable[[Array], Array]  # [K, M, A] -> [K, M]


@struct.dataclass
class Config:
    """Settings of the released code's particle games."""

    lr: float = 1e-2  # learning rate of the policies (Adam)
    critic_lr: float = 1e-2  # learning rate of the critics (Adam)
    gamma: float = 0.95
    cql: float = 5.0  # weight of the conservative term
    # the paper's tau: weight of the regression onto the best action against the policy gradient
    mimic: float = 0.5
    max_grad_norm: float = 0.5  # largest gradient norm of each agent's policy and critic
    polyak: float = 0.01  # share of the online parameters in a target update
    action_penalty: float = 1e-3  # weight of the policies' mean squared action
    temperature: float = 1.0  # temperature of the conservative term's log-sum-exp
    # standard deviation of the noise on target actions; used with shared_team only
    target_noise: float = 0.05
    search_mean: float = 0.0  # initial mean of the action search, in action bounds
    search_spread: float = 2.0  # initial standard deviation of the search, in action bounds
    # method of the search for the best action
    search: Literal["softmax", "cem", "random"] = static("softmax")
    search_iterations: int = static(3)  # iterations of the search; 2 with cem
    search_samples: int = static(10)  # samples in an iteration of the search; 20 with cem
    search_elites: int = static(5)  # number of elites of the cem search
    # actions in the conservative term: uniform, or also near the policy at the next and this step
    samples: Literal["uniform", "policy"] = static("uniform")
    num_samples: int = static(10)  # sampled actions of each kind in the conservative term
    # subtract the density p of policy samples in place of log p, as in the released code
    plain_density: bool = static(False)
    # normalise network inputs by statistics of the batch, or observations by those of the dataset
    input_norm: Literal["batch", "dataset", "none"] = static("batch")
    centralised: bool = static(False)  # critics see the state and the actions of all agents
    shared_team: bool = static(False)  # a single centralised critic for the whole team
    # with shared_team: steps of the critic alone that follow one step of critic and policies
    critic_steps: int = static(4)
    own_batches: bool = static(True)  # each agent learns from its own 1 / N of the batch
    truncated_ends: bool = static(False)  # episodes cut by the time limit count as terminated
    hidden: int = static(64)  # width of policies and critics
    layer_init: LayerInit = static("torch")  # initialisation of the layers: jaxoff/nets/layers.py
    steps: int = static(2001)
    batch_size: int = static(3072)  # steps of all agents together
    window: int = static(0)  # 0: single steps


# --- search ---------------------------------------------------------------------------------------


def softmax_update(samples: Array, q: Array) -> tuple[Array, Array]:
    """Mean with weights softmax_k q, and unweighted standard deviation around it: samples
    [K, M, A], q [K, M] -> [M, A] each.
    """
    chex.assert_equal_shape([samples[..., 0], q])
    mean = jnp.sum(jax.nn.softmax(q, 0)[..., None] * samples, 0)
    return mean, jnp.sqrt(jnp.mean(jnp.square(samples - mean), 0)) + SMALL


def cem_update(
    samples: Array, q: Array, elites: tuple[Array, Array]
) -> tuple[Array, Array, tuple[Array, Array]]:
    """Mean and standard deviation (over E - 1) of the new elites, and the new elites: the E best of
    the samples [K, M, A] and the former elites ([E, M, A], values [E, M]).
    """
    count = elites[1].shape[0]
    pool, values = jnp.concatenate([samples, elites[0]]), jnp.concatenate([q, elites[1]])
    best, index = lax.top_k(values.T, count)  # [M, E]
    chosen = jnp.take_along_axis(pool, index.T[..., None], 0)
    return jnp.mean(chosen, 0), jnp.std(chosen, 0, ddof=1) + SMALL, (chosen, best.T)


def best_of(samples: Array, q: Array) -> tuple[Array, Array]:
    """The sample of the largest value, and that value: [K, M, A], [K, M] -> [M, A], [M]."""
    index = jnp.argmax(q, 0)[None]
    return jnp.take_along_axis(samples, index[..., None], 0)[0], jnp.take_along_axis(q, index, 0)[0]


def search(
    config: Config, value: Value, shape: tuple[int, ...], bound: float, key: Key
) -> tuple[Array, Array]:
    """The sample that a search for a maximum of `value` ends with, and its value: [M, A], [M].

    shape: (M, A).

    Samples are clipped to +-bound before they are evaluated. softmax returns the best of the last
    iteration's samples; cem the best of the last samples and the elites before them; random the
    best of as many uniform samples as the other searches draw in all iterations.
    """
    draws, rounds = config.search_samples, config.search_iterations
    if config.search == "random":
        samples = jax.random.uniform(key, (draws * rounds, *shape), minval=-bound, maxval=bound)
        return best_of(samples, value(samples))

    def one(carry: tuple[Any, ...], noise: Array) -> tuple[tuple[Any, ...], None]:
        mean, spread, elites, _ = carry
        samples = jnp.clip(mean + spread * noise, -bound, bound)
        q = value(samples)
        if config.search == "softmax":
            return (*softmax_update(samples, q), None, (samples, q)), None
        return (*cem_update(samples, q, elites), None), None

    count: int = config.search_elites
    elites: Any = None
    last: Any = None
    if config.search == "cem":
        elites = jnp.zeros((count, *shape)), jnp.full((count, shape[0]), -jnp.inf)
    else:
        last = jnp.zeros((draws, *shape)), jnp.zeros((draws, shape[0]))
    start = (jnp.broadcast_to(x * bound, shape) for x in (config.search_mean, config.search_spread))
    keys = jax.random.split(key, rounds)
    noise = jax.vmap(lambda key: jax.random.normal(key, (draws, *shape)))(keys)  # [J, K, M, A]
    (_, _, elites, last), _ = lax.scan(one, (*start, elites, last), noise)
    return best_of(*last) if elites is None else (elites[0][0], elites[1][0])


def target_action(own: Array, own_value: Array, found: Array, found_value: Array) -> Array:
    """a^: the policy's own actions [M, A] where their values [M] are at least those of the actions
    that the search found, else the latter; a constant.
    """
    return lax.stop_gradient(jnp.where((own_value >= found_value)[:, None], own, found))


# --- policies -------------------------------------------------------------------------------------


def rectified_loss(
    own: Array, wanted: Array, q: Array, mimic: Array | float, penalty: Array | float
) -> Array:
    """mimic (pi - a^)^2 - (1 - mimic) Q_1 + penalty pi^2, squares averaged over action dimensions:
    [M, A], [M, A], [M] -> [M].
    """
    chex.assert_equal_shape([own, wanted])
    chex.assert_equal_shape([own[:, 0], q])
    squared = lambda x: jnp.mean(jnp.square(x), -1)
    return mimic * squared(own - wanted) - (1.0 - mimic) * q + penalty * squared(own)


def objective(
    m: Method, own: Array, value: Value, penalty: Array | float, key: Key
) -> tuple[Array, dict[str, Array]]:
    """`rectified_loss` of the policy's actions [M, A], after a search over `value`; [M]."""
    q = value(own[None])[0]
    found = search(m.config, value, own.shape, m.agents.spec.action_bound, key)
    wanted = target_action(own, q, *found)
    metrics = {
        "policy_value": q,
        "mimic_error": jnp.mean(jnp.square(own - wanted), -1),
        "search_better": (found[1] > q).astype(q.dtype),
    }
    return rectified_loss(own, wanted, q, m.config.mimic, penalty), metrics


def actor_loss(
    m: Method, policy: Net, critic: Net, mine: AgentBatch, key: Key
) -> tuple[Array, dict[str, Array]]:
    """Mean of `objective` over valid rows of one agent."""
    rows = mine.rows
    own = m.agents.act(policy, own_of(rows.obs, mine.agent), rows.valid)
    loss, metrics = objective(
        m,
        own,
        m.agents.first_critic(critic, mine),
        m.config.action_penalty,
        key,
    )
    metrics = {
        name: masked_mean(value, rows.valid) for name, value in ({"policy": loss} | metrics).items()
    }
    return metrics["policy"], metrics


# --- make -----------------------------------------------------------------------------------------


def method_of(config: Config, spec: EnvSpec) -> Method:
    """Networks of the continuous form. Raises InvalidSetting for sizes that can't be."""
    if config.search == "cem" and not 2 <= config.search_elites <= config.search_samples:
        raise InvalidSetting(
            "omar: field 'search_elites': expected 2 to "
            f"search_samples={config.search_samples}, found {config.search_elites}"
        )
    return agents.method_of(config, spec)


def make(config: Config, spec: EnvSpec) -> Learner | tuple[Stage, ...]:
    """The learner; its policies are deterministic."""
    m = method_of(config, spec)
    if config.shared_team:
        return team.make(config, spec, "omar", objective)

    def of_critic(critic: Params, mine: AgentBatch, key: Key) -> tuple[Array, dict[str, Array]]:
        return agents.critic_loss(m, critic, mine, key)

    def of_actor(
        policy: Params, critic: Params, mine: AgentBatch, key: Key
    ) -> tuple[Array, dict[str, Array]]:
        return actor_loss(m, policy, critic, mine, key)

    both = adam(config.lr, config.max_grad_norm), adam(config.critic_lr, config.max_grad_norm)
    passes = agents.passes_of(config)
    return stages(
        m.agents, learner(m.agents, both, config.polyak, of_critic, of_actor, passes=passes), config
    )
