"""YANHUI: behaviour cloning with a mixture of experts, drawn to good data and away from poor data
(Meng et al., ICASSP 2024).

Eq. 2, as we read it -> objective: E_n sum_k q_nk [contrast G_nk - cloning log p(a_n | n, k)
- log p(k | o_n) + log q_nk], with q the exact posterior, held constant -> jaxoff/losses/mixture.py;
G and its scores -> jaxoff/losses/contrast.py; gate and experts -> jaxoff/nets/experts.py; the trunk
is MADT's transformer, with the same modes. Evaluate with --greedy. The paper prints no code and no
constants, so these points were decided here (docs/methods/yanhui.md): q is inside the expectation
together with the gate's likelihood, scores are distances, and the gate weighs the experts in the
policy too (mix=uniform: as printed).
Ablations: experts=1 (no mixture), soft=false (hard assignment), contrast=0 (no contrast), cloning=0
(no cross-entropy).
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import struct

from jaxoff import distributions
from jaxoff.batches import as_windows, choosing
from jaxoff.config import static
from jaxoff.data.dataset import Dataset
from jaxoff.data.returns import (
    Returns,
    check_scale,
    no_returns,
    positivity,
    returns_of,
    share_of_best,
)
from jaxoff.losses.contrast import NEAR, Scale, contrast_terms, pairs_of, proximity, scale_of, some
from jaxoff.losses.likelihood import masked_mean, taken
from jaxoff.losses.mixture import bound_loss, mixture_log_prob, posterior
from jaxoff.nets.experts import Experts, Mixture, prototypes
from jaxoff.nets.transformer import ContextNet, Memory
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
    Stage,
    TimeStep,
    Transition,
)

# shares of the best return: an episode is an expert's from GOOD on, and poor below POOR
GOOD, POOR = 0.9, 0.5
SAMPLE = 2048  # number of items from which the bandwidth is measured

ACTIONS = ("discrete",)


@struct.dataclass
class Config:
    """Settings; the paper prints none.

    Trunk and optimiser are MADT's; `bandwidth` was chosen on 3m, the rest on a tabular problem.
    """

    lr: float = 5e-4
    weight_decay: float = 0.1  # weight decay of AdamW
    max_grad_norm: float = 0.5
    contrast: float = 20.0  # lambda_G, weight of the contrast term G
    cloning: float = 1.0  # lambda_CE, weight of the cross-entropy
    gate_temperature: float = 1.0  # tau_g, temperature of the gate
    action_temperature: float = 0.2  # tau_a, temperature of the experts' softmax over actions
    eta: float = 20.0  # slope of G for positives, which are at rest below a score of mu / eta
    nu: float = 10.0  # slope of G for negatives, which are at rest above a score of mu / nu
    mu: float = 4.0  # margin of G: see eta and nu
    slope: float = 10.0  # slope of positivity over the share of the best return
    midpoint: float = 0.5  # share of the best return at which positivity is 1/2
    # kernel width, in median distances of an item to the nearest one of another episode
    bandwidth: float = 0.3
    return_low: float = 0.0  # return of doing nothing
    return_high: float = 20.0  # return of a perfect episode
    # initial return-to-go in evaluations; used by mode=rtg_state_action
    target_return: float = 20.0
    experts: int = static(4)  # number K of experts
    width: int = static(64)  # dimension d of the experts' sphere
    # weights of the experts in the mixture: those of the gate, or uniform
    mix: Literal["gate", "uniform"] = static("gate")
    soft: bool = static(True)  # soft assignment of data to good and poor; false: by thresholds
    # weight of the likelihood: none, or the episode's positivity rho
    ce_weight: Literal["none", "rho"] = static("none")
    group_by_action: bool = static(True)  # sum G over actions; false: one term for all actions
    # inputs of the transformer, as in MADT
    mode: Literal["state_only", "state_action", "rtg_state_action"] = static("state_only")
    agent_id: bool = static(True)  # the agent's number is an input
    hidden: int = static(32)
    layers: int = static(2)
    heads: int = static(2)
    support: int = static(1024)  # number J of items, of all agents, that anchors are compared with
    # windows of the batch that are trained on; the others are support only
    anchors: int = static(128)
    steps: int = static(10_000)
    batch_size: int = static(384)  # windows of all agents, anchors included
    window: int = static(1)  # length C of the context; 0 is 1, -1 whole episodes


class State(NamedTuple):
    """Trained parameters, optimiser state, and statistics of the dataset."""

    policy: Params  # {"trunk", "head"}
    opt: optax.OptState
    returns: Returns
    scale: Scale


class Method(NamedTuple):
    """Networks and optimiser of one config."""

    config: Config
    trunk: ContextNet
    head: Experts
    optimiser: optax.GradientTransformation


class Items(NamedTuple):
    """Steps of single agents, M of them."""

    obs: Array  # [M, O]
    avail: Array  # [M, A]
    actions: Array  # [M]
    share: Array  # [M] the episode's return, from 0 to 1
    valid: Array  # [M] 1 where the agent has a choice


def init(m: Method, returns: Returns, scale: Scale, key: Key) -> State:
    """Freshly initialised networks."""
    trunk_key, head_key = jax.random.split(key)
    params = {
        "trunk": m.trunk.init(trunk_key),
        "head": m.head.init(head_key, jnp.zeros(m.config.hidden), 1.0),
    }
    return State(params, m.optimiser.init(params), returns, scale)


def prepare(m: Method, dataset: Dataset, key: Key) -> State:
    """Freshly initialised networks, the dataset's returns, and the scale by which its observations
    are compared.
    """
    init_key, sample_key = jax.random.split(key)
    batch = dataset.steps(dataset.step_row)
    items = items_of(batch, jnp.zeros(batch.valid.shape))
    picks = some(sample_key, items.valid, SAMPLE)
    episode = jnp.where(items.valid > 0, jnp.repeat(batch.episode, m.trunk.spec.num_agents), -1)
    scale = scale_of(items.obs, items.valid, items.obs[picks], episode[picks])
    return init(
        m,
        returns_of(dataset),
        scale._replace(bandwidth=m.config.bandwidth * scale.bandwidth),
        init_key,
    )


def items_of(batch: Transition, share: Array) -> Items:
    """Every agent of every step as one item, [..., N] flattened."""
    valid = choosing(batch)
    flat = lambda x: x.reshape(-1, x.shape[-1])
    share = jnp.broadcast_to(share[..., None], valid.shape)
    return Items(
        flat(batch.obs),
        flat(batch.avail),
        batch.actions.reshape(-1),
        share.reshape(-1),
        valid.reshape(-1),
    )


def log_parts(m: Method, mixture: Mixture, avail: Array) -> Array:
    """log p(a | n, k), [..., K, A]: softmax over available actions of cosines / tau_a."""
    return jax.nn.log_softmax(
        jnp.where(
            avail[..., None, :] > 0, mixture.cosine / m.config.action_temperature, UNAVAILABLE
        )
    )


def contrast_of(
    m: Method, cosine: Array, items: Items, support: Items, same: Array, scale: Scale
) -> tuple[Array, dict[str, Array]]:
    """G [M, K] of anchors against support items. same [M, J]: anchor and support item are one and
    the same, which is then its own neighbour.
    """
    c = m.config
    near = jnp.where(same, 1.0, proximity(items.obs, support.obs, scale)) * support.valid
    rho = positivity(support.share, c.slope, c.midpoint)
    if not c.soft:  # episodes between the two thresholds are not in the support
        rho = (support.share >= GOOD).astype(jnp.float32)
        near = near * ((support.share >= GOOD) | (support.share <= POOR))
    pairs = pairs_of(near, rho, jnp.take(items.avail, support.actions, -1), c.soft)
    terms = contrast_terms(
        (1.0 - cosine) / 2, pairs, support.actions, c.eta, c.nu, c.mu, c.group_by_action
    )
    active = lambda term, k: jnp.mean(jnp.any(term > jnp.log(2.0) / k, (-1, -2)))
    metrics = {"neighbours": masked_mean(jnp.sum(pairs.member, 1), items.valid)}
    metrics |= {
        "active_positive": active(terms[0], c.eta),
        "active_negative": active(terms[1], c.nu),
    }
    return jnp.sum(terms[0] + terms[1], -1), metrics | overlap(near, items, support)


def overlap(near: Array, items: Items, support: Items) -> dict[str, Array]:
    """Shares of poor anchors that have a nearby expert's item, and a nearby one with the same
    action.
    """
    poor = items.valid * (items.share < POOR)
    beside = (near >= NEAR) & (support.share >= GOOD)
    same = beside & (items.actions[:, None] == support.actions)
    return {
        "state_overlap": masked_mean(jnp.any(beside, 1) * 1.0, poor),
        "action_overlap": masked_mean(jnp.any(same, 1) * 1.0, poor),
    }


def objective(
    m: Method, params: Params, state: State, batch: Transition, key: Key
) -> tuple[Array, dict[str, Array]]:
    """Scalar loss of windows [B, T, ...]: the first `anchors` of them are trained on, the others
    are only compared with.
    """
    c, count = m.config, min(m.config.anchors, batch.valid.shape[0])
    share = share_of_best(state.returns.whole(batch), c.return_low, c.return_high)
    first = jax.tree.map(lambda x: x[:count], batch)
    features = m.trunk.features(params["trunk"], first, state.returns.ahead(first))
    mixture: Mixture = m.head.apply(
        params["head"], features.reshape(-1, features.shape[-1]), c.gate_temperature
    )
    everything = items_of(batch, share)
    items = jax.tree.map(lambda x: x[: features[..., 0].size], everything)
    log_part = log_parts(m, mixture, items.avail)
    log_taken = taken(log_part, jnp.broadcast_to(items.actions[:, None], mixture.log_gate.shape))
    q = posterior(mixture.log_gate, log_taken)
    cloning = c.cloning * (
        positivity(items.share, c.slope, c.midpoint)[:, None] if c.ce_weight == "rho" else 1.0
    )
    bound = masked_mean(bound_loss(q, mixture.log_gate, log_taken, cloning), items.valid)
    # Anchors of G: all items that are trained on, or `support` of them at random if there are more.
    anchor_key, support_key = jax.random.split(key)
    chosen = some(anchor_key, items.valid, c.support)
    more = (
        some(support_key, everything.valid[items.valid.size :], c.support - chosen.size)
        + items.valid.size
    )
    spots = jnp.concatenate([chosen, more])
    picked, support = (jax.tree.map(lambda x, i=i: x[i], everything) for i in (chosen, spots))
    g, metrics = contrast_of(
        m, mixture.cosine[chosen], picked, support, chosen[:, None] == spots, state.scale
    )
    contrast = masked_mean(jnp.sum(q[chosen] * g, -1), picked.valid)
    nll = -taken(mixture_log_prob(mixture.log_gate, log_part), items.actions)
    return bound + c.contrast * contrast, metrics | {
        "bound": bound,
        "contrast": contrast,
    } | mixture_metrics(q, nll, items)


def mixture_metrics(q: Array, nll: Array, items: Items) -> dict[str, Array]:
    """Negative log-likelihoods of the mixture on all items, on experts' and on poor ones; entropy
    of q, and the share of the most used expert.
    """
    usage = jnp.sum(q * items.valid[:, None], 0) / jnp.maximum(jnp.sum(items.valid), 1.0)
    entropy = -jnp.sum(jax.scipy.special.xlogy(q, q), -1)
    good, poor = items.valid * (items.share >= GOOD), items.valid * (items.share < POOR)
    likelihoods = {"policy": items.valid, "policy_expert": good, "policy_poor": poor}
    metrics = {name: masked_mean(nll, weight) for name, weight in likelihoods.items()}
    return metrics | {"q_entropy": masked_mean(entropy, items.valid), "usage_max": jnp.max(usage)}


def update(m: Method, state: State, batch: Transition, key: Key) -> tuple[State, Out]:
    """One step of AdamW."""
    batch = as_windows(batch)
    (loss, metrics), grads = jax.value_and_grad(
        lambda p: objective(m, p, state, batch, key), has_aux=True
    )(state.policy)
    changes, opt = m.optimiser.update(grads, state.opt, state.policy)
    return state._replace(policy=optax.apply_updates(state.policy, changes), opt=opt), Out(
        metrics | {"loss": loss}
    )


def policy_of(m: Method, params: Params) -> Policy:
    """sum_k p(k | o) p(a | n, k) over available actions; it uses no action and no return of the
    data.
    """

    def distribution(memory: Memory, seen: TimeStep) -> tuple[Memory, Distribution]:
        memory, features = m.trunk.step(params["trunk"], memory, seen)
        mixture = m.head.apply(params["head"], features, m.config.gate_temperature)
        log_probs = mixture_log_prob(mixture.log_gate, log_parts(m, mixture, seen.avail))
        return memory, distributions.categorical(log_probs, avail=seen.avail)

    return Policy(lambda shape: m.trunk.initial(shape, m.config.target_return), distribution)


def method_of(config: Config, spec: EnvSpec) -> Method:
    """Networks of a config.

    Raises InvalidSetting where the width is too small for the number of experts.
    """
    trunk = ContextNet(
        spec,
        config.hidden,
        config.layers,
        config.heads,
        config.mode,
        config.window,
        config.agent_id,
    )
    prototypes(config.experts, config.width)  # raises where the sphere is too small
    head = Experts(config.experts, config.width, spec.action_size, config.mix == "uniform")
    return Method(config, trunk, head, adamw(config.lr, config.max_grad_norm, config.weight_decay))


def make(config: Config, spec: EnvSpec) -> tuple[Stage, ...]:
    """One stage, which begins with a pass over the whole dataset; for discrete actions."""
    m = method_of(config, spec)
    check_scale("yanhui", config.return_low, config.return_high)
    unknown = Scale(jnp.ones(spec.obs_size), jnp.ones(()))
    learner = Learner(
        lambda key: init(m, no_returns(), unknown, key),
        lambda *args: update(m, *args),
        lambda state: policy_of(m, state.policy),
    )
    return (
        Stage(
            "train", learner, config.steps, lambda before, dataset, key: prepare(m, dataset, key)
        ),
    )
