"""Every registered learner, in each of its forms: the table that the common checks go through."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import chex
import distrax
import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from jaxoff.config import static
from jaxoff.logs import Record
from jaxoff.training import TrainSpec, results
from jaxoff.training.checkpoint import Checkpoints
from jaxoff.types import Learner, Out, Policy, Stage

QUICK_ENV = {"JAX_DISABLE_MOST_OPTIMIZATIONS": "1"}


@contextlib.contextmanager
def quick(on: bool = True) -> Iterator[None]:
    """Compile without XLA's optimisations, or with them again."""
    before = jax.config.read("jax_disable_most_optimizations")
    jax.config.update("jax_disable_most_optimizations", on)
    try:
        yield
    finally:
        jax.config.update("jax_disable_most_optimizations", before)


class Form(NamedTuple):
    """A learner with a config.

    trained[k], fixed[k]: parts of the state of stage k that one update must (not) change.
    """

    spec: TrainSpec
    trained: tuple[tuple[Callable[[Any], Any], ...], ...]
    fixed: tuple[Callable[[Any], Any], ...] = ()


def _spec(method: str, task: str, steps: int = 6, **changes: Any) -> TrainSpec:
    spec = TrainSpec(method, task, seeds=(0, 1, 2), steps=steps, evaluations=3, eval_episodes=2)
    return dataclasses.replace(spec, **changes)


_BC = ((lambda s: s.policy,),)
_INSPO = (
    (lambda s: s.policy, lambda s: s.teammates),
    (lambda s: s.own.policy, lambda s: s.own.critic, lambda s: s.own.target_critic),
)
_FROZEN = (lambda s: s.behaviour_policy, lambda s: s.teammates)
_MLP: dict[str, Any] = {"hidden": 16, "batch_size": 8}
_GRU: dict[str, Any] = {"hidden": 16, "batch_size": 4, "window": -1, "recurrent": True}
_WINDOWS: dict[str, Any] = {
    "actor": "recurrent",
    "hidden": (8,),
    "actor_hidden": 8,
    "batch_size": 4,
    "window": 5,
}
_EXACT = ((lambda s: s.actor, lambda s: s.target_actor),)
_LEARNED = (
    (lambda s: s.actor, lambda s: s.critic, lambda s: s.target_actor, lambda s: s.target_critic),
)

_ALL = (
    (lambda s: s.policy, lambda s: s.critic, lambda s: s.target_policy, lambda s: s.target_critic),
)
_VALUES = ((lambda s: s.critic, lambda s: s.mixer),)
_MIX: dict[str, Any] = {"hidden": 16, "batch_size": 8, "embed": 4, "window": 0}
_ICQ = ((lambda s: s.policy, lambda s: s.critic, lambda s: s.mixer),)
_ICQ_SLOW = (lambda s: s.target_critic, lambda s: s.target_mixer)
_CF = ((lambda s: s.policy,), *_VALUES)
_CF_FROZEN = (lambda s: s.behaviour_policy, lambda s: s.target_critic, lambda s: s.target_mixer)
_CFC = (
    lambda s: s.policy,
    lambda s: s.critic,
    lambda s: s.target_policy,
    lambda s: s.target_critic,
)
_SIT: dict[str, Any] = {
    "hidden": 8,
    "critic_hidden": 8,
    "decomposition_hidden": 8,
    "batch_size": 4,
    "decomposition_steps": 2,
}
_SIT_MAIN = (lambda s: s.policy, lambda s: s.critic)
# A number that is added to the keys of all agents cancels in the softmax over them.
_SIT_FIRST = (
    lambda s: [
        x
        for path, x in jax.tree_util.tree_leaves_with_path(s.params)
        if not jax.tree_util.keystr(path).endswith("['agent']['Dense_1']['bias']")
    ],
)
_SIT_FIXED = (lambda s: s.target_critic, lambda s: s.replay)
_GPT: dict[str, Any] = {"hidden": 8, "layers": 1, "batch_size": 4}
_MIXTURE: dict[str, Any] = {"width": 6, "anchors": 3, "support": 16}
_POLY: dict[str, Any] = {"task": "poly/sign/uniform", "data_episodes": 40}

FORMS: dict[str, Form] = {
    "bc": Form(_spec("bc", "matrix/xor/b", config=_MLP), _BC),
    "bc-recurrent": Form(_spec("bc", "grid/bridge/optimal", data_episodes=6, config=_GRU), _BC),
    "bc-continuous": Form(_spec("bc", "poly/sign/uniform", data_episodes=40, config=_MLP), _BC),
    "bc-pjap": Form(_spec("bc", "matrix/xor/c", sampler="pjap", config=_MLP), _BC),
    "bc-pjap-uniform": Form(
        _spec(
            "bc",
            "mpe/spread/random",
            steps=3,
            data_episodes=4,
            sampler="pjap",
            sampler_config={"refresh": 6, "refresh_from": "uniform"},
            config=_MLP | {"window": 5},
        ),
        _BC,
    ),
    "inspo": Form(
        _spec("inspo", "matrix/xor/b", config=_MLP | {"behaviour_steps": 6}), _INSPO, _FROZEN
    ),
    "inspo-recurrent": Form(
        _spec(
            "inspo",
            "grid/bridge/mixed",
            steps=3,
            data_episodes=22,
            config=_GRU | {"behaviour_steps": 2},
        ),
        _INSPO,
        _FROZEN,
    ),
    "inspo-rows": Form(
        _spec(
            "inspo",
            "matrix/xor/b",
            config=_MLP | {"behaviour_steps": 6, "resample": "rows", "auto_alpha": True},
        ),
        _INSPO,
        _FROZEN,
    ),
    "maddpg-exact": Form(
        _spec("maddpg", "poly/sign/uniform", data_episodes=40, config={"batch_size": 8}), _EXACT
    ),
    "maddpg-learned-pjap": Form(
        _spec(
            "maddpg",
            "poly/twin_peaks/uniform",
            data_episodes=40,
            sampler="pjap",
            config={"batch_size": 8, "hidden": (16,), "critic": "learned"},
        ),
        _LEARNED,
    ),
    "maddpg-sequence-pjap": Form(
        _spec(
            "maddpg",
            "mpe/spread/random",
            steps=3,
            data_episodes=4,
            sampler="pjap",
            sampler_config={"refresh": 0, "ramp": 4.0},
            config=_WINDOWS
            | {"share": True, "num_samples": 2, "max_grad_norm": 0.0, "optimiser": "rmsprop"},
        ),
        _LEARNED,
    ),
    "maddpg-independent": Form(
        _spec(
            "maddpg",
            **_POLY,
            config={
                "batch_size": 8,
                "hidden": (8,),
                "actor_hidden": 8,
                "critic": "learned",
                "independent": True,
            },
        ),
        _LEARNED,
    ),
    "facmac": Form(
        _spec(
            "facmac",
            **_POLY,
            config=_MIX | {"critic_hidden": 8, "target_every": 0, "optimiser": "adam"},
        ),
        (
            (
                *_VALUES[0],
                lambda s: s.policy,
                lambda s: s.target_policy,
                lambda s: s.target_critic,
                lambda s: s.target_mixer,
            ),
        ),
    ),
    "facmac-recurrent": Form(
        _spec(
            "facmac",
            "mpe/spread/random",
            steps=3,
            data_episodes=4,
            config=_GRU | {"window": 5, "critic_hidden": 8, "embed": 16, "hyper": 4},
        ),
        ((*_VALUES[0], lambda s: s.policy),),
        (lambda s: s.target_policy, lambda s: s.target_critic, lambda s: s.target_mixer),
    ),
    "qmix": Form(_spec("qmix", "matrix/xor/b", config=_MIX), _VALUES),
    "qmix-recurrent": Form(
        _spec("qmix", "grid/bridge/optimal", steps=3, data_episodes=6, config=_GRU | {"embed": 4}),
        _VALUES,
    ),
    "bcq": Form(
        _spec("bcq", "matrix/xor/b", config=_MIX | {"embed": 16}),
        ((*_VALUES[0], lambda s: s.behaviour_policy),),
    ),
    "bcq-stages": Form(
        _spec("bcq", "matrix/xor/b", config=_MIX | {"behaviour_steps": 6}),
        ((lambda s: s.policy,), *_VALUES),
        (lambda s: s.behaviour_policy,),
    ),
    "bcq-continuous": Form(
        _spec("bcq", **_POLY, config=_MIX | {"critic_hidden": 8, "vae_hidden": 8, "candidates": 3}),
        ((*_VALUES[0], lambda s: s.policy, lambda s: s.behaviour_policy),),
        (
            lambda s: s.target_policy,
            lambda s: s.target_critic,
            lambda s: s.target_mixer,
            lambda s: s.latents,
        ),
    ),
    "macql": Form(
        _spec(
            "macql",
            "grid/bridge/optimal",
            steps=3,
            data_episodes=6,
            config=_MIX | {"batch_size": 4, "window": -1},
        ),
        _VALUES,
    ),
    "icq": Form(_spec("icq", "matrix/xor/b", config=_MIX | {"critic_hidden": 8}), _ICQ, _ICQ_SLOW),
    "icq-recurrent": Form(
        _spec(
            "icq",
            "grid/bridge/optimal",
            steps=3,
            data_episodes=6,
            config=_GRU | {"critic_hidden": 8, "embed": 4},
        ),
        _ICQ,
        _ICQ_SLOW,
    ),
    "icq-continuous": Form(
        _spec("icq", **_POLY, config=_MIX | {"critic_hidden": 8}), _ICQ, _ICQ_SLOW
    ),
    "maicq": Form(
        _spec("maicq", **_POLY, config=_MLP | {"batch_size": 8, "input_norm": "none"}),
        _ALL,
    ),
    "cfcql": Form(
        _spec("cfcql", "matrix/xor/b", config=_MIX | {"hyper": 8, "behaviour_steps": 6}),
        _CF,
        _CF_FROZEN,
    ),
    "cfcql-recurrent": Form(
        _spec(
            "cfcql",
            "grid/bridge/mixed",
            steps=3,
            data_episodes=22,
            config=_GRU | {"behaviour_steps": 2, "embed": 4, "hyper": 8},
        ),
        _CF,
        _CF_FROZEN,
    ),
    "cfcql-continuous": Form(
        _spec(
            "cfcql",
            "mpe/spread/random",
            data_episodes=4,
            config=_MLP
            | {"window": 0}
            | {"behaviour_steps": 6, "vae_hidden": 16, "policy_every": 1, "num_samples": 3},
        ),
        ((lambda s: s.vae,), _CFC),
        (lambda s: s.vae,),
    ),
    "cfcql-samples": Form(
        _spec(
            "cfcql",
            **_POLY,
            config=_MLP
            | {
                "weights": "uniform",
                "policy_every": 1,
                "num_samples": 3,
                "samples": "policy",
                "input_norm": "none",
                "window": -1,
            },
        ),
        (_CFC,),
    ),
    "sit": Form(
        _spec("sit", "grid/bridge/mixed", steps=3, data_episodes=22, config=_SIT | {"members": 2}),
        (_SIT_FIRST, _SIT_MAIN),
        _SIT_FIXED,
    ),
    "sit-continuous": Form(
        _spec(
            "sit",
            "mpe/spread/random",
            steps=3,
            data_episodes=4,
            config=_SIT | {"decomposition": "none"},
        ),
        (_SIT_MAIN,),
        _SIT_FIXED,
    ),
    "alberdice": Form(
        _spec("alberdice", "matrix/xor/b", config=_MLP),
        ((lambda s: s.nets, lambda s: s.behaviour_policy),),
    ),
    "omiga": Form(
        _spec("omiga", "matrix/xor/b", config=_MLP | {"mixer_hidden": 8}),
        (
            (
                lambda s: s.policy,
                lambda s: s.critic,
                lambda s: s.mixer,
                lambda s: s.value,
                lambda s: s.target_critic,
            ),
        ),
    ),
    "omiga-continuous": Form(
        _spec("omiga", **_POLY, config=_MLP | {"mixer_hidden": 8}),
        (
            (
                lambda s: s.policy,
                lambda s: s.critic,
                lambda s: s.mixer,
                lambda s: s.value,
                lambda s: s.target_value,
            ),
        ),
    ),
    "madt": Form(
        _spec(
            "madt",
            "matrix/xor/b",
            config=_GPT | {"window": 0, "weighting": "return", "return_high": 1.0},
        ),
        _BC,
    ),
    "madt-context": Form(
        _spec(
            "madt",
            "grid/bridge/optimal",
            steps=3,
            data_episodes=6,
            config=_GPT | {"window": -1, "mode": "rtg_state_action"},
        ),
        _BC,
    ),
    "yanhui": Form(
        _spec("yanhui", "matrix/xor/b", config=_GPT | _MIXTURE | {"window": 0, "return_high": 1.0}),
        _BC,
    ),
    "yanhui-context": Form(
        _spec(
            "yanhui",
            "grid/bridge/optimal",
            steps=3,
            data_episodes=6,
            config=_GPT | _MIXTURE | {"window": -1, "mode": "state_action"},
        ),
        _BC,
    ),
    "omar": Form(
        _spec("omar", "matrix/xor/b", config=_MLP | {"critic_hidden": 8, "window": 0}),
        ((lambda s: s.policy, lambda s: s.critic),),
        (lambda s: s.target_policy, lambda s: s.target_critic),
    ),
    "omar-recurrent": Form(
        _spec(
            "omar",
            "grid/bridge/optimal",
            steps=3,
            data_episodes=6,
            config=_GRU | {"critic_hidden": 8},
        ),
        ((lambda s: s.policy, lambda s: s.critic),),
        (lambda s: s.target_policy, lambda s: s.target_critic),
    ),
    "omar-continuous": Form(
        _spec("omar", "mpe/spread/random", data_episodes=4, config=_MLP | {"batch_size": 9}), _ALL
    ),
    "omar-centralised": Form(
        _spec(
            "omar",
            **_POLY,
            config=_MLP
            | {
                "centralised": True,
                "search": "cem",
                "samples": "policy",
                "num_samples": 3,
                "window": -1,
                "input_norm": "none",
            },
        ),
        _ALL,
    ),
    "omar-team": Form(
        _spec(
            "omar",
            **_POLY,
            config=_MLP
            | {"shared_team": True, "critic_steps": 2, "batch_size": 9, "input_norm": "none"},
        ),
        _ALL,
    ),
    "cql-continuous": Form(
        _spec(
            "cql",
            **_POLY,
            config=_MLP
            | {
                "own_batches": False,
                "window": -1,
                "input_norm": "none",
                "samples": "policy",
                "num_samples": 3,
            },
        ),
        _ALL,
    ),
    "td3bc": Form(
        _spec(
            "td3bc",
            "mpe/spread/random",
            data_episodes=4,
            config=_MLP | {"batch_size": 9, "input_norm": "dataset"},
        ),
        _ALL,
    ),
}


# A job of the least size, for tests of what a job's folder holds.
JOB = TrainSpec(
    "bc",
    "matrix/xor/c",
    seeds=(0, 1),
    steps=4,
    evaluations=2,
    eval_episodes=2,
    config={"hidden": 16, "batch_size": 8},
)


def state_of(folder: Path) -> dict[str, Any]:
    """The newest checkpoint of a job, as nested dictionaries of arrays [R, ...]."""
    checkpoints = Checkpoints(folder / "checkpoint")
    state = checkpoints.state()
    checkpoints.close()
    return state


def assert_same_results(folder: Path, other: Path) -> None:
    """Two folders have the same rows, results and states, apart from times."""
    one, two = (results.load(each) for each in (folder, other))
    rows = [(each / "metrics.jsonl").read_text().splitlines() for each in (folder, other)]
    assert rows[0] == rows[1]
    chex.assert_trees_all_equal(state_of(folder), state_of(other))
    chex.assert_trees_all_equal(one.history, two.history)
    np.testing.assert_array_equal(one.steps, two.steps)
    np.testing.assert_array_equal(one.returns, two.returns)
    assert [{**run, "wall_s": 0} for run in one.runs] == [{**run, "wall_s": 0} for run in two.runs]


class StopAt:
    """A sink that sends this process SIGTERM when the record of (stage_index, step) arrives, or
    that step within an interval is made.
    """

    def __init__(self, stage_index: int, step: int) -> None:
        self.place = (stage_index, step)
        self.summaries: list[dict[str, Any]] = []

    def start(self, info: dict[str, Any]) -> None:
        """Nothing to prepare."""

    def record(self, rec: Record) -> None:
        """Send the signal at the chosen place."""
        if (rec.stage_index, rec.step) == self.place:
            os.kill(os.getpid(), signal.SIGTERM)

    progress = record

    def finish(self, summary: dict[str, Any]) -> None:
        """Keep what was told."""
        self.summaries.append(summary)


class ToyState(NamedTuple):
    """One parameter that descends (value - 1)^2, and the number of updates."""

    value: Any
    count: Any


@struct.dataclass
class ToyConfig:
    """lr = inf makes the second update NaN (inf * 0 or inf - inf)."""

    lr: float = 0.1
    steps: int = static(6)
    batch_size: int = static(4)
    window: int = static(0)
    bad_from: int = static(0)
    stages: int = static(1)


def toy_policy(probs: Any) -> Policy:
    """Every agent plays `probs` [A]."""

    def distribution(carry: Any, seen: Any) -> Any:
        return carry, distrax.Categorical(probs=jnp.broadcast_to(probs, seen.avail.shape))

    return Policy(lambda shape: (), distribution)


def make_toy(config: ToyConfig, spec: Any) -> Any:
    """A learner of one number, in one or two stages."""

    def init(key: Any) -> ToyState:
        return ToyState(jax.random.normal(key), jnp.zeros((), jnp.int32))

    def update(state: ToyState, batch: Any, key: Any) -> tuple[ToyState, Out]:
        slope = 2 * (state.value - 1) + 0.1 * jax.random.normal(key) + 0.0 * batch.reward.mean()
        # An infinite step is finite until update bad_from, as a run that breaks in the middle of
        # training.
        lr = jnp.where((state.count < config.bad_from) & jnp.isinf(config.lr), 0.1, config.lr)
        return ToyState(state.value - lr * slope, state.count + 1), Out(
            {"loss": jnp.square(state.value - 1) * (1 + 0 * lr)}
        )

    def policy(state: ToyState) -> Policy:
        return toy_policy(jax.nn.softmax(jnp.arange(spec.action_size) * state.value))

    learner = Learner(init, update, policy)
    if config.stages == 1:
        return learner
    return (
        Stage("first", learner, config.steps),
        Stage("second", learner, config.steps, prepare=lambda before, data, key: before),
    )


TOY = SimpleNamespace(__name__="toy", Config=ToyConfig, make=make_toy)
