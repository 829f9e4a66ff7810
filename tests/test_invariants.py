"""Facts that hold for every learner in each of its forms: what an update trains, padding,
unavailable actions, ends of episodes, slow nets.

Every form of `tests/learners.py` learns from the same six short episodes. A form of several stages
is checked in each of them. All checks of a stage run one compiled update. Where a fact does not
hold for a form, a table here says why.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxoff import registry
from jaxoff.data.dataset import Dataset, place
from jaxoff.training.spec import Job, resolve
from jaxoff.types import EnvSpec, Transition
from tests import toys
from tests.learners import FORMS

KEY = jax.random.key(3)
LENGTHS, ENDED, STEPS = (4, 2, 3, 1, 4, 3), (0, 2, 4), 6  # windows are longer than any episode
# Of discrete actions the last is never available, nor taken. Nothing else has the size A, so that
# an axis of that size is one of actions.
A, NEVER = 5, 4
POLYAK = 0.25

# Settings that differ from the table's: nets that a window would change, and how the clock ends an
# episode, so that each way of it is met.
CHANGES: dict[str, dict[str, Any]] = {
    "maddpg-learned-pjap": {"actor": "mlp"},
    "maddpg-independent": {"actor": "mlp"},
    "cfcql-samples": {"truncated_ends": True},
    "omar-centralised": {"truncated_ends": True},
    "omar-team": {"truncated_ends": True},
    "icq-recurrent": {"truncation": "terminal"},
    "sit-continuous": {"truncation": "skip"},
}
# Forms whose updates read the slot after the last step of an episode, where padding begins.
UNROLLED = "a GRU is unrolled over it, as over the next slot of the last step"
SLOT_AFTER = dict.fromkeys(
    [f"{name}-recurrent" for name in ("cfcql", "facmac", "inspo", "omar", "qmix")]
    + ["maddpg-sequence-pjap"],
    UNROLLED,
)
# Forms whose conservative term samples the policy at the next observation. That is no bootstrap, so
# terminal steps have it too, and the term is left out where ends are checked.
SAMPLES_NEXT = ("maddpg-sequence-pjap", "omar-centralised", "cql-continuous")
# What a step at which the clock ended the episode is to a form, where it does not bootstrap.
NO_VALUE = "no value of a next step is part of the losses"
ENDS = "the setting says that the clock's end is terminal"
NO_TARGET = "the data have no next action, so that the step is no target"
AT_THE_CLOCK = {
    **{name: NO_VALUE for name in FORMS if name.split("-")[0] in ("bc", "madt", "yanhui")},
    "maddpg-exact": NO_VALUE,
    **dict.fromkeys(("cfcql-samples", "omar-centralised", "omar-team", "icq-recurrent"), ENDS),
    "sit": ENDS,  # its default
    **dict.fromkeys(("icq", "icq-continuous", "maicq", "sit-continuous"), NO_TARGET),
}
# Forms whose weights move without a gradient, so that those of an unavailable action do.
DECAY = "AdamW makes the weights of every linear map smaller"
DECAYS = {name: DECAY for name in FORMS if name.split("-")[0] in ("madt", "yanhui")}
# Forms whose slow nets are checked nowhere.
NO_SLOW_NETS = {"maddpg-exact": "the slow policy is the policy, since nothing bootstraps"}


class Case(NamedTuple):
    """A stage of a form: what it starts from, and its compiled update."""

    config: Any
    spec: EnvSpec
    before: Any
    update: Callable[..., Any]  # (state after, metrics, how the policy before plays NEVER)
    batch: Transition
    last: bool  # whether the form ends with this stage


@functools.cache
def data_of(discrete: bool) -> tuple[EnvSpec, Dataset, Transition]:
    """The six episodes, placed, and as windows."""
    spec = toys.spec_of(discrete, obs_size=4, state_size=4, action_size=A, horizon=STEPS)
    episodes = toys.episodes_of(spec, LENGTHS, ENDED, steps=STEPS)
    if discrete:
        episodes = episodes._replace(
            avail=np.where(np.arange(A) == NEVER, 0.0, episodes.avail),
            actions=np.where(episodes.actions == NEVER, 0, episodes.actions),
        )
    return spec, place(episodes, spec), toys.single(toys.windows_of(episodes))


def compiled(job: Job, number: int, config: Any, spec: EnvSpec, plays: bool) -> Callable[..., Any]:
    """update(state, batch, **numbers of the config) of a stage, with a fixed key."""

    @jax.jit
    def update(config: Any, state: Any, batch: Transition) -> Any:
        learner = job.stages(config, spec)[number].learner
        after, out = learner.update(state, batch, KEY)
        never: Any = ()
        if plays and spec.discrete:
            policy, avail = learner.policy(state), batch.avail[:, 0]
            now = toys.seen(spec, batch.obs[:, 0], avail=avail)
            dist = policy.distribution(policy.initial(avail.shape[:1]), now)[1]
            never = dist.prob(jnp.full(avail.shape[:-1], NEVER)), dist.mode() == NEVER
        return after, out.metrics, never

    # The results are NumPy arrays, which need no program for what the checks do with them.
    return lambda state, batch, **numbers: jax.device_get(
        update(config.replace(**{k: jnp.float32(x) for k, x in numbers.items()}), state, batch)
    )


@functools.cache
def cases(name: str) -> list[Case]:
    """The stages of a form, each from where an update of the stage before it left."""
    job = resolve(FORMS[name].spec)
    spec, dataset, batch = data_of(registry.make_spec(FORMS[name].spec.task).discrete)
    if name == "maddpg-exact":
        spec = dataclasses.replace(spec, payoff=lambda actions: jnp.prod(actions, (-2, -1)))
    changes = {"window": -1, "batch_size": len(LENGTHS)} | CHANGES.get(name, {})
    config = jax.tree.map(lambda x: x[0], job.config).replace(**changes)
    if hasattr(config, "polyak"):
        config = config.replace(polyak=jnp.float32(POLYAK))
    found: list[Case] = []
    state: Any = ()
    for number, stage in enumerate(stages := job.stages(config, spec)):
        last = number == len(stages) - 1
        start = stage.prepare or (lambda state, dataset, key, stage=stage: stage.learner.init(key))
        before = jax.device_get(jax.jit(start)(state, dataset, KEY))
        # SIT draws trajectories of single agents.
        own = {
            "agent": np.tile(np.arange(6)[:, None] % 3, (1, STEPS)),
            "weight": batch.agent_reward**2,
        }
        rows = batch._replace(**own) if name.startswith("sit") and last else batch
        update = compiled(job, number, config, spec, last)
        found.append(Case(config, spec, before, update, rows, last))
        state = update(before, rows)[0]
    return found


every_form = pytest.mark.parametrize("name", FORMS)


@every_form
def test_an_update_trains_what_it_should_and_nothing_else(name):
    form = FORMS[name]
    assert len(cases(name)) == len(form.trained)
    for case, trained in zip(cases(name), form.trained, strict=True):
        before, (after, *_) = case.before, case.update(case.before, case.batch)
        chex.assert_trees_all_equal_shapes_and_dtypes(before, after)
        chex.assert_tree_all_finite(after)
        for part in trained:
            moved = jax.tree.map(
                lambda old, new: bool((np.asarray(old) != new).any()), part(before), part(after)
            )
            assert jax.tree.leaves(moved) and all(jax.tree.leaves(moved)), moved
    for part in form.fixed:
        chex.assert_trees_all_equal(part(before), part(after))


# ------------------------------------------------------------------------------------------ padding


def wide(where: np.ndarray, x: Any) -> np.ndarray:
    """A mask [B, T] for a field [B, T, ...]."""
    return where.reshape(*where.shape, *[1] * (x.ndim - 2))


def put(x: Any, where: np.ndarray, value: float) -> Any:
    """A field [B, T, ...] with another value where [B, T] says so."""
    return np.where(wide(where, x), x.dtype.type(value), x)


def spoiled(batch: Transition, slot_after: bool, avail: float) -> Transition:
    """The batch with nonsense on padding; slot_after: but in the slot after the last step."""
    now = np.asarray(batch.valid == 0)  # there is no step here
    slot = now & ~np.roll(~now, 1, 1) if slot_after else now
    steps = {
        "actions": NEVER,
        "reward": 1e6,
        "agent_reward": -1e6,
        "weight": 1e6,
        "terminated": 1,
        "truncated": 1,
        "next_obs": -1e3,
        "next_state": 1e3,
        "next_avail": avail,
    }
    slots = {"obs": 1e3, "state": -1e3, "avail": avail, "last_actions": 1}
    noise = [(name, now, x) for name, x in steps.items()]
    noise += [(name, slot, x) for name, x in slots.items()]
    return batch._replace(
        **{k: put(getattr(batch, k), *x) for k, *x in noise if getattr(batch, k) is not None}
    )


@every_form
def test_padding_never_changes_an_update(name):
    for case in cases(name):
        clean = case.update(case.before, case.batch)[:2]
        for avail in (0.0, 1.0):  # no action, or every action, is available there
            noise = spoiled(case.batch, name in SLOT_AFTER, avail)
            chex.assert_trees_all_equal(case.update(case.before, noise)[:2], clean)
    if name in SLOT_AFTER:  # the table says no more than is so
        obs = np.where(
            wide(case.batch.valid == 0, case.batch.obs), -9 * case.batch.obs, case.batch.obs
        )
        assert not equal(case.update(case.before, case.batch._replace(obs=obs))[0], clean[0])


# ------------------------------------------------------------------------------ unavailable actions


def is_net(path: Any) -> bool:
    """Whether a leaf of a state is a number of a net, and not of its optimiser."""
    return "opt" not in jax.tree_util.keystr(path)


def raised(state: Any) -> Any:
    """The state with all that its nets say of the action NEVER raised by a million."""

    def up(path: Any, x: Any) -> Any:
        at = np.zeros(x.shape, bool)
        for axis in np.flatnonzero(np.array(x.shape) == A):
            at |= np.expand_dims(np.arange(A) == NEVER, [k for k in range(x.ndim) if k != axis])
        return np.where(at, x + 1e6, x) if is_net(path) and at.any() else x

    return jax.tree_util.tree_map_with_path(up, state)


def others(tree: Any) -> Any:
    """Every leaf without what is of the action NEVER."""

    def cut(x: Any) -> Any:
        for axis in np.flatnonzero(np.array(x.shape) == A):
            x = np.delete(x, NEVER, axis)
        return np.asarray(x)

    return jax.tree.map(cut, tree)


def of_never(state: Any) -> list[np.ndarray]:
    """What the nets of a state say of the action NEVER."""
    leaves = [x for path, x in jax.tree_util.tree_leaves_with_path(state) if is_net(path)]
    axes = [(x, np.flatnonzero(np.array(x.shape) == A)) for x in leaves]
    return [np.take(x, NEVER, found[0]) for x, found in axes if len(found)]


@pytest.mark.parametrize(
    "name", [n for n in FORMS if registry.make_spec(FORMS[n].spec.task).discrete]
)
def test_an_unavailable_action_is_never_chosen_and_its_value_never_matters(name):
    for case in cases(name):
        high = raised(case.before)
        (after, metrics, _), (again, told, never) = (
            case.update(state, case.batch) for state in (case.before, high)
        )
        if case.last:
            assert not np.any(never[0]) and not np.any(never[1])
            assert (toys.flat(high) != toys.flat(case.before)).any()
        # Nothing else differs, and what is said of it is not trained.
        chex.assert_trees_all_equal(others((again, told)), others((after, metrics)))
        if name not in DECAYS:
            for old, new in ((case.before, after), (high, again)):
                chex.assert_trees_all_close(of_never(new), of_never(old), rtol=1e-6)


# --------------------------------------------------------------------------------- ends of episodes


def first_steps(batch: Transition, terminated: float, truncated: float) -> Transition:
    """Episodes of one step each, which ends as is said."""
    first = np.broadcast_to(np.float32(np.arange(STEPS) == 0), batch.valid.shape)
    return batch._replace(valid=first, terminated=first * terminated, truncated=first * truncated)


def with_other_next(batch: Transition, terminal: bool) -> Transition:
    """The same first steps, and something else after them."""
    later, rng = np.broadcast_to(np.arange(STEPS) > 0, batch.valid.shape), np.random.default_rng(1)
    noise = lambda x: rng.normal(size=x.shape).astype(np.float32)
    changes = {name: noise(getattr(batch, name)) for name in ("next_obs", "next_state")}
    for name in ("obs", "state", "reward", "agent_reward"):
        x = getattr(batch, name)
        changes[name] = np.where(wide(later, x), noise(x), x)
    other = 1 - np.minimum(batch.actions, 1) if batch.actions.ndim == 3 else -batch.actions
    changes["actions"] = np.where(wide(later, other), other, batch.actions)
    if terminal:  # of a terminal slot no action need be available
        changes |= {"next_avail": 0 * batch.next_avail, "avail": put(batch.avail, later, 0.0)}
    return batch._replace(**changes)


def equal(one: Any, other: Any) -> bool:
    """Whether two states are the same, bit for bit."""
    return bool((toys.flat(one) == toys.flat(other)).all())


@every_form
def test_terminated_cuts_the_bootstrap_and_truncated_does_not(name):
    for case in cases(name):
        # Stages before the last one fit a model of the data.
        kind = AT_THE_CLOCK.get(name) if case.last else NO_VALUE
        numbers = {"cql": 0.0} if name in SAMPLES_NEXT else {}
        run = functools.partial(case.update, case.before, **numbers)
        step = lambda batch, run=run: run(batch)[0]
        terminal, cut, neither = (
            first_steps(case.batch, *ends) for ends in ((1.0, 0.0), (0.0, 1.0), (0.0, 0.0))
        )
        assert equal(step(with_other_next(terminal, True)), step(terminal))
        # Where the clock ended the episode the next slot counts, unless the table says otherwise.
        assert equal(step(with_other_next(cut, False)), step(cut)) == (kind is not None)
        if kind != ENDS:  # the clock is no part of a loss
            assert equal(step(neither), step(cut))
        assert equal(step(terminal), step(cut)) == (kind in (NO_VALUE, ENDS))


# ---------------------------------------------------------------------------------------- slow nets


def slow_nets(state: Any) -> dict[str, tuple[Any, Any]]:
    """Each slow net with the net that it follows; InSPO has them in the part of each agent."""
    owner = getattr(state, "own", state)
    return {
        name: (getattr(owner, name), getattr(owner, name.removeprefix("target_")))
        for name in getattr(owner, "_fields", ())
        if name.startswith("target_")
    }


def with_slow_nets(state: Any, shift: float) -> Any:
    """The state with its slow nets moved away from the nets that they follow."""
    owner = getattr(state, "own", state)
    moved = {
        name: jax.tree.map(lambda x: x + np.float32(shift), slow)
        for name, (slow, _) in slow_nets(state).items()
    }
    owner = owner._replace(**moved)
    return state._replace(own=owner) if hasattr(state, "own") else owner


@pytest.mark.parametrize("name", [n for n in FORMS if n not in NO_SLOW_NETS])
def test_slow_nets_start_as_copies_and_move_as_the_settings_say(name):
    case = cases(name)[-1]
    every = getattr(case.config, "target_every", 0)
    assert bool(slow_nets(case.before)) == (every > 0 or hasattr(case.config, "polyak"))
    for slow, net in slow_nets(case.before).values():
        chex.assert_trees_all_equal(slow, net)
    before = with_slow_nets(case.before, 0.1)
    if every:
        counter = "critic_steps" if hasattr(before, "critic_steps") else "updates"
        for made, copied in ((every - 2, False), (every - 1, True)):
            start = before._replace(**{counter: jnp.int32(made)})
            after = case.update(start, case.batch)[0]
            for key, (slow, net) in slow_nets(after).items():
                assert not equal(net, slow_nets(before)[key][1])
                chex.assert_trees_all_equal(slow, net if copied else slow_nets(before)[key][0])
        return
    after = case.update(before, case.batch)[0]
    for key, (slow, net) in slow_nets(after).items():
        old, start = slow_nets(before)[key]
        assert not equal(net, start)
        wanted = jax.tree.map(lambda x, y: (1 - POLYAK) * x + POLYAK * y, old, net)
        chex.assert_trees_all_close(slow, wanted, rtol=1e-5, atol=1e-6)
