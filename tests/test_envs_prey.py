"""The prey of tag and world: rules, our file format, and the reader of the published files."""

from __future__ import annotations

import os
import pickle
import struct
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxoff.envs.mpe import prey as preys
from jaxoff.envs.mpe.omar import make_tag, make_world
from jaxoff.envs.mpe.prey import (
    PARAMS,
    InvalidPrey,
    flee,
    load_prey,
    plain_prey,
    prey_policy,
    read_prey,
    save_prey,
)
from tests.reference import mpe_numpy as reference

KEY = jax.random.key(0)
PUBLIC = (
    Path(
        os.environ.get(
            "JAXOFF_PUBLIC_DATA", Path(__file__).resolve().parents[2] / "shared" / "data"
        )
    )
    / "omar_prey"
)
NAMES = ["in_fn.weight", "in_fn.bias", "in_fn.running_mean", "in_fn.running_var"]
NAMES += [f"fc{i}.{part}" for i in (1, 2, 3) for part in ("weight", "bias")]
HEADER = b"".join(
    pickle.dumps(x, 2) for x in (0x1950A86A20F9469CFC6C, 1001, {"little_endian": True})
)


def network(inputs=14, hidden=64, seed=0):
    """Random parameters in our format."""
    rng = np.random.default_rng(seed)
    sizes = {"O": inputs, "H": hidden, "2": 2}
    params = {
        name: rng.normal(size=[sizes[letter] for letter in shape]).astype(np.float32) / 3
        for name, shape in PARAMS.items()
    }
    return params | {"var": np.abs(params["var"]) + 0.5}


def tensors(params):
    """Our parameters under the published names, weights as [out, in]."""
    return {
        name: x.T if name.endswith("weight") and x.ndim == 2 else x
        for name, x in zip(NAMES, params.values(), strict=True)
    }


def plain(value):
    """The opcodes that push a plain value."""
    return pickle.dumps(value, 2)[2:-1]


def mapping(items):
    return b"}(" + b"".join(plain(name) + code for name, code in items.items()) + b"u"


def tensor(key, shape, stride=None, count=None, offset=0):
    """The opcodes of a tensor in storage `key`."""
    stride = stride or tuple(int(np.prod(shape[i + 1 :])) for i in range(len(shape)))
    count = int(np.prod(shape)) if count is None else count
    pid = (
        b"("
        + plain("storage")
        + b"ctorch\nFloatStorage\n"
        + plain(key)
        + plain("cpu")
        + plain(count)
        + b"NtQ"
    )
    return (
        b"ctorch._utils\n_rebuild_tensor_v2\n("
        + pid
        + plain(offset)
        + plain(tuple(shape))
        + plain(stride)
        + b"\x89ccollections\nOrderedDict\n)RtR"
    )


def published(params, agents=4, **changes):
    """A file as OMAR published them, whose last agent has these parameters; `changes` replace a
    tensor's opcodes.
    """
    arrays = tensors(params)
    policy = mapping(
        {
            name: changes.get(name.replace(".", "_"), tensor(name, x.shape))
            for name, x in arrays.items()
        }
    )
    agent = b"}(" + plain("policy") + policy + b"u"
    empty = b"}"
    body = (
        b"\x80\x02" + mapping({"agent_params": b"](" + empty * (agents - 1) + agent + b"e"}) + b"."
    )
    data = b"".join(
        struct.pack("<q", x.size) + np.ascontiguousarray(x, "<f4").tobytes()
        for x in arrays.values()
    )
    return HEADER + body + pickle.dumps(list(arrays), 2) + data


def written(tmp_path, content, name="prey.pt"):
    path = tmp_path / name
    path.write_bytes(content)
    return path


# -------------------------------------------------------------------------------------- published
# files


def test_published_layout_is_read(tmp_path):
    params = network()
    read = read_prey(written(tmp_path, published(params)))
    assert list(read) == list(PARAMS)
    for name, x in params.items():
        np.testing.assert_array_equal(read[name], x)


def test_transposed_view_is_read_as_such(tmp_path):
    params = network()
    read = read_prey(
        written(
            tmp_path, published(params, fc2_weight=tensor("fc2.weight", (64, 64), stride=(1, 64)))
        )
    )
    np.testing.assert_array_equal(read["w2"], params["w2"].T)


class Command:
    def __reduce__(self):
        return os.system, ("touch owned",)


def test_pickle_that_would_run_a_command_is_refused_and_not_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    evil = pickle.dumps({"agent_params": [Command()] * 4}, 2)
    for content in (HEADER + evil, evil, pickle.dumps(Command(), 4)):
        with pytest.raises(
            InvalidPrey,
            match=(
                r"prey\.pt: expected tensors.*found the global '(posix|nt)\.system', which "
                r"is not run"
            ),
        ):
            read_prey(written(tmp_path, content))
    assert not (tmp_path / "owned").exists()


@pytest.mark.parametrize(
    "name",
    ["builtins eval", "torch load", "collections Counter", "torch._utils _rebuild_parameter"],
)
def test_every_other_global_is_refused(tmp_path, name):
    module, function = name.split()
    content = HEADER + f"c{module}\n{function}\n.".encode()
    with pytest.raises(
        InvalidPrey, match=f"found the global '{module}.{function}', which is not run"
    ):
        read_prey(written(tmp_path, content))


def test_file_that_ends_early_is_named(tmp_path):
    whole = published(network())
    for length in (0, 10, len(HEADER) + 40, len(whole) - 5000, len(whole) - 1):
        with pytest.raises(
            InvalidPrey, match=r"prey\.pt: expected a whole torch file, found a damaged one"
        ):
            read_prey(written(tmp_path, whole[:length]))
    with pytest.raises(InvalidPrey, match="expected a storage of 8 bytes, found 7"):
        read_prey(written(tmp_path, whole[:-1]))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"hello, I am text\n", "prey.pt: expected a whole torch file, found a damaged one"),
        (b"PK\x03\x04" + bytes(60), "prey.pt: expected a whole torch file, found a damaged one"),
        (pickle.dumps(5, 2) * 5, "expected torch's first number"),
        (
            HEADER.replace(b"\x88", b"\x89") + pickle.dumps([], 2) * 2,
            "expected little-endian numbers",
        ),
        (HEADER + pickle.dumps([1], 2) * 2, "expected a whole torch file"),
        (
            HEADER + pickle.dumps({"agents": 5}, 2) + pickle.dumps([], 2),
            "prey.pt: not a published prey file: KeyError: 'agent_params'",
        ),
        (
            HEADER + pickle.dumps({"agent_params": 5}, 2) + pickle.dumps([], 2),
            "prey.pt: not a published prey file: TypeError",
        ),
        (published(network(), agents=3), "agent_params: expected 4 agents, found 3"),
        (
            published(network(), fc1_bias=b"](" + tensor("fc1.bias", (64,)) + b"e"),
            "TypeError: fc1.bias: expected a tensor, found list",
        ),
        (
            published(network(), fc1_bias=tensor("fc1.bias", (64,), count=63)),
            "expected a storage of 63 numbers, found 64",
        ),
        (
            published(network(), fc1_bias=tensor("fc1.bias", (64,), offset=1)),
            "expected a tensor within its storage of 64",
        ),
        (
            published(network(), fc1_bias=tensor("fc1.bias", (-64,), count=64)),
            "expected a tensor within its storage of 64",
        ),
        (
            published(network(), fc1_bias=tensor("fc1.bias", (32,), count=64)),
            r"prey.pt: b1: expected shape \(64,\), found \(32,\)",
        ),
        (
            published(network(), fc1_bias=tensor("fc1.bias", (64,), count=10**12)),
            "expected storages within the file, found one of 1,000,000,000,000 numbers",
        ),
        (
            published(network()).replace(struct.pack("<q", 64 * 64), struct.pack("<q", 64 * 65)),
            "storage of 4096 numbers, found 4160",
        ),
    ],
)
def test_file_that_is_not_such_a_file_is_named(tmp_path, content, message):
    with pytest.raises(InvalidPrey, match=message):
        read_prey(written(tmp_path, content))


def test_numbers_that_are_not_finite_are_refused(tmp_path):
    params = network()
    params["w2"][3, 4] = np.nan
    with pytest.raises(InvalidPrey, match="w2: expected finite numbers, found 1 that are not"):
        read_prey(written(tmp_path, published(params)))


@pytest.mark.parametrize(("world", "inputs"), [("tag", 14), ("world", 22)])
def test_public_prey_has_the_expected_shapes(world, inputs):
    path = PUBLIC / f"simple_{world}.pt"
    if not path.is_file():
        pytest.skip("the public prey networks are not present")
    params = read_prey(path)
    shapes = {name: x.shape for name, x in params.items()}
    assert (shapes["scale"], shapes["w1"], shapes["w2"], shapes["w3"], shapes["b3"]) == (
        (inputs,),
        (inputs, 64),
        (64, 64),
        (64, 2),
        (2,),
    )
    assert (params["var"] > 0).all()


# --------------------------------------------------------------------------------------------- our
# files


def test_saved_prey_is_loaded_again(tmp_path):
    params = network(22, 32)
    loaded = load_prey(save_prey(tmp_path / "new" / "prey.npz", params))
    assert set(loaded) == set(params)
    for name, x in params.items():
        np.testing.assert_array_equal(loaded[name], x)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"b2": None}, "prey.npz: expected arrays scale, .*, found b1, b3, mean"),
        ({"b4": np.zeros(2)}, "prey.npz: expected arrays scale"),
        ({"w3": np.zeros((64, 3))}, r"prey.npz: w3: expected shape \(64, 2\), found \(64, 3\)"),
        ({"w1": np.zeros(14)}, r"prey.npz: w1: expected two axes, found shape \(14,\)"),
        ({"b1": np.zeros(64, int)}, "prey.npz: b1: expected reals, found int64"),
        (
            {"b1": np.full(64, np.inf)},
            "prey.npz: b1: expected finite numbers, found 64 that are not",
        ),
        ({"var": np.full(14, -1.0)}, "prey.npz: var: expected no negative number, found -1.0"),
    ],
)
def test_parameters_that_are_not_a_prey_are_named(tmp_path, change, message):
    params = {name: x for name, x in (network() | change).items() if x is not None}
    path = tmp_path / "prey.npz"
    with pytest.raises(InvalidPrey, match=message):
        save_prey(path, params)
    assert not path.exists()
    np.savez(path, **params)
    with pytest.raises(InvalidPrey, match=message):
        load_prey(path)


def test_npz_that_is_not_one_is_named(tmp_path):
    for content in (b"hello", b"", b"PK\x03\x04" + bytes(60), pickle.dumps([1])):
        with pytest.raises(InvalidPrey, match=r"prey\.npz: not an \.npz file of a prey network"):
            load_prey(written(tmp_path, content, "prey.npz"))
    np.savez(tmp_path / "prey.npz", **{name: np.array([Command()], object) for name in PARAMS})
    with pytest.raises(
        InvalidPrey, match=r"prey\.npz: not an \.npz file of a prey network: .*expected no objects"
    ):
        load_prey(tmp_path / "prey.npz")
    with pytest.raises(ValueError, match=r"prey\.txt: expected a path ending in \.npz"):
        save_prey(tmp_path / "prey.txt", network())
    with pytest.raises(FileNotFoundError):
        load_prey(tmp_path / "none.npz")


# -----------------------------------------------------------------------------------------------
# policies


def test_network_acts_as_the_reference():
    params = network(22)
    obs = np.random.default_rng(1).normal(size=(5, 22)).astype(np.float32)
    actions = prey_policy(params)(jnp.asarray(obs))
    np.testing.assert_allclose(
        actions, [reference.prey_action(params, x) for x in obs], rtol=1e-4, atol=1e-5
    )
    assert float(jnp.abs(actions).max()) <= 1


def test_plain_network_has_exactly_no_normalisation():
    params = network()
    layers = [(params[f"w{i}"], params[f"b{i}"]) for i in (1, 2, 3)]
    obs = jax.random.normal(KEY, (5, 14))
    x = obs
    for w, b in layers[:2]:
        x = jax.nn.relu(x @ w + b)
    np.testing.assert_array_equal(
        prey_policy(plain_prey(layers))(obs), jnp.tanh(x @ layers[2][0] + layers[2][1])
    )


def observation(position, predators, size=14):
    obs = np.zeros(size, np.float32)
    last = size - 2 if size == 22 else size  # world's forest flags come last
    obs[2:4], obs[last - 6 : last] = position, np.ravel(predators)
    return jnp.asarray(obs)


@pytest.mark.parametrize("size", [14, 22])
def test_fleeing_prey_runs_from_the_nearest_predator(size):
    # offsets 0.5, 1.4 and 2: straight away from the first one, at full force
    away = flee(KEY, observation((0.2, 0.1), [(0.3, 0.4), (-1, 1), (0, 2)], size))
    np.testing.assert_allclose(away, (-0.6, -0.8), rtol=1e-5)


def test_fleeing_prey_turns_at_the_border():
    # at x = 1.0 with a predator at its left: flight (1, 0) and bend -10 * (1.0 - 0.9) cancel; at
    # 1.1 it turns back
    predators = [(-0.5, 0), (3, 3), (3, 3)]
    np.testing.assert_allclose(flee(KEY, observation((0.95, 0), predators)), (1, 0), atol=1e-5)
    np.testing.assert_allclose(flee(KEY, observation((1.1, 0), predators)), (-1, 0), atol=1e-5)
    assert np.isfinite(flee(KEY, observation((0, 0), np.zeros((3, 2))))).all()


def test_named_preys_act_as_named():
    obs = observation((0, 0), [(1, 0), (2, 0), (3, 0)])
    np.testing.assert_array_equal(preys.make_prey("still", "tag", 14)(KEY, obs), 0)
    draws = jax.vmap(lambda k: preys.make_prey("random", "tag", 14)(k, obs))(
        jax.random.split(KEY, 2000)
    )
    assert abs(float(draws.mean())) < 0.03 and float(draws.std()) == pytest.approx(
        3**-0.5, rel=0.03
    )


def test_shipped_prey_that_is_not_there_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(preys, "WEIGHTS", tmp_path)
    with pytest.raises(
        FileNotFoundError,
        match=(
            r"tag: the shipped prey network is not there: .*tag\.npz; other preys: flee, "
            r"random, still"
        ),
    ):
        preys.make_prey("learned", "tag", 14)
    save_prey(tmp_path / "tag.npz", network())
    assert preys.make_prey("learned", "tag", 14)(KEY, jnp.zeros(14)).shape == (2,)


@pytest.mark.parametrize("suffix", [".npz", ".pt"])
def test_prey_of_the_wrong_world_is_named(tmp_path, suffix):
    path = tmp_path / f"mine{suffix}"
    path.write_bytes(published(network(14))) if suffix == ".pt" else save_prey(path, network(14))
    assert make_tag(str(path)).spec.name == "mpe/tag"
    with pytest.raises(
        InvalidPrey, match=r"mine\.(npz|pt): expected a prey of world, with 22 inputs, found 14"
    ):
        make_world(str(path))


def test_unknown_prey_is_named(tmp_path):
    with pytest.raises(
        ValueError,
        match=(
            r"tag: prey: expected learned, flee, random, still, or a path ending in \.npz or "
            r"\.pt, found 'fast'"
        ),
    ):
        make_tag("fast")
    with pytest.raises(
        FileNotFoundError, match=r"world: the prey network is not there: .*none\.pt"
    ):
        make_world(str(tmp_path / "none.pt"))
