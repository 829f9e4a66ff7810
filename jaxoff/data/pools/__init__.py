"""Pools: the behaviour policies of one training run, from untrained to best, that make datasets.

A pool is one small file, `pools/<family>/<scenario>.npz`. It holds the actor's parameters of each
member in half precision, how they were trained, and their returns. Returns are those of the policy
that makes data (after rounding to half precision, with sampled actions), from `episodes` episodes
for each member.
"""

from __future__ import annotations

import dataclasses
import functools
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from jaxoff.errors import JaxoffError
from jaxoff.files import replacing
from jaxoff.numpy_file import read_npz
from jaxoff.types import Carry, Distribution, EnvSpec, Params, Policy, TimeStep

if TYPE_CHECKING:
    from jaxoff.nets.actors import Actors
    from jaxoff.types import Array

FOLDER = Path(__file__).parent
LEVELS = ("random", "medium", "expert")
SCHEMA = 1


class InvalidPool(JaxoffError, ValueError):
    """A pool file that is missing, damaged or for another environment; the message names it."""


class Member(NamedTuple):
    """One policy: when in training it was taken, its returns, and its level.

    replay: whether the policy is one of those that make medium-replay data.
    """

    env_steps: int
    return_mean: float
    return_std: float
    win_rate: float | None
    level: str
    replay: bool


@dataclasses.dataclass(frozen=True, eq=False)
class Pool:
    """Policies of one environment. `params` has a leading axis [K] in the order of `members`."""

    name: str  # family/scenario
    net: dict[str, Any]  # hidden, recurrent, units
    noise: float  # standard deviation of the noise on continuous actions, as a share of the bound
    params: Params
    members: tuple[Member, ...]
    random_return: float  # mean return of uniformly random available actions
    cuts: tuple[float, float]  # shares of [random, best] at which medium and expert begin
    episodes: int  # number of episodes with which each return was measured
    made: dict[str, Any]  # command, seed, method, config, commit, versions, hardware

    @property
    def best_return(self) -> float:
        """The largest mean return of any member."""
        return max(member.return_mean for member in self.members)

    def of_level(self, level: str) -> list[int]:
        """Numbers of the members of a level. Raises InvalidPool if there are none."""
        found = [k for k, member in enumerate(self.members) if member.level == level]
        if not found:
            have = sorted({member.level for member in self.members})
            raise InvalidPool(
                f"pool {self.name}: expected members of level '{level}', found only "
                f"{', '.join(have)}"
            )
        return found

    def nearest(self, share: float) -> int:
        """The member whose mean return is nearest to that share of the way from random to best."""
        target = self.random_return + share * (self.best_return - self.random_return)
        return int(np.argmin([abs(member.return_mean - target) for member in self.members]))

    def replay(self) -> list[int]:
        """The members that play medium-replay data, in order of training.

        They stand for the replay buffer of a training run up to the medium level.
        """
        return [k for k, member in enumerate(self.members) if member.replay]


def level_of(mean_return: float, low: float, high: float, cuts: tuple[float, float]) -> str:
    """The level of a return: random below the first cut of [low, high], medium below the second,
    else expert.
    """
    share = (mean_return - low) / (high - low)
    return LEVELS[int(share >= cuts[0]) + int(share >= cuts[1])]


# -------------------------------------------------------------------------------------------- files


def shipped() -> list[str]:
    """Names of the pools that come with the library."""
    return sorted(f"{file.parent.name}/{file.stem}" for file in FOLDER.glob("*/*.npz"))


def path_of(name: str, folder: str | Path | None = None) -> Path:
    """The file of a pool: in `folder` if present, else the shipped one. Raises InvalidPool."""
    if folder is not None and not Path(folder).is_dir():
        raise InvalidPool(f"{folder}: expected a folder of policy pools, found none")
    for base in ([Path(folder)] if folder else []) + [FOLDER]:
        if (base / f"{name}.npz").is_file():
            return base / f"{name}.npz"
    place = f"{folder} nor among " if folder else ""
    raise InvalidPool(
        f"{name}: expected a pool of policies, found none in {place}the shipped ones; "
        f"train one with: jaxoff data pool {name}"
    )


def has(name: str, folder: str | Path | None = None) -> bool:
    """Whether the pool `name` (family/scenario) is in `folder` or comes with the library."""
    try:
        return path_of(name, folder).is_file()
    except InvalidPool:
        return False


def save(path: str | Path, pool: Pool) -> None:
    """Write a pool file, completely or not at all."""
    import jax

    arrays: dict[str, Any] = {
        jax.tree_util.keystr(where): np.asarray(leaf, np.float16)
        for where, leaf in jax.tree_util.tree_leaves_with_path(pool.params)
    }
    meta = {
        field.name: getattr(pool, field.name)
        for field in dataclasses.fields(pool)
        if field.name != "params"
    }
    meta |= {"schema": SCHEMA, "members": [member._asdict() for member in pool.members]}
    with replacing(path) as temporary, temporary.open("wb") as file:
        np.savez_compressed(file, meta=np.array(json.dumps(meta)), **arrays)


@functools.cache
def load(path: Path, spec: EnvSpec) -> Pool:
    """Read and check a pool file for an environment.

    Raises InvalidPool naming file, field, expected and found.
    """
    import jax

    try:
        arrays = read_npz(path)
        meta = json.loads(str(arrays.pop("meta")))
        if meta.pop("schema") != SCHEMA:
            raise InvalidPool(f"{path}: field 'schema': expected {SCHEMA}")
        members = tuple(Member(**member) for member in meta.pop("members"))
        pool = Pool(params=None, members=members, **meta | {"cuts": tuple(meta["cuts"])})
        like = jax.eval_shape(
            lambda: jax.vmap(net_of(pool, spec).init)(
                jax.random.split(jax.random.key(0), len(members))
            )
        )
    except InvalidPool:
        raise
    except Exception as error:
        raise InvalidPool(
            f"{path}: expected a pool file, found a damaged one ({error!r})"
        ) from error
    if pool.name != spec.name:
        raise InvalidPool(f"{path}: field 'name': expected {spec.name}, found {pool.name}")
    leaves = jax.tree_util.tree_leaves_with_path(like)
    wanted = {jax.tree_util.keystr(where): leaf.shape for where, leaf in leaves}
    found = {name: array.shape for name, array in arrays.items()}
    if wanted != found:
        raise InvalidPool(f"{path}: field 'params': expected shapes {wanted}, found {found}")
    for name, array in arrays.items():
        if not np.isfinite(array).all():
            raise InvalidPool(
                f"{path}: field 'params{name}': expected finite numbers, found some that are not"
            )
    params = jax.tree.unflatten(
        jax.tree.structure(like),
        [arrays[jax.tree_util.keystr(where)].astype(np.float32) for where, _ in leaves],
    )
    return dataclasses.replace(pool, params=params)


# ----------------------------------------------------------------------------------------- policies


def net_of(pool: Pool, spec: EnvSpec) -> Actors:
    """The actor network of a pool's members, which all agents share."""
    from jaxoff.nets.actors import Actors

    return Actors(
        spec,
        pool.net["hidden"],
        recurrent=pool.net["recurrent"],
        units=pool.net.get("units", False),
        share=True,
    )


@functools.cache
def mixture(pool: Pool, spec: EnvSpec, use: tuple[int, ...]) -> Policy:
    """The joint policy in which each agent of each episode follows one of the members `use`.

    Its memory is made by `choices`: which member each agent follows, and the memory of every
    member. Each agent keeps its own index and memory, as if the other agents followed the same
    member. Equal arguments return the same object, so that programs compiled for it are used again.
    """
    import jax
    import jax.numpy as jnp

    from jaxoff import distributions

    nets, params = (
        net_of(pool, spec),
        jax.tree.map(lambda x: np.asarray(x)[np.array(use)], pool.params),
    )

    def one(params: Params, memory: Carry, seen: TimeStep) -> tuple[Carry, Array]:
        memory, dist = nets.policy(params).distribution(memory, seen)
        return memory, dist.logits if spec.discrete else dist.mode()

    def distribution(memory: tuple[Array, Carry], seen: TimeStep) -> tuple[Carry, Distribution]:
        choice, memories = memory  # [..., N], [..., K, N, H]
        memories, out = jax.vmap(one, in_axes=(0, -3, None), out_axes=(-3, -3))(
            params, memories, seen
        )
        picked = jnp.take_along_axis(out, choice[..., None, :, None], -3)[..., 0, :, :]
        make = distributions.categorical if spec.discrete else distributions.deterministic
        return (choice, memories), make(picked)

    return Policy(
        lambda shape: choices(pool, spec, np.zeros((*shape, spec.num_agents), np.int32), len(use)),
        distribution,
    )


def choices(pool: Pool, spec: EnvSpec, choice: np.ndarray, count: int) -> tuple[np.ndarray, Carry]:
    """The initial memory of `mixture` for a choice [..., N] among its `count` members."""
    import jax

    empty = net_of(pool, spec).policy(None).initial((*choice.shape[:-1], count))
    return choice.astype(np.int32), jax.tree.map(np.asarray, empty)
