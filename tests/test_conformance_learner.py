"""`check_learner`: a sound method has no faults, and each kind of fault is told in a sentence."""

from __future__ import annotations

import re
from types import SimpleNamespace
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import struct

import jaxoff
from jaxoff import distributions, registry
from jaxoff.cli import main
from jaxoff.config import static
from jaxoff.conformance import check_learner
from jaxoff.names import UnknownName
from jaxoff.types import UNAVAILABLE, Learner, Out, Policy, Stage


@struct.dataclass
class Config:
    """Of a linear model of rewards and actions."""

    lr: float = 0.1
    gamma: float = 0.9
    steps: int = static(4)
    batch_size: int = static(16)
    window: int = static(-1)


class State(NamedTuple):
    """value [O]: of an observation; logits [O, A]."""

    value: jax.Array
    logits: jax.Array


class Linear:
    """A sound learner, whose parts the tests replace."""

    def __init__(self, config, spec):
        self.config, self.spec = config, spec

    def init(self, key):
        shape = self.spec.obs_size, self.spec.action_size
        return State(jnp.zeros(shape[0]), jax.random.normal(key, shape))

    def weight(self, batch):
        return batch.valid

    def beyond(self, batch):
        return 1 - batch.terminated

    def update(self, state, batch, key):
        def loss(state):
            value = batch.obs.mean(-2) @ state.value
            after = jax.lax.stop_gradient(batch.next_obs.mean(-2) @ state.value)
            target = batch.reward + self.config.gamma * self.beyond(batch) * after
            return (jnp.square(value - target) * self.weight(batch)).sum() / len(batch.valid)

        grads = jax.grad(loss)(state)
        state = jax.tree.map(lambda x, g: x - self.config.lr * g, state, grads)
        return state, Out({"loss": loss(state)})

    def logits(self, state, seen):
        return jnp.where(seen.avail > 0, seen.obs @ state.logits, UNAVAILABLE)

    def policy(self, state):
        return Policy(
            lambda shape: (),
            lambda memory, seen: (memory, distributions.categorical(self.logits(state, seen))),
        )

    def learner(self):
        return Learner(self.init, self.update, self.policy)


def method(kind=Linear, config=Config, **own):
    """A method of a learner's class, for discrete actions."""
    made = SimpleNamespace(
        Config=config, ACTIONS=("discrete",), make=lambda c, spec: kind(c, spec).learner()
    )
    vars(made).update(own, __name__="toy")
    return made


def faults(*args, **own):
    return [text for found in check_learner(method(*args, **own)) for text in found.faults]


def test_a_sound_method_keeps_every_fact():
    for config in ({}, {"window": 0}, {"window": 3}):
        (found,) = check_learner(method(), config)
        assert not found.faults and not found.unchecked, found.faults
    staged = method(
        make=lambda c, s: (
            Stage("first", Linear(c, s).learner(), 2),
            Stage("second", Linear(c, s).learner(), 2, lambda state, dataset, key: state),
        )
    )
    assert not check_learner(staged)[0].faults


@pytest.mark.slow
@pytest.mark.parametrize("name", registry.learner_names())
def test_our_own_methods_keep_every_fact(name):
    for found in check_learner(name):
        assert not found.faults, str(found)


def test_behaviour_cloning_keeps_every_fact():
    both = check_learner("bc", {"hidden": "4"})
    assert [found.name for found in both] == ["bc, discrete actions", "bc, continuous actions"]
    assert not any(found.faults for found in both)


@struct.dataclass
class Untyped:
    """A size that is traced, and no number of steps."""

    hidden: int = 8
    batch_size: int = static(4)
    window: int = static(0)


class Grows(Linear):
    def update(self, state, batch, key):
        state, out = super().update(state, batch, key)
        return State(state.value[None], state.logits), out


class Idle(Linear):
    def update(self, state, batch, key):
        return state, Out({})


class Vector(Linear):
    def update(self, state, batch, key):
        state, _ = super().update(state, batch, key)
        return state, Out({"loss": batch.reward})


class Impure(Linear):
    def init(self, key):
        state = super().init(key)
        return State(state.value, jnp.asarray(np.random.default_rng().normal(size=(4, 5))))

    def update(self, state, batch, key):
        state, out = super().update(state, batch, key)
        return State(state.value + np.random.default_rng().normal(), state.logits), out


class Mixed(Linear):
    def update(self, state, batch, key):
        state, out = super().update(state, batch, key)
        scale = jax.pure_callback(
            lambda lr: np.full(np.shape(lr), np.mean(lr), np.float32),
            jax.ShapeDtypeStruct((), np.float32),
            jnp.float32(self.config.lr),
            vmap_method="broadcast_all",
        )
        return State(state.value + scale, state.logits), out


class Padded(Linear):
    def weight(self, batch):
        return jnp.ones_like(batch.valid)


class Beyond(Linear):
    def beyond(self, batch):
        return jnp.ones_like(batch.terminated)


class Free(Linear):
    def logits(self, state, seen):
        return seen.obs @ state.logits


class Joint(Linear):
    def logits(self, state, seen):
        return super().logits(state, seen).sum(-2)


class Swept(Linear):
    def __init__(self, config, spec):
        super().__init__(config, spec)
        self.width = 8 if config.lr > 0.05 else 4  # of a traced number


FAULTS = {
    "none": ({"config": None}, "It raised|expected a class with the decorator"),
    "static": ({"config": Untyped}, r"Config.hidden: expected a float, .* found 8; sizes"),
    "steps": ({"config": Untyped}, r"Config.steps: expected a whole number, .* found None"),
    "make": ({"make": lambda c, s: None}, "make returns NoneType: expected a Learner"),
    "traced": ({"kind": Swept}, "It raised TracerBoolConversionError"),
    "form": ({"kind": Grows}, r"state.value is float32\[4\] before an update and float32\[1, 4\]"),
    "idle": ({"kind": Idle}, "an update changes nothing in the state"),
    "metric": ({"kind": Vector}, r"metric 'loss' has shape \(16, 4\): expected \(\)"),
    "pure": ({"kind": Impure}, "the same update gives another state.value the second time"),
    "runs": (
        {"kind": Mixed},
        r"another state.value beside a different run than",
    ),
    "padding": ({"kind": Padded}, r"what lies in padding \(valid 0\) changes state.value"),
    "terminal": ({"kind": Beyond}, "what follows a terminated step changes state.value"),
    "avail": ({"kind": Free}, "an action that is not available has a probability of up to"),
    "shape": ({"kind": Joint}, r"sample has shape \(\) for observations \(3, 4\): expected \(3,\)"),
}


@pytest.mark.parametrize("name", FAULTS)
def test_each_fault_is_told_in_a_sentence(name):
    own, sentence = FAULTS[name]
    found = faults(**own)
    assert any(re.search(sentence, text) for text in found), found


def test_settings_of_no_form_are_refused():
    with pytest.raises(UnknownName, match="unknown field of toy's Config 'hiden'"):
        check_learner(method(), {"hiden": 4})
    with pytest.raises(UnknownName, match="unknown method 'bd'; nearest: bc"):
        check_learner("bd")


def test_the_command_ends_with_status_2_where_a_fact_does_not_hold(capsys, monkeypatch):
    monkeypatch.setattr(registry, "_METHODS", {})
    jaxoff.register("toy", method())
    main(["check-learner", "toy", "--set", "window=0"])
    assert "toy, discrete actions: keeps the contract" in capsys.readouterr().out
    jaxoff.register("toy", method(Idle))  # a cell that is run again replaces it
    with pytest.raises(SystemExit) as stop:
        main(["check-learner", "toy"])
    assert stop.value.code == 2
    assert "toy, discrete actions: 1 fault" in capsys.readouterr().out
