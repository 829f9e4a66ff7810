"""The dataset on the device: nothing is changed by packing, and what is wrong is refused by
field.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxoff
from jaxoff.data import dataset as data
from jaxoff.names import DataOptions
from jaxoff.types import Transition
from tests import toys
from tests.reference.toy_episodes import toy_episodes, toy_spec

LENGTHS = (3, 1, 5)


def placed(lengths=LENGTHS, discrete=True, **options):
    return data.place(toy_episodes(lengths, discrete), toy_spec(discrete), **options)


@pytest.mark.parametrize("discrete", [True, False])
def test_every_step_comes_back_as_it_was(discrete):
    episodes, ds = toy_episodes(LENGTHS, discrete), placed(discrete=discrete)
    batch = toys.steps(ds, ds.step_row)
    filled = episodes.filled
    for name in ("actions", "reward", "terminated", "truncated"):
        np.testing.assert_array_equal(
            getattr(batch, name), getattr(episodes, name)[filled], err_msg=name
        )
    for name in ("obs", "state", "avail"):
        np.testing.assert_array_equal(
            getattr(batch, name), getattr(episodes, name)[:, :-1][filled], err_msg=name
        )
        np.testing.assert_array_equal(
            getattr(batch, f"next_{name}"), getattr(episodes, name)[:, 1:][filled], err_msg=name
        )
    assert batch.actions.dtype == (jnp.int32 if discrete else jnp.float32)
    np.testing.assert_array_equal(batch.valid, np.ones(9))
    np.testing.assert_array_equal(batch.steps_before, [0, 1, 2, 0, 0, 1, 2, 3, 4])
    np.testing.assert_array_equal(batch.episode, [0, 0, 0, 1, 2, 2, 2, 2, 2])


def test_next_observation_of_the_last_step_is_the_final_slot():
    episodes, ds = toy_episodes(), placed()
    batch = toys.steps(ds, ds.episode_row + ds.episode_length - 1)
    for e, length in enumerate(LENGTHS):
        np.testing.assert_array_equal(batch.next_obs[e], episodes.obs[e, length])
        np.testing.assert_array_equal(batch.next_state[e], [e, length, 100 * e + length])


def test_window_stops_being_valid_at_the_end_of_its_episode():
    ds = placed()
    batch = toys.window(ds, ds.episode_row, 5)
    np.testing.assert_array_equal(batch.valid.sum(1), LENGTHS)
    np.testing.assert_array_equal(batch.reward, toy_episodes().reward)  # beyond the end it is 0
    np.testing.assert_array_equal(batch.terminated.sum(1) + batch.truncated.sum(1), [1, 1, 1])
    np.testing.assert_array_equal(batch.steps_before[0], [0, 1, 2, 3, 4])


@pytest.mark.parametrize("length", [5, 6, 7, 30])
def test_window_longer_than_the_dataset_is_padded_and_not_moved(length):
    ds, episodes = placed(), toy_episodes()
    batch = toys.window(ds, ds.step_row[-1:], length)  # the very last step
    assert batch.obs.shape == (1, length, 2, 4) and batch.next_obs.shape == (1, length, 2, 4)
    np.testing.assert_array_equal(batch.state[0, 0], [2, 4, 204])
    np.testing.assert_array_equal(batch.next_state[0, 0], [2, 5, 205])
    np.testing.assert_array_equal(batch.valid[0], np.arange(length) < 1)
    whole = toys.window(ds, ds.episode_row[2:], length)
    np.testing.assert_array_equal(whole.obs[0, :5], episodes.obs[2, :5])
    np.testing.assert_array_equal(whole.next_obs[0, 4], episodes.obs[2, 5])
    assert float(whole.valid.sum()) == 5


def test_a_game_of_one_step_is_an_episode_of_length_one():
    ds = placed((1, 1, 1))
    assert (ds.num_steps, ds.num_episodes, ds.max_length) == (3, 3, 1)
    np.testing.assert_array_equal(
        toys.steps(ds, ds.step_row).next_state, [[0, 1, 1], [1, 1, 101], [2, 1, 201]]
    )


def test_gathering_is_the_same_under_jit_and_vmap():
    ds = placed()
    rows = ds.step_row[jnp.array([[0, 4], [8, 3]])]
    plain = [ds.window(row, 3) for row in rows]
    found = jax.jit(jax.vmap(lambda row: ds.window(row, 3)))(rows)
    jax.tree.map(np.testing.assert_array_equal, found, jax.tree.map(lambda *x: np.stack(x), *plain))
    assert isinstance(plain[0], Transition)


# ---------------------------------------------------------------------------------------- bytes,
# limits


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("lengths", [(3, 1, 5), (1, 1), (4,)])
def test_byte_estimate_equals_the_bytes_that_are_placed(dtype, lengths):
    ds = placed(lengths, obs_dtype=dtype)
    assert data.estimate_bytes(toy_episodes(lengths), toy_spec(), dtype) == sum(
        x.nbytes for x in jax.tree.leaves(ds)
    )


def test_byte_estimate_by_hand():
    # rows: 9 steps + 3 final slots + 5 padding = 17; a row: 8 obs + 3 state + 6 avail + 2 actions +
    # 4 numbers = 23 floats indices: 9 steps + 2 x 3 episodes
    assert data.estimate_bytes(toy_episodes(), toy_spec()) == 4 * (17 * 23 + 9 + 6)
    # 11 of the 23 in two bytes
    assert (
        data.estimate_bytes(toy_episodes(), toy_spec(), "bfloat16")
        == 17 * (11 * 2 + 12 * 4) + 4 * 15
    )


def test_too_large_a_dataset_is_refused_with_the_numbers():
    with pytest.raises(
        data.DatasetTooLarge, match=r"1,624 bytes are needed.*1,250 with bfloat16.*at most 1,500"
    ):
        placed(limit_bytes=1500)
    assert placed(limit_bytes=1624).num_steps == 9
    assert placed(limit_bytes=1500, obs_dtype="bfloat16").num_steps == 9


def test_bfloat16_rounds_observations_and_nothing_else():
    episodes, ds = toy_episodes(), placed(obs_dtype="bfloat16")
    batch = toys.steps(ds, ds.step_row)
    assert batch.obs.dtype == jnp.float32
    expected = episodes.obs[:, :-1][episodes.filled].astype(jnp.bfloat16).astype(np.float32)
    np.testing.assert_array_equal(batch.obs, expected)
    assert (np.asarray(batch.obs) != episodes.obs[:, :-1][episodes.filled]).any()
    np.testing.assert_array_equal(batch.reward, episodes.reward[episodes.filled])
    np.testing.assert_array_equal(batch.actions, episodes.actions[episodes.filled])


# ---------------------------------------------------------------------------------------- refusals


def changed(name, where, value):
    episodes = toy_episodes()
    array = getattr(episodes, name).copy()
    array[where] = value
    return episodes._replace(**{name: array})


def unavailable():
    episodes = toy_episodes()
    avail = episodes.avail.copy()
    avail[2, 1, 0, episodes.actions[2, 1, 0]] = 0
    return episodes._replace(avail=avail)


BROKEN = {
    "obs shape": (
        toy_episodes()._replace(obs=np.zeros((3, 5, 2, 4))),
        r"'obs': expected shape \(3, 6, 2, 4\), found \(3, 5, 2, 4\)",
    ),
    "reward shape": (
        toy_episodes()._replace(reward=np.zeros((3, 4))),
        r"'reward': expected shape \(3, 5\), found \(3, 4\)",
    ),
    "reward rank": (
        toy_episodes()._replace(reward=np.zeros(3)),
        r"'reward': expected shape \(3, 5\), found \(3,\)",
    ),
    "filled rank": (
        toy_episodes()._replace(filled=np.ones(3)),
        r"'filled': expected shape \(E, T\), found \(3,\)",
    ),
    "levels": (
        toy_episodes()._replace(behaviour_level=np.zeros((2, 2))),
        r"'behaviour_level': expected shape \(3, 2\)",
    ),
    "no episode": (
        jax.tree.map(lambda x: x[:0], toy_episodes()),
        "'filled': expected at least one episode",
    ),
    "hole": (changed("filled", (2, 1), False), "'filled': expected ones, then zeros"),
    "empty episode": (changed("filled", (1, 0), False), "'filled': .*at least one step"),
    "early end": (
        changed("terminated", (2, 1), True),
        "'terminated': expected only on the last step, found earlier in episode 2",
    ),
    "end in padding": (
        changed("truncated", (1, 3), True),
        "'truncated': expected only on the last step",
    ),
    "both ends": (changed("truncated", (0, 2), True), "'terminated' and 'truncated'"),
    "nan in the final slot": (
        changed("obs", (0, 3, 1, 1), np.nan),
        "'obs': expected finite numbers, found 1",
    ),
    "infinite reward": (changed("reward", (2, 4), np.inf), "'reward': expected finite"),
    "action too large": (
        changed("actions", (0, 0, 1), 3),
        r"'actions': expected 0\.\.2, found 1 that are not, the first 3 at \[0, 0, 1\]",
    ),
    "negative action": (
        changed("actions", (0, 0, 1), -1),
        r"'actions': expected 0\.\.2, found 1 that are not, the first -1 at \[0, 0, 1\]",
    ),
    "nothing to do beyond": (
        changed("avail", (2, 5, 1), 0)._replace(terminated=np.zeros((3, 5), bool)),
        "'avail': expected an available action for every agent after .* found none in episode 2",
    ),
    "unavailable": (unavailable(), "'actions': expected available actions, found 1"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_invalid_episodes_are_refused_by_field(case):
    episodes, message = BROKEN[case]
    with pytest.raises(data.InvalidEpisodes, match=f"here: fields? {message}"):
        data.validate(episodes, toy_spec(), "here")


def test_numbers_in_padding_do_not_matter():
    data.validate(changed("obs", (1, 4), np.nan)._replace(), toy_spec())
    data.validate(changed("actions", (1, 3), 9), toy_spec())
    kept = data.place(changed("obs", (1, 2), np.nan)._replace(), toy_spec())
    assert np.isfinite(kept.rows["float32"]).all()


def wide(name, index, value, dtype):
    """A field of toy episodes in another type, with one number changed in it."""
    field = np.asarray(getattr(toy_episodes(), name)).astype(dtype)
    field[index] = value
    return field


# field, index, number, its type -> what is expected instead
UNSTORABLE = [
    ("actions", (2, 1, 0), 0.5, float, "whole numbers of 32 bits"),
    ("actions", (2, 1, 0), 2.0**40, float, "whole numbers of 32 bits"),
    ("obs", (0, 1, 1, 2), 1e300, float, "numbers of at most 3.40282e+38"),
    ("state", (0, 1, 2), -1e39, float, "numbers of at most 3.40282e+38"),
    ("reward", (2, 0), 1e39, float, "numbers of at most 3.40282e+38"),
    ("avail", (0, 0, 1, 2), 0.5, float, "0 or 1"),
    ("avail", (0, 0, 1, 2), -1.0, int, "0 or 1"),
    ("terminated", (0, 2), 0.5, float, "0 or 1"),
    ("filled", (0, 1), 2, int, "0 or 1"),
    ("behaviour_level", (0, 1), 0.5, float, "whole numbers"),
]


@pytest.mark.parametrize(("name", "index", "value", "dtype", "expected"), UNSTORABLE)
def test_a_number_that_its_storage_type_changes_is_refused(name, index, value, dtype, expected):
    episodes = toy_episodes()._replace(**{name: wide(name, index, value, dtype)})
    found = f"found 1 that are not, the first {value!r} at {list(index)}"
    with pytest.raises(data.InvalidEpisodes) as error:
        data.place(episodes, toy_spec(), source="here")
    text = str(error.value)
    assert text.startswith(f"here: field '{name}': expected {expected}") and text.endswith(found)


@pytest.mark.parametrize("name", ["obs", "reward", "avail", "actions", "filled"])
@pytest.mark.parametrize("dtype", [complex, object, "U8", "M8[s]"])
def test_what_is_no_real_number_is_refused(name, dtype):
    value = np.asarray(getattr(toy_episodes(), name)).astype(int).astype(dtype)
    with pytest.raises(data.InvalidEpisodes, match=f"'{name}': expected real numbers, found the"):
        data.validate(toy_episodes()._replace(**{name: value}), toy_spec())


def test_continuous_actions_may_be_a_few_bounds_large_and_not_a_million():
    episodes = toy_episodes(discrete=False)
    actions = episodes.actions.copy()
    actions[0, 0, 1, 2] = 20.0  # unclipped samples, as published data have them
    data.validate(episodes._replace(actions=actions), toy_spec(False))
    actions[0, 0, 1, 2] = -1e6
    with pytest.raises(
        data.InvalidEpisodes,
        match=r"'actions': expected numbers in \[-100, 100\], .*the first -1000000.0 at",
    ):
        data.validate(episodes._replace(actions=actions), toy_spec(False))


def test_observations_that_only_bfloat16_makes_infinite_are_refused_for_it():
    episodes = changed("obs", (0, 1, 1, 2), np.float32(3.4e38))
    data.place(episodes, toy_spec())
    with pytest.raises(data.InvalidEpisodes, match=r"'obs': expected numbers of at most 3\.38953e"):
        data.place(episodes, toy_spec(), obs_dtype="bfloat16")
    largest = changed("obs", (0, 1, 1, 2), np.float32(3.3895e38))
    rows = data.place(largest, toy_spec(), obs_dtype="bfloat16").rows["bfloat16"]
    assert jnp.isfinite(rows).all()


def test_training_refuses_data_before_it_makes_a_folder(tmp_path):
    made = jaxoff.make_data("matrix/xor/c", DataOptions(episodes=30))
    actions = made.actions.astype(float)
    actions[4, 0, 1] = 0.5
    spec = jaxoff.TrainSpec("bc", "matrix/xor/c", steps=2)
    with pytest.raises(
        data.InvalidEpisodes,
        match=r"^matrix/xor/c: field 'actions': expected whole .* the first 0\.5 at \[4, 0, 1\]$",
    ):
        jaxoff.train(spec, tmp_path / "job", data=made._replace(actions=actions))
    assert not list(tmp_path.iterdir())


def test_what_is_valid_comes_back_in_storage_types_and_uncopied():
    episodes = toy_episodes()
    same = data.validate(episodes, toy_spec())
    for name, value in episodes._asdict().items():
        assert value is None or np.shares_memory(value, getattr(same, name)), name
    other = episodes._replace(
        actions=episodes.actions.astype(float), filled=episodes.filled.astype(np.int8)
    )
    cast = data.validate(other, toy_spec())
    assert (cast.actions.dtype, cast.filled.dtype) == (np.int32, bool)
    np.testing.assert_array_equal(cast.actions, episodes.actions)
