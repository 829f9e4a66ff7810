"""Behaviour models of a dataset: the teammates' actions given the state and an agent's own action,
and densities of joint continuous actions.

mu_i(a_j | s, a_i, earlier teammates) of AlberDICE (Matsunaga et al., 2023) and InSPO: one net per
anchor agent i, used for each teammate j. Its input is the one-hot of j, the state, the one-hot of
a_i, and the one-hots of teammates before j (n - 2 slots, increasing index, zero until filled).
Continuous actions: a VAE of the joint action given the state, as in CFCQL (Shao et al., 2023).
"""

from __future__ import annotations

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np

from jaxoff.blocks import of_each
from jaxoff.errors import InvalidSetting
from jaxoff.losses.likelihood import taken
from jaxoff.nets.layers import LayerInit
from jaxoff.nets.mlp import MLP
from jaxoff.types import UNAVAILABLE, Array, EnvSpec, Key, Params

KL_WEIGHT = 0.5  # KL weight of a VAE; the variance of its decoder is a quarter of it
DENSITY_SAMPLES = 20  # latent samples in an estimate of log mu_i


@dataclasses.dataclass(frozen=True)
class TeammateModel:
    """Nets of all anchors, parameters with a leading axis [N]. For two or more agents.

    head: where it is not 0, the weights of the last layer start uniform in +-head.
    """

    spec: EnvSpec
    hidden: int
    layers: int = 2
    layer_init: LayerInit = "torch"
    head: float = 0.0

    def __post_init__(self) -> None:
        if self.spec.num_agents < 2:
            raise InvalidSetting(
                f"teammate model of '{self.spec.name}': expected at least 2 agents, found "
                f"{self.spec.num_agents}"
            )

    def net(self) -> MLP:
        """The flax module of one anchor."""
        return MLP(
            (self.hidden,) * self.layers + (self.spec.action_size,),
            layer_init=self.layer_init,
            head=self.head,
        )

    def init(self, key: Key) -> Params:
        """Parameters [N, ...]."""
        n, a = self.spec.num_agents, self.spec.action_size
        width = n + self.spec.state_size + a + max(n - 2, 0) * a
        return jax.vmap(lambda k: self.net().init(k, jnp.zeros(width)))(jax.random.split(key, n))

    def log_prob(
        self, params: Params, anchor: Array | int, state: Array, actions: Array, avail: Array
    ) -> Array:
        """log mu(a_j | s, a_i, ...) of every agent j under one anchor's own parameters; 0 for j =
        anchor.

        state [M, S], actions [M, N] int, avail [M, N, A] -> [M, N].
        """
        return taken(self.log_probs(params, anchor, state, actions, avail), actions)

    def log_probs(
        self, params: Params, anchor: Array | int, state: Array, actions: Array, avail: Array
    ) -> Array:
        """`log_prob` for all actions of agent j, given the data's actions of the anchor and of the
        teammates before j: [M, N, A].
        """
        n, a = self.spec.num_agents, self.spec.action_size
        rows, one_hot = actions.shape[0], jax.nn.one_hot(actions, a)  # [M, N, A]
        # teammates of each anchor
        table = np.array([[j for j in range(n) if j != i] for i in range(n)])
        mates = jnp.asarray(table)[anchor]  # [n-1], whose actions are predicted
        # slot k holds the k-th teammate's action, if it comes before the predicted teammate
        slots = mates[: n - 2]
        before = (slots[None] < mates[:, None]).astype(jnp.float32)  # [n-1, n-2]
        shown = jnp.take(one_hot, slots, 1)[:, None] * before[None, :, :, None]  # [M, n-1, n-2, A]
        own = jnp.take(one_hot, anchor, 1)
        x = (jnp.eye(n)[mates], state[:, None], own[:, None], shown.reshape(rows, n - 1, -1))
        logits = jnp.where(jnp.take(avail, mates, 1) > 0, self.net().apply(params, x), UNAVAILABLE)
        return jnp.zeros((rows, n, a)).at[:, mates].set(jax.nn.log_softmax(logits))


@dataclasses.dataclass(frozen=True)
class JointVAE:
    """VAE of joint continuous actions given a state [..., width] (after Wu et al., 2022); the
    latent has twice the dimensions of a joint action.
    """

    spec: EnvSpec
    width: int
    hidden: int = 750
    layer_init: LayerInit = "torch"

    @property
    def size(self) -> int:
        """Dimensions of a joint action."""
        return self.spec.num_agents * self.spec.action_size

    def net(self, out: int) -> MLP:
        """Encoder or decoder."""
        return MLP((self.hidden, self.hidden, out), layer_init=self.layer_init)

    def init(self, key: Key) -> Params:
        """Parameters of both nets."""
        encoder_key, decoder_key = jax.random.split(key)
        return {
            "encoder": self.net(4 * self.size).init(encoder_key, jnp.zeros(self.width + self.size)),
            "decoder": self.net(self.size).init(decoder_key, jnp.zeros(self.width + 2 * self.size)),
        }

    def encode(self, params: Params, state: Array, joint: Array) -> tuple[Array, Array]:
        """Mean and log standard deviation [M, L] of the latent, from joint actions [M, N, A]."""
        x = jnp.concatenate([state, joint.reshape(joint.shape[0], -1)], -1)
        mean, log_std = jnp.split(self.net(4 * self.size).apply(params["encoder"], x), 2, -1)
        return mean, jnp.clip(log_std, -4.0, 15.0)

    def decode(self, params: Params, state: Array, latent: Array) -> Array:
        """Joint actions [..., N, A] decoded from latents [..., L]."""
        out = self.net(self.size).apply(params["decoder"], [state, latent])
        out = self.spec.action_bound * jnp.tanh(out)
        return out.reshape(*latent.shape[:-1], self.spec.num_agents, self.spec.action_size)

    def loss(self, params: Params, state: Array, joint: Array, key: Key) -> Array:
        """Squared error, mean over dimensions, plus .5 times the latent's KL divergence from the
        prior, also a mean over dimensions: [M, N, A] -> [M].
        """
        mean, log_std = self.encode(params, state, joint)
        found = self.decode(
            params, state, mean + jnp.exp(log_std) * jax.random.normal(key, mean.shape)
        )
        divergence = -0.5 * (1.0 + 2.0 * log_std - jnp.square(mean) - jnp.exp(2.0 * log_std))
        return jnp.mean(jnp.square(found - joint), (-2, -1)) + KL_WEIGHT * jnp.mean(divergence, -1)

    def log_prob(self, params: Params, state: Array, joint: Array, key: Key) -> Array:
        """log mu_i(a_i | s) of joint actions [M, N, A] -> [M, N], a constant, estimated by
        importance sampling of the latent, which the agents share.
        """
        noise = jax.random.normal(key, (DENSITY_SAMPLES, joint.shape[0], 2 * self.size))
        # All rows at once: the product of few rows with wide weights is slow.
        latent = self.encode(params, state, joint)
        rows = state, joint, *latent, jnp.moveaxis(noise, 0, 1)
        size = 4 * self.hidden * DENSITY_SAMPLES
        return of_each(self._density, params, rows, jnp.ones(joint.shape[0]), size)

    def _density(
        self,
        params: Params,
        state: Array,
        joint: Array,
        mean: Array,
        log_std: Array,
        noise: Array,
    ) -> Array:
        """`log_prob` with the latent's mean and log standard deviation [M, L], and noise [M,
        samples, L].
        """
        mean, log_std = mean[:, None], log_std[:, None]
        latent = mean + jnp.exp(log_std) * noise
        # [M, samples]
        prior_to_posterior = jnp.sum(
            0.5 * jnp.square(noise) + log_std - 0.5 * jnp.square(latent), -1
        )
        found, std = self.decode(params, state[:, None], latent), math.sqrt(KL_WEIGHT / 4.0)
        density = jnp.sum(
            -0.5 * jnp.square((joint[:, None] - found) / std)
            - math.log(std * math.sqrt(2.0 * math.pi)),
            -1,
        )
        return jax.nn.logsumexp(density + prior_to_posterior[..., None], 1) - math.log(
            DENSITY_SAMPLES
        )
