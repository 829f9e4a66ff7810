"""Datasets from datasets: join several, take a part of one, or split one in two.

Public data contain copies of the same episode (CFCQL's about eight of each), so parts are drawn by
unique episode: a part has all copies of an episode or none, and a method that is trained on one
part is never tested on a copy of its training data. Every function takes and returns NumPy
`Episodes`, keeps the order of episodes, and leaves its input unchanged.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from jaxoff.config import check_number
from jaxoff.data.episodes import concatenate, lengths_of, take, trim
from jaxoff.errors import InvalidEpisodes, InvalidSetting
from jaxoff.names import UNKNOWN
from jaxoff.types import EnvSpec, Episodes, ReturnScale

PER_AGENT = ("obs_sizes", "action_sizes", "agent_types")  # fields of a specification
_SLOTS = ("obs", "state", "avail")  # fields with a slot after the last step
_KINDS = {"i": "discrete", "u": "discrete", "f": "continuous"}  # kind of dtype -> kind of actions


def combine(parts: Sequence[Episodes], names: Sequence[str] = ()) -> Episodes:
    """Concatenate datasets of one environment, padded to the longest episode.

    names: names of the parts for error messages. Where only some parts have individual rewards, the
    team reward stands for them in the other parts (a dataset whose agents always get the same
    reward is stored without individual rewards). Raises InvalidSetting naming the field in which a
    part differs from the first.
    """
    if not parts:
        raise InvalidSetting("combine: expected at least one dataset, found none")
    names = names or [f"part {k + 1}" for k in range(len(parts))]
    first = _form(parts[0])
    for name, part in zip(names, parts, strict=True):
        for field, found in _form(part).items():
            if found != first[field]:
                raise InvalidSetting(
                    f"combine: field '{field}': expected {first[field]} as in {names[0]}, "
                    f"found {found} in {name}"
                )
    if any(part.agent_reward is not None for part in parts):
        parts = [
            part if part.agent_reward is not None else _with_agent_reward(part) for part in parts
        ]
    return concatenate(parts)


def _form(episodes: Episodes) -> dict[str, Any]:
    """The properties that must be equal in datasets that are joined."""
    kind = _KINDS.get(np.asarray(episodes.actions).dtype.kind, "unknown")
    sizes = {name: tuple(getattr(episodes, name).shape[2:]) for name in (*_SLOTS, "actions")}
    return {
        "num_agents": episodes.behaviour_level.shape[1],
        "actions": f"{kind} of shape {sizes.pop('actions')}",
        **sizes,
    }


def _with_agent_reward(episodes: Episodes) -> Episodes:
    reward = np.asarray(episodes.reward)[..., None]
    return episodes._replace(agent_reward=np.repeat(reward, episodes.behaviour_level.shape[1], -1))


def subsample(
    data: Episodes, seed: int, episodes: int | None = None, steps: int | None = None
) -> Episodes:
    """A random part of a dataset, with at most `episodes` episodes or `steps` steps.

    Unique episodes are taken in random order, with all their copies, until the next one would
    exceed the limit. A number of episodes is met exactly if every episode is unique. Raises
    InvalidSetting where not even the first episode fits.
    """
    check_part(seed, episodes, steps)
    lengths = lengths_of(data)
    field, limit, weights = (
        ("steps", steps, lengths)
        if episodes is None
        else ("episodes", episodes, np.ones_like(lengths))
    )
    if limit is None or limit > weights.sum():
        raise InvalidSetting(
            f"subsample: field '{field}': expected 1..{weights.sum()}, found {limit}"
        )
    groups = unique_groups(data)
    sizes = np.bincount(groups, weights).astype(int)
    order = np.random.default_rng(seed).permutation(len(sizes))
    kept = order[np.cumsum(sizes[order]) <= limit]
    if len(kept) == 0:
        raise InvalidSetting(
            f"subsample: field '{field}': expected at least {sizes[order[0]]}, which the "
            "episode that was drawn first and its "
            f"copies have, found {limit}; {len(sizes)} of {len(lengths)} episodes are unique"
        )
    return _part(data, np.isin(groups, kept))


def check_part(seed: int, episodes: int | None, steps: int | None) -> None:
    """Raise InvalidSetting for arguments of `subsample` that are wrong for every dataset."""
    check_number("seed", seed)
    if (episodes is None) == (steps is None):
        raise InvalidSetting("subsample: expected either episodes or steps, found both or none")
    field, limit = ("steps", steps) if episodes is None else ("episodes", episodes)
    if limit is not None and limit < 1:
        raise InvalidSetting(f"subsample: field '{field}': expected at least 1, found {limit}")


def split(episodes: Episodes, share: float, seed: int) -> tuple[Episodes, Episodes]:
    """Split a dataset in two parts, the first with about `share` of the episodes.

    The share is met as nearly as whole groups of copies allow, and both parts have at least one
    episode. Raises InvalidSetting for a share outside (0, 1), or fewer than two unique episodes.
    """
    check_split(share, seed)
    groups = unique_groups(episodes)
    sizes = np.bincount(groups)
    if len(sizes) < 2:
        raise InvalidSetting(f"split: expected at least two unique episodes, found {len(sizes)}")
    order = np.random.default_rng(seed).permutation(len(sizes))
    cumulative = np.cumsum(sizes[order])[:-1]
    count = int(np.argmin(np.abs(cumulative - share * len(groups)))) + 1
    first = np.isin(groups, order[:count])
    return _part(episodes, first), _part(episodes, ~first)


def check_split(share: float, seed: int) -> None:
    """Raise InvalidSetting for arguments of `split` that are wrong for every dataset."""
    check_number("seed", seed)
    if not 0 < share < 1:
        raise InvalidSetting(
            f"split: field 'share': expected a number between 0 and 1, found {share}"
        )


def _part(episodes: Episodes, mask: np.ndarray) -> Episodes:
    return trim(take(episodes, np.flatnonzero(mask)))


def unique_groups(episodes: Episodes) -> np.ndarray:
    """The number of each episode's group of copies, [E] int.

    Groups are numbered in the order in which they first appear. Two episodes are copies if every
    field has the same bytes in their real steps; padding and behaviour levels, which no learner
    sees, are not compared.
    """
    fields = {
        name: np.asarray(value)
        for name, value in episodes._asdict().items()
        if value is not None and name != "behaviour_level"
    }
    groups: dict[bytes, int] = {}
    found = []
    for episode, length in enumerate(lengths_of(episodes)):
        sums = hashlib.blake2b(int(length).to_bytes(8, "little"), digest_size=16)
        for name, value in fields.items():
            sums.update(value[episode, : length + (name in _SLOTS)].tobytes())
        found.append(groups.setdefault(sums.digest(), len(groups)))
    return np.array(found)


def digest(episodes: Episodes) -> str:
    """SHA-256 of all fields with their padding, as a training job records it in `config.json`."""
    sums = hashlib.sha256()
    for field in episodes:
        if field is not None:
            for start in range(0, len(field), 256):  # in parts, as a copy of all may be too large
                sums.update(field[start : start + 256].tobytes())
    return sums.hexdigest()


def spec_of(episodes: Episodes, metadata: dict[str, Any]) -> EnvSpec:
    """The specification of a dataset on disk: sizes from its arrays, the rest from its metadata.

    A vault of another writer records no environment and no horizon: the environment is then called
    "unknown", and the horizon is the length of the longest episode. Raises InvalidEpisodes for
    actions that are no numbers.
    """
    kind = np.asarray(episodes.actions).dtype
    if kind.kind not in _KINDS:
        raise InvalidEpisodes(
            f"field 'actions': expected indices or real numbers, found {kind.name}"
        )
    return EnvSpec(
        name=metadata.get("env", UNKNOWN),
        num_agents=episodes.obs.shape[2],
        obs_size=episodes.obs.shape[3],
        state_size=episodes.state.shape[2],
        action_size=episodes.avail.shape[3],
        discrete=_KINDS[kind.kind] == "discrete",
        horizon=metadata.get("horizon", int(lengths_of(episodes).max())),
        action_bound=metadata.get("action_bound", 1.0),
        **described(metadata),
    )


def described(metadata: dict[str, Any]) -> dict[str, Any]:
    """Those fields of a specification that a dataset's metadata hold only where there are any.

    They are the true sizes of padded agents, the agents' types, and the scale of returns.
    """
    found: dict[str, Any] = {
        name: tuple(metadata[name]) for name in PER_AGENT if metadata.get(name)
    }
    if scale := metadata.get("return_scale"):
        found["return_scale"] = ReturnScale(*scale)
    return found
