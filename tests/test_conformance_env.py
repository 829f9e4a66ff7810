"""`check_env`: a sound environment has no faults, and each kind of fault is told in a sentence."""

from __future__ import annotations

import dataclasses
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxoff
from jaxoff.cli import main
from jaxoff.conformance import check_env
from jaxoff.types import EnvSpec, TimeStep

SPEC = EnvSpec("walk", 2, 3, 2, 3, True, 4)


class Walk:
    """Two agents on a line; agent 0 has only two of three actions. Ends after four steps, or by its
    rule where both play the last action that they have.
    """

    spec = dataclasses.replace(SPEC, action_sizes=(2, 3), agent_types=(0, 1))

    def reset(self, key):
        place = jax.random.normal(key, (2,))
        return (place, jnp.int32(0)), self.seen(place, 0, jnp.float32(0), jnp.full(2, -1))

    def step(self, key, state, actions):
        place, time = state
        place, time = place + actions - 1 + 0.1 * jax.random.normal(key, (2,)), time + 1
        return (place, time), self.seen(place, time, place.mean(), actions)

    def seen(self, place, time, reward, last):
        terminated = jnp.all(last == np.array([1, 2]))
        return TimeStep(
            obs=jnp.stack([place, place, place], 1),
            state=place,
            avail=jnp.array([[1.0, 1, 0], [1, 1, 1]]),
            reward=reward,
            terminated=terminated,
            truncated=(time >= 4) & ~terminated,
            last_actions=last,
        )


class Broken(Walk):
    """A walk whose time steps are changed by a function of them and of the time."""

    def __init__(self, change, spec=Walk.spec):
        self.change, self.spec = change, spec

    def seen(self, place, time, reward, last):
        return self.change(super().seen(place, time, reward, last), time)


class Forgets(Walk):
    """The state after a step lacks the time."""

    def step(self, key, state, actions):
        (place, _), seen = super().step(key, state, actions)
        return (place,), seen


class Resets(Walk):
    """Begins a new episode at an end, as JaxMARL's `step` does."""

    def step(self, key, state, actions):
        state, seen = super().step(key, state, actions)
        new, first = self.reset(key)
        over = seen.terminated | seen.truncated
        pick = lambda a, b: jax.tree.map(lambda x, y: jnp.where(over, x, y), a, b)
        return pick(new, state), seen._replace(obs=pick(first.obs, seen.obs))


class Impure(Walk):
    """Keeps something between calls."""

    calls = 0

    def step(self, key, state, actions):
        self.calls += 1
        state, seen = super().step(key, state, actions)
        return state, seen._replace(reward=seen.reward + self.calls)


class Shares(Walk):
    """The reward of an environment depends on its neighbours under vmap."""

    def step(self, key, state, actions):
        state, seen = super().step(key, state, actions)

        @jax.custom_batching.custom_vmap
        def mean(x):
            return x

        @mean.def_vmap
        def rule(size, batched, x):
            return jnp.broadcast_to(x.mean(), x.shape), True

        return state, seen._replace(reward=mean(seen.reward))


def change(**fields):
    """Time steps with other fields, which are functions of the time step and the time."""
    return Broken(lambda seen, t: seen._replace(**{k: f(seen, t) for k, f in fields.items()}))


def spec(**fields):
    return Broken(lambda seen, t: seen, dataclasses.replace(Walk.spec, **fields))


def test_a_sound_environment_keeps_every_fact():
    found = check_env(Walk())
    assert not found.faults and not found.remarks and not found.unchecked
    assert str(found).endswith("walk: keeps the contract")


FAULTS = {
    "no spec": (object(), "env.spec: expected an EnvSpec, found NoneType"),
    "horizon": (spec(horizon=0), "spec.horizon: expected a whole number of at least 1, found 0"),
    "list": (spec(agent_types=[0, 1]), "spec: expected values that can be hashed"),
    "sizes": (spec(action_sizes=(2, 2)), "spec.action_sizes: expected a largest of 3"),
    "types": (spec(agent_types=(0,)), r"spec.agent_types: expected 2 numbers, one per agent"),
    "obs": (spec(obs_size=4), r"After a reset obs is float32\[2, 3\]: expected float32\[2, 4\]"),
    "dtype": (
        change(terminated=lambda s, t: jnp.float32(s.terminated)),
        r"After a reset terminated is float32\[\]: expected bool\[\]",
    ),
    "reward": (change(reward=lambda s, t: s.reward + 1), "After a reset the reward is not 0"),
    "first": (
        change(last_actions=lambda s, t: jnp.maximum(s.last_actions, 0)),
        "After a reset last_actions is .*: expected -1",
    ),
    "ended": (change(truncated=lambda s, t: s.obs.sum() == s.obs.sum()), "an end flag is set"),
    "state": (Forgets(), "A step gives a state of another structure"),
    "both": (
        change(
            truncated=lambda s, t: jnp.asarray(t >= 4), terminated=lambda s, t: jnp.asarray(t >= 4)
        ),
        "steps both end flags are set",
    ),
    "endless": (
        change(truncated=lambda s, t: jnp.asarray(t >= 5) & ~s.terminated),
        "of random play do not end within spec.horizon = 4 steps",
    ),
    "early": (
        change(truncated=lambda s, t: jnp.asarray(t >= 3) & ~s.terminated),
        r"The time limit \(truncated\) ends an episode after 3 steps: expected spec.horizon = 4",
    ),
    "auto-reset": (Resets(), "the clock starts again, and ends another episode 4 steps later"),
    "nan": (change(state=lambda s, t: s.state / (t - 2.0)), "state has numbers that are not"),
    "masks": (change(avail=lambda s, t: s.avail * 0.5), "avail has numbers other than 0 and 1"),
    "none": (change(avail=lambda s, t: s.avail * (t != 1)), "an agent has no available action"),
    "mean": (
        change(agent_reward=lambda s, t: jnp.stack([s.reward, s.reward + 1.0 * (t > 0)])),
        "reward differs from the mean of agent_reward by 0.5",
    ),
    "padding": (change(avail=lambda s, t: jnp.ones((2, 3))), "avail is not 0 beyond the true"),
    "impure": (Impure(), "The same key gives another reward the second time"),
    "shared": (Shares(), "gives another reward than alone"),
    "raises": (change(obs=lambda s, t: s.obs @ s.obs), "It raised TypeError"),
}


@pytest.mark.parametrize("name", FAULTS)
def test_each_fault_is_told_in_a_sentence(name):
    env, sentence = FAULTS[name]
    found = check_env(env)

    assert any(re.search(sentence, text) for text in found.faults), found.faults
    assert "FAULT" in str(found)


def test_a_clock_that_says_terminated_is_a_remark():
    env = Broken(
        lambda seen, t: seen._replace(
            terminated=seen.terminated | (jnp.asarray(t) >= 4), truncated=jnp.zeros((), bool)
        )
    )
    found = check_env(env)
    assert not found.faults and "If that is the time limit, say truncated" in found.remarks[0]


def test_the_command_ends_with_status_2_where_a_fact_does_not_hold(capsys, monkeypatch):
    from jaxoff import registry
    from jaxoff.data import parts

    monkeypatch.setattr(registry, "_FAMILIES", {})
    monkeypatch.setattr(parts, "_OWN", {})
    jaxoff.register("own/walk", Walk())
    main(["check-env", "own/walk/random"])
    assert capsys.readouterr().out.rstrip().endswith("own/walk/random: keeps the contract")
    jaxoff.register("own/walk", lambda: Resets())
    with pytest.raises(SystemExit) as stop:
        main(["check-env", "own/walk/random"])
    assert stop.value.code == 2
    assert "the clock starts again" in " ".join(capsys.readouterr().out.split())
    with pytest.raises(SystemExit) as stop:
        main(["check-env", "own/wlak/random"])
    assert stop.value.code == 2 and "nearest: own/walk/random" in capsys.readouterr().err
