"""The prey of tag and world: rules, and frozen networks read from files.

Networks have one format: an input normalisation with fixed statistics, two ReLU layers, tanh.
`PARAMS` lists its arrays. Files: `.npz` in our format, or the `.pt` files published with OMAR (Pan
et al., 2022), which are read without torch and without running any code in them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxoff.envs.mpe.physics import unit
from jaxoff.errors import InvalidFile, InvalidSetting, JaxoffError
from jaxoff.files import replacing
from jaxoff.numpy_file import read_npz
from jaxoff.torch_file import read_torch
from jaxoff.types import Array, Key

Act = Callable[[Key, Array], Array]  # (key, the prey's observation [O]) -> action [2]

# name of each array: its shape, with O inputs and H units; a layer is x @ w + b
PARAMS = {
    "scale": "O",
    "shift": "O",
    "mean": "O",
    "var": "O",
    "w1": "OH",
    "b1": "H",
    "w2": "HH",
    "b2": "H",
    "w3": "H2",
    "b3": "2",
}
WEIGHTS = Path(__file__).parent / "weights"
EPSILON = 1e-5  # added to the variance in the input normalisation

_PUBLISHED = {
    "scale": "in_fn.weight",
    "shift": "in_fn.bias",
    "mean": "in_fn.running_mean",
    "var": "in_fn.running_var",
    "w1": "fc1.weight",
    "b1": "fc1.bias",
    "w2": "fc2.weight",
    "b2": "fc2.bias",
    "w3": "fc3.weight",
    "b3": "fc3.bias",
}
_PREY_ENTRY = 3  # index of the prey in the published list of agents; 0-2 are weak predators


class InvalidPrey(JaxoffError, ValueError):
    """A prey file that cannot be used; the message names the file and what is wrong."""


# ------------------------------------------------------------------------------------------
# policies


def flee(key: Key, obs: Array) -> Array:
    """Full force straight away from the nearest predator, bent towards the centre where |x| or
    |y| > 0.9.

    The pull towards the centre grows with the distance beyond 0.9 and at 1.0 is as strong as the
    flight; without it the prey, being faster, would leave for good.
    """
    # world's forest flags come last, after the predators' offsets
    flags = 2 if obs.shape[-1] == 22 else 0
    predators = obs[obs.shape[-1] - flags - 6 : obs.shape[-1] - flags].reshape(3, 2)
    nearest = predators[jnp.argmin(jnp.linalg.norm(predators, axis=-1))]
    position = obs[2:4]
    return unit(-unit(nearest) - 10.0 * (position - jnp.clip(position, -0.9, 0.9)))


def random(key: Key, obs: Array) -> Array:
    """A uniform action."""
    return jax.random.uniform(key, (2,), minval=-1.0, maxval=1.0)


def still(key: Key, obs: Array) -> Array:
    """No force."""
    return jnp.zeros(2)


RULES: dict[str, Act] = {"flee": flee, "random": random, "still": still}


def prey_policy(params: Mapping[str, np.ndarray]) -> Callable[[Array], Array]:
    """The network's action [..., 2] in [-1, 1] for observations [..., O], without noise."""
    p = {name: jnp.asarray(value, jnp.float32) for name, value in params.items()}

    def act(obs: Array) -> Array:
        x = (obs - p["mean"]) / jnp.sqrt(p["var"] + EPSILON) * p["scale"] + p["shift"]
        x = jax.nn.relu(x @ p["w1"] + p["b1"])
        x = jax.nn.relu(x @ p["w2"] + p["b2"])
        return jnp.clip(jnp.tanh(x @ p["w3"] + p["b3"]), -1.0, 1.0)

    return act


def plain_prey(layers: list[tuple[np.ndarray, np.ndarray]]) -> dict[str, np.ndarray]:
    """Parameters, in our format, of a network without input normalisation, from its three layers
    (w [in, out], b [out]).
    """
    size = len(layers[0][0])
    zero, one = np.zeros(size, np.float32), np.ones(size, np.float32)
    # var + EPSILON is exactly 1
    params = {"scale": one, "shift": zero, "mean": zero, "var": one - np.float32(EPSILON)}
    for i, (w, b) in enumerate(layers, 1):
        params |= {f"w{i}": np.asarray(w, np.float32), f"b{i}": np.asarray(b, np.float32)}
    return params


def make_prey(prey: str, world: str, obs_size: int) -> Act:
    """The prey that `prey` names (see `make_tag`), for observations of `obs_size`."""
    if prey in RULES:
        return RULES[prey]
    path = WEIGHTS / f"{world}.npz" if prey == "learned" else Path(prey)
    if path.suffix not in (".npz", ".pt"):
        raise InvalidSetting(
            f"{world}: prey: expected learned, {', '.join(RULES)}, or a path ending in "
            f".npz or .pt, found {prey!r}"
        )
    if not path.is_file():
        what = "the shipped prey network" if prey == "learned" else "the prey network"
        raise FileNotFoundError(
            f"{world}: {what} is not there: {path}; other preys: {', '.join(RULES)}"
        )
    params = read_prey(path) if path.suffix == ".pt" else load_prey(path)
    if len(params["scale"]) != obs_size:
        raise InvalidPrey(
            f"{path}: expected a prey of {world}, with {obs_size} inputs, found "
            f"{len(params['scale'])}"
        )
    policy = prey_policy(params)
    return lambda key, obs: policy(obs)


# ------------------------------------------------------------------------------------------- our
# files


def save_prey(path: str | Path, params: Mapping[str, np.ndarray]) -> Path:
    """Write a prey network as .npz, atomically; returns its path. Raises InvalidPrey."""
    if Path(path).suffix != ".npz":
        raise InvalidSetting(f"{path}: expected a path ending in .npz")
    checked: dict[str, Any] = {**_checked(path, params)}
    with replacing(path) as temporary, temporary.open("wb") as file:
        np.savez(file, **checked)
    return Path(path)


def load_prey(path: str | Path) -> dict[str, np.ndarray]:
    """Parameters of a prey network in our format. Raises InvalidPrey, or FileNotFoundError."""
    try:
        params = read_npz(path)
    except InvalidFile as error:
        why = str(error).removeprefix(f"{path}: ")
        raise InvalidPrey(f"{path}: not an .npz file of a prey network: {why}") from error
    return _checked(path, params)


def _checked(path: str | Path, params: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """The ten arrays of a network as float32, or InvalidPrey."""
    if set(params) != set(PARAMS):
        raise InvalidPrey(
            f"{path}: expected arrays {', '.join(PARAMS)}, found "
            f"{', '.join(sorted(params)) or 'none'}"
        )
    arrays = {name: np.asarray(params[name]) for name in PARAMS}
    first = arrays["w1"].shape
    if len(first) != 2:
        raise InvalidPrey(f"{path}: w1: expected two axes, found shape {first}")
    sizes = {"O": first[0], "H": first[1], "2": 2}
    for name, x in arrays.items():
        expected = tuple(sizes[letter] for letter in PARAMS[name])
        if x.shape != expected:
            raise InvalidPrey(f"{path}: {name}: expected shape {expected}, found {x.shape}")
        if x.dtype.kind != "f":
            raise InvalidPrey(f"{path}: {name}: expected reals, found {x.dtype}")
        if not np.isfinite(x).all():
            raise InvalidPrey(
                f"{path}: {name}: expected finite numbers, found "
                f"{np.count_nonzero(~np.isfinite(x))} that are not"
            )
    if (arrays["var"] < 0).any():
        raise InvalidPrey(f"{path}: var: expected no negative number, found {arrays['var'].min()}")
    return {name: x.astype(np.float32) for name, x in arrays.items()}


# ---------------------------------------------------------------------------------- the published
# files


def read_prey(path: str | Path) -> dict[str, np.ndarray]:
    """The prey's parameters from a torch file published with OMAR. Raises InvalidPrey, or
    FileNotFoundError.
    """
    try:
        agents = read_torch(path)["agent_params"]
        if len(agents) != _PREY_ENTRY + 1:
            raise ValueError(
                f"agent_params: expected {_PREY_ENTRY + 1} agents, found {len(agents)}"
            )
        params = {
            name: _tensor(agents[_PREY_ENTRY]["policy"], published)
            for name, published in _PUBLISHED.items()
        }
    except InvalidFile as error:
        raise InvalidPrey(str(error)) from error
    except (LookupError, TypeError, ValueError) as error:
        raise InvalidPrey(
            f"{path}: not a published prey file: {type(error).__name__}: {error}"
        ) from error
    # torch has weights as [out, in]
    return _checked(path, {name: x.T if name.startswith("w") else x for name, x in params.items()})


def _tensor(policy: Any, name: str) -> np.ndarray:
    if not isinstance(policy[name], np.ndarray):
        raise TypeError(f"{name}: expected a tensor, found {type(policy[name]).__name__}")
    return policy[name]
