"""Numbers of the authors' own code, replayed: updates of learners, a target, and steps of worlds.

tests/golden/README.md says how each file was made and laid out. Stored names are those of the
commit that made the files; `RENAMED` says what they are called today, so that a renaming needs a
line here and no new file.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jaxoff.baselines.macql import tree_backup

from jaxoff import registry
from jaxoff.config import config_fields
from jaxoff.envs.mamujoco.mjx import MJXState, make_mamujoco
from jaxoff.envs.mpe import omar
from jaxoff.envs.mpe.physics import ParticleState, advance
from jaxoff.envs.smax.env import make_smax
from jaxoff.types import EnvSpec, Learner, Transition

FOLDER = Path(__file__).parent / "golden"
LEARNERS = (  # noqa: SIM905
    "alberdice alberdice-three-agents bc bcq cfcql-argmax cfcql-continuous "
    "cfcql-continuous-behaviour cfcql-continuous-equal cfcql-softmax-0.5 cfcql-tau0 "
    "cfcql-tau5 cfcql-tau5-behaviour cfcql-two-batches cql-continuous "
    "cql-continuous-policy-samples cql-continuous-team facmac facmac-rmsprop-hard icq "
    "icq-continuous icq-continuous-weights icq-epsilon madt-rtg-state-action "
    "madt-state-action madt-state-only omar-continuous-cem omar-continuous-softmax "
    "omar-continuous-team omar-discrete omar-discrete-padding omiga-continuous "
    "omiga-continuous-clipped omiga-discrete omiga-discrete-clipped "
    "omiga-discrete-two-batches qmix td3bc"
).split()
WORLDS = (  # noqa: SIM905
    "function-tree-backup world-halfcheetah-2x3 world-mpe-spread world-mpe-tag "
    "world-mpe-world world-smax-2s3z world-smax-3m"
).split()
# Stored name -> today's: of methods (by file), fields of Configs (by method), metrics, and the
# first part of a state's path.
RENAMED: dict[str, dict[str, str]] = {
    "method": {"icq-continuous": "maicq", "icq-continuous-weights": "maicq"},
    "config": {"omiga/tau": "polyak"},
    "metric": {},
    "state": {},
}
# The files hold the settings of the other form of a method too, which was one Config with it; of
# these methods, by its name.
OTHER = {"cql": "macql", "icq": "maicq", "maicq": "icq"}
GONE = {"decentralised"}  # settings that chose between what are two methods today

ADDED = ("critic_steps",)  # leaves of states that are younger than the files, and start at zero


def renamed(kind: str, name: str) -> str:
    """Today's name of a stored one."""
    return RENAMED[kind].get(name, name)


def path_of(path: Any) -> str:
    """A leaf's place in a state."""
    return jax.tree_util.keystr(path, simple=True, separator="/")


class Case:
    """A file: JSON fields, and arrays at the precision of the run (float32 may hold float64 numbers
    that fit it).
    """

    def __init__(self, name: str) -> None:
        self.name, self.arrays = name, dict(np.load(FOLDER / f"{name}.npz"))
        self.meta, self.tolerance = self.json("meta"), self.json("tolerance")

    def json(self, name: str) -> Any:
        return json.loads(str(self.arrays[name]))

    def below(self, prefix: str) -> dict[str, np.ndarray]:
        """Arrays whose names begin with the prefix, by the rest of it."""
        return {
            name[len(prefix) :]: x for name, x in self.arrays.items() if name.startswith(prefix)
        }

    def cast(self, arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        real = np.float64 if self.meta["x64"] else np.float32
        return {name: x.astype(real) if x.dtype.kind == "f" else x for name, x in arrays.items()}

    def state(self, prefix: str) -> dict[str, np.ndarray]:
        """Leaves of a state by today's path."""
        found = {}
        for path, x in self.below(prefix).items():
            first, *rest = path.split("/")
            found["/".join([renamed("state", first), *rest])] = x
        return found


def from_lists(cls: type, values: dict[str, Any]) -> Any:
    """JSON has lists where a Config or a spec has tuples."""
    return cls(**{name: tuple(x) if isinstance(x, list) else x for name, x in values.items()})


def learner_of(case: Case) -> Learner:
    """The stage that the file is about."""
    spec, method = (
        from_lists(EnvSpec, case.json("spec")),
        RENAMED["method"].get(case.name, case.meta["method"]),
    )
    module = registry.forms(method)["discrete" if spec.discrete else "continuous"]
    settings = {
        RENAMED["config"].get(f"{method}/{name}", name): x
        for name, x in case.json("config").items()
    }
    known = set(config_fields(module.Config))
    other = {
        field
        for form in registry.forms(OTHER.get(method, method)).values()
        for field in config_fields(form.Config)
    }
    assert set(settings) <= known | other | GONE
    made = module.make(
        from_lists(module.Config, {name: x for name, x in settings.items() if name in known}), spec
    )
    return (
        made
        if isinstance(made, Learner)
        else next(stage.learner for stage in made if stage.name == case.meta["stage"])
    )


def taken(leaves: dict[str, Any], path: str, like: Any) -> Any:
    """A leaf, taken out of the stored ones. An optimiser's vector over all parameters is stored
    layer by layer, in the order of the parameters.
    """
    if path in leaves:
        return leaves.pop(path)
    layers = [name for name in leaves if name.startswith(f"{path}/")]
    lead = like.shape[:-1]
    return np.concatenate([leaves.pop(name).reshape(*lead, -1) for name in layers], -1)


def rebuilt(template: Any, leaves: dict[str, np.ndarray]) -> Any:
    """The state with stored leaves; a model of an earlier stage, which the template lacks, is a
    nested dictionary.
    """
    paths, tree = jax.tree_util.tree_flatten_with_path(template)
    stored = [x if path_of(path) in ADDED else taken(leaves, path_of(path), x) for path, x in paths]
    state = jax.tree.unflatten(tree, stored)
    frozen: dict[str, Any] = {}
    for path, x in leaves.items():
        *heads, last = path.split("/")
        at = frozen
        for head in heads:
            at = at.setdefault(head, {})
        at[last] = x
    return state._replace(**frozen) if frozen else state


def parts(paths: Iterator[str]) -> dict[str, list[str]]:
    """Paths by what a tolerance is stated for: a field of the state, or a part of `nets` and
    `stats`.
    """
    found: dict[str, list[str]] = {}
    for path in paths:
        depth = 2 if path.startswith(("stats", "nets")) else 1
        found.setdefault("/".join(path.split("/")[:depth]), []).append(path)
    return found


def update_errors(case: Case) -> dict[str, float]:
    """The largest relative error of each quantity over the updates of a file."""
    learner, found = learner_of(case), {}
    shapes = jax.eval_shape(learner.init, jax.random.key(0))
    template = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), shapes)
    state = rebuilt(template, case.cast(case.state("state/")))
    update = jax.jit(learner.update)
    for step in range(1, case.meta["updates"] + 1):
        batch = Transition(**case.cast(case.below(f"batch/{step}/") or case.below("batch/")))
        key = case.arrays.get(f"key/{step}", np.zeros(2, np.uint32))
        state, out = update(state, batch, jax.random.wrap_key_data(jnp.asarray(key, jnp.uint32)))
        for name, want in case.below(f"expected/{step}/metrics/").items():
            error = abs(float(out.metrics[renamed("metric", name)]) - float(want)) / max(
                abs(float(want)), 1e-12
            )
            found[f"metrics/{name}"] = max(found.get(f"metrics/{name}", 0.0), error)
        ours = {
            path_of(path): np.asarray(x, np.float64)
            for path, x in jax.tree_util.tree_leaves_with_path(state)
        }
        theirs = case.state(f"expected/{step}/state/")
        for path, x in ours.items():
            if any(name.startswith(f"{path}/") for name in theirs):
                theirs[path] = taken(theirs, path, x)
        for name, paths in parts(iter(theirs)).items():
            for path in paths:
                assert ours[path].shape == theirs[path].shape, path
            largest = max(np.abs(theirs[path]).max() for path in paths)
            error = max(np.abs(ours[path] - theirs[path]).max() for path in paths) / largest
            found[f"state/{name}"] = max(found.get(f"state/{name}", 0.0), float(error))
    return found


def check(found: dict[str, float], tolerance: dict[str, float]) -> None:
    """Every quantity that has a tolerance was compared, and is within it."""
    names = {q: q for q in tolerance}
    names |= {
        q: f"state/{renamed('state', q.split('/')[1])}"
        for q in tolerance
        if q.startswith("state/") and q.count("/") == 1
    }
    assert {names[q] for q in tolerance} == set(found)
    beyond = {
        q: (found[names[q]], bound)
        for q, bound in tolerance.items()
        if not found[names[q]] <= bound
    }
    assert not beyond, beyond


@pytest.mark.parametrize("name", LEARNERS)
def test_updates_are_the_authors(name: str) -> None:
    case = Case(name)
    with jax.enable_x64(case.meta["x64"]):
        check(update_errors(case), case.tolerance)


def test_no_file_is_missing() -> None:
    assert sorted(path.stem for path in FOLDER.glob("*.npz")) == sorted([*LEARNERS, *WORLDS])


# --- worlds: absolute differences -----------------------------------------------------------------


class Errors(dict[str, float]):
    """The largest absolute difference of each quantity."""

    def add(self, name: str, want: Any, got: Any) -> None:
        want, got = np.asarray(want, np.float64), np.asarray(got, np.float64)
        assert want.shape == got.shape, (name, want.shape, got.shape)
        self[name] = max(self.get(name, 0.0), float(np.abs(want - got).max()))


def particle_errors(case: Case) -> Errors:
    """One step from every stored state, and all steps from the start."""
    z, found, kind = case.arrays, Errors(), case.meta["world"].removeprefix("mpe-")
    game: Any = omar.make_spread(3).game if kind == "spread" else omar.Chase(kind)
    see: Callable[..., Any] = lambda s: [*game.observe(s)]
    pay: Callable[..., Any] = (
        game.rewards
        if kind == "spread"
        else lambda s: jnp.stack([game.team_reward(s)] * 3 + [game.prey_reward(s)])
    )
    if kind != "spread":
        see = lambda s: [*game.observe_all(s)[0], game.observe_all(s)[1]]

    def after(state: ParticleState, actions: jax.Array) -> Any:
        state = advance(game.bodies, state, actions)
        return state, see(state), pay(state)

    real, run = lambda name, t: jnp.asarray(z[name][:, t], jnp.float32), jax.jit(jax.vmap(after))
    at = lambda t: ParticleState(
        real("positions", t), real("velocities", t), jnp.full(case.meta["episodes"], t)
    )
    free = at(0)
    for agent, obs in enumerate(jax.vmap(see)(free)):
        found.add("obs at the start", z[f"obs/{agent}"][:, 0], obs)
    for t in range(case.meta["steps"]):
        actions = real("actions", t)
        reached = {"one step": run(at(t), actions), "from the start": run(free, actions)}
        for how, (state, seen, rewards) in reached.items():
            for name in ("positions", "velocities"):
                found.add(f"{name}, {how}", z[name][:, t + 1], getattr(state, name))
            found.add(f"rewards, {how}", z["rewards"][:, t], rewards)
            for agent, obs in enumerate(seen):
                found.add(f"obs, {how}", z[f"obs/{agent}"][:, t + 1], obs)
        free = reached["from the start"][0]
    return found


def robot_errors(case: Case) -> Errors:
    """One step of MuJoCo from every stored state, with both layouts of observations."""
    z, found = case.arrays, Errors()
    for near, layout in ((0, "gymnasium"), (1, "gymnasium-1")):
        env = make_mamujoco("mamujoco/halfcheetah-2x3", layout=layout, physics="c")
        step, still = jax.jit(env.step), jnp.zeros(z["qvel"].shape[1])
        for t in range(case.meta["steps"]):
            start = MJXState(
                jnp.asarray(z["qpos"][t]),
                jnp.asarray(z["qvel"][t]),
                still,
                jnp.zeros((), jnp.int32),
            )
            state, seen = step(jax.random.key(0), start, jnp.asarray(z["actions"][t]))
            found.add("qpos", z["next_qpos"][t], state.qpos)
            found.add("qvel", z["next_qvel"][t], state.qvel)
            found.add("reward", z["rewards"][t].mean(), seen.reward)
            found.add("state", z["next_state"][t], seen.state)
            for agent in range(2):
                want = z[f"next_obs/k{near}/{agent}"][t]
                found.add(f"obs, {layout}", want, np.asarray(seen.obs)[agent, : len(want)])
            assert bool(seen.terminated) == bool(z["terminated"][t])
    return found


UNITS = ("unit_positions", "unit_health", "unit_weapon_cooldowns", "unit_alive", "unit_types")


def battle_errors(case: Case) -> Errors:
    """Whole battles with the stored keys and actions; rewards of ours are ten times JaxMARL's."""
    env, found = make_smax("smax", case.meta["world"].split("/")[1]), Errors()
    step, reset, key = (
        jax.jit(env.step),
        jax.jit(env.reset),
        lambda x: jax.random.wrap_key_data(jnp.asarray(x)),
    )
    for episode in range(case.meta["episodes"]):
        z = case.below(f"{episode}/")
        state, seen = reset(key(z["reset_key"]))
        for t in range(case.meta["lengths"][episode] + 1):
            found.add("obs", z["obs"][t], seen.obs)
            found.add("avail", z["avail"][t], seen.avail)
            for name in UNITS:
                found.add(
                    name,
                    z[name][t].astype(float),
                    np.asarray(getattr(state.state, name)).astype(float),
                )
            if t < case.meta["lengths"][episode]:
                state, seen = step(
                    key(z["keys"][t]), state, jnp.asarray(z["actions"][t], jnp.int32)
                )
                found.add("reward (ours / 10)", z["rewards"][t][0], seen.reward / 10)
                assert bool(seen.terminated) == bool(z["done"][t]), (episode, t)
    return found


def backup_errors(case: Case) -> Errors:
    """n-step targets; they are 0 where a step is padding."""
    found = Errors()
    for number in range(case.meta["cases"]):
        z = case.below(f"{number}/")
        args = [
            jnp.asarray(z[name])
            for name in ("q", "next_value", "match", "reward", "terminated", "valid")
        ]
        targets = tree_backup(*args, case.meta["gamma"], case.meta["trace"], int(z["steps"]))
        found.add("targets", z["expected"], targets * args[-1])
    return found


@pytest.mark.parametrize("name", WORLDS)
def test_worlds_are_the_authors(name: str) -> None:
    kinds = {
        "function": backup_errors,
        "mpe": particle_errors,
        "halfcheetah": robot_errors,
        "smax": battle_errors,
    }
    case = Case(name)
    check(next(errors for word, errors in kinds.items() if word in name)(case), case.tolerance)
