"""Online training: segments that go on, memory that restarts, snapshots, and going on after a
kill.
"""

from __future__ import annotations

import distrax
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxoff.envs.games.polynomial import GAMES, make_polynomial
from jaxoff.training import on_policy
from jaxoff.training.on_policy import OnPolicy, collect, train_on_policy
from jaxoff.types import Policy
from tests.test_rolling import CLOCK, Clock, always

KEY = jax.random.key(0)
SIZES = {
    "seed": 3,
    "num_envs": 4,
    "segment": 3,
    "iterations": 8,
    "snapshots": 4,
    "eval_episodes": 5,
}
# 4 * 3 * the iterations 8 (k / 4)^2 = 0, 0.5, 2, 4.5, 8, rounded, at least k
STEPS = [0, 12, 24, 48, 96]


def steps_since_reset(memory, seen):
    """Plays its memory, the steps made in this episode, modulo three."""
    return memory + 1, distrax.Deterministic(jnp.stack([memory, memory], -1) % 3)


COUNTER = Policy(lambda shape: jnp.zeros(shape, int), steps_since_reset)


def walk(traced: list, metric=1.0) -> OnPolicy:
    """A learner that adds noise to its logits [3], in steps as large as the reward it saw."""

    def policy_of(logits):
        where = lambda seen: jnp.broadcast_to(logits, (*seen.reward.shape, 2, 3))
        return Policy(
            lambda shape: (), lambda memory, seen: (memory, distrax.Categorical(logits=where(seen)))
        )

    def update(state, segments, key):
        traced.append(1)
        return state + 0.1 * segments.reward.mean() * jax.random.normal(key, (3,)), {
            "a": metric * state[0],
            "b": jnp.ones(()),
        }

    return OnPolicy(
        lambda key: jax.random.normal(key, (3,)), policy_of, update, lambda state: state, policy_of
    )


def same(a, b):
    """Two snapshots are equal, but for the time that they took."""
    jax.tree.map(np.testing.assert_array_equal, a._replace(cpu_s=0), b._replace(cpu_s=0))


@pytest.fixture(scope="module")
def whole():
    """An unbroken training: its snapshots, and how often `update` was traced after each."""
    traced, counts, snapshots = [], [], []
    for snapshot in train_on_policy(walk(traced), CLOCK, **SIZES):
        snapshots.append(snapshot)
        counts.append(len(traced))
    return snapshots, counts


# ----------------------------------------------------------------------------------------- segments


@pytest.fixture(scope="module")
def segments():
    """Two segments of 5 steps in 6 environments, one after the other, and the collectors between
    them.
    """
    start = jax.jit(lambda: on_policy.start(walk([]), CLOCK, 6, KEY))().collectors._replace(
        memory=jnp.zeros(6, int)
    )
    once = jax.jit(lambda now, key: collect(CLOCK, COUNTER, now, 5, key))
    between, first = once(start, jax.random.key(1))
    _, second = once(between, jax.random.key(2))
    return first, second, between


def test_episodes_run_on_from_one_segment_into_the_next(segments):
    first, second, _ = segments
    ended = np.asarray(first.terminated | first.truncated)[:, -1]
    assert ended.any() and not ended.all()
    np.testing.assert_array_equal(second.seen.obs[:, 0][~ended], first.next_obs[:, -1][~ended])
    # a new episode, at its first step
    np.testing.assert_array_equal(second.seen.state[:, 0, 1][ended], 0)


def test_within_a_segment_what_is_seen_next_is_seen_or_ended(segments):
    first = segments[0]
    ended = np.asarray(first.terminated | first.truncated)[:, :-1]
    np.testing.assert_array_equal(first.seen.obs[:, 1:][~ended], first.next_obs[:, :-1][~ended])
    np.testing.assert_array_equal(first.seen.state[:, 1:, 1] == 0, ended)
    # the true last slot is kept
    np.testing.assert_array_equal(first.next_state[..., 1], first.seen.state[..., 1] + 1)


def test_reset_marks_exactly_the_steps_after_an_end(segments):
    first, second, _ = segments
    ended = [np.asarray(part.terminated | part.truncated) for part in (first, second)]
    np.testing.assert_array_equal(first.reset[:, 0], True)
    np.testing.assert_array_equal(first.reset[:, 1:], ended[0][:, :-1])
    np.testing.assert_array_equal(second.reset[:, 0], ended[0][:, -1])
    np.testing.assert_array_equal(second.reset[:, 1:], ended[1][:, :-1])


def test_memory_restarts_with_an_episode_and_else_goes_on_across_segments(segments):
    first, second, between = segments
    # the policy plays its memory, which has to be the steps made so far
    for part in (first, second):
        np.testing.assert_array_equal(part.actions[..., 0], part.seen.state[..., 1] % 3)
    np.testing.assert_array_equal(second.memory, between.seen.state[:, 1])
    assert np.asarray(second.memory).any()


def test_rewards_are_each_agents_own_and_else_the_teams():
    for env, wanted in ((CLOCK, [1, 2]), (Clock(individual=False), [3, 3])):
        collected = jax.jit(
            lambda env=env: collect(
                env, always([1, 2]), on_policy.start(walk([]), env, 2, KEY).collectors, 2, KEY
            )
        )()
        np.testing.assert_array_equal(collected[1].reward, np.tile(wanted, (2, 2, 1)))


def test_real_actions_are_clipped_for_the_env_and_kept_as_drawn():
    env = make_polynomial("sign", GAMES["sign"])  # r is a function of (a_0, a_1) in [-1, 1]
    start = on_policy.start(walk([]), env, 2, KEY).collectors
    once = jax.jit(lambda x: collect(env, always(jnp.stack([x, -x])[:, None]), start, 1, KEY)[1])
    far, edge = once(3.0), once(1.0)
    np.testing.assert_array_equal(far.actions[0, 0, :, 0], [3, -3])
    np.testing.assert_array_equal(far.reward, edge.reward)


# ---------------------------------------------------------------------------------------- snapshots


def test_snapshots_are_dense_at_first_and_begin_before_training(whole):
    assert [snapshot.env_steps for snapshot in whole[0]] == STEPS
    assert whole[0][0].metrics == {} and set(whole[0][1].metrics) == {"a", "b"}
    assert [snapshot.evaluation["returns"].shape for snapshot in whole[0]] == [(5,)] * 5


def test_metrics_are_means_over_the_iterations_since_the_last_snapshot(whole):
    # b is 1 in each of the 1, 1, 2 and 4 iterations; a is w_0 before each update: of the first,
    # that of snapshot 0
    assert [snapshot.metrics["b"] for snapshot in whole[0][1:]] == [1.0] * 4
    assert whole[0][1].metrics["a"] == pytest.approx(float(whole[0][0].actor[0]))


def test_one_program_makes_the_whole_training(whole):
    assert whole[1][0] == 0 and len(set(whole[1][1:])) == 1


def test_one_seed_gives_one_training(whole):
    again = list(train_on_policy(walk([]), CLOCK, **SIZES))
    for a, b in zip(again, whole[0], strict=True):
        same(a, b)
    other = next(iter(train_on_policy(walk([]), CLOCK, **SIZES | {"seed": 4})))
    assert not np.array_equal(other.actor, whole[0][0].actor)


@pytest.mark.parametrize("snapshots", [0, 9])
def test_snapshots_are_at_least_one_and_at_most_one_an_iteration(snapshots):
    with pytest.raises(ValueError, match=rf"field 'snapshots': expected 1\.\.8, found {snapshots}"):
        next(train_on_policy(walk([]), CLOCK, **SIZES | {"snapshots": snapshots}))


def test_numbers_that_are_not_finite_stop_the_training(tmp_path):
    file = tmp_path / "unfinished.npz"
    training = train_on_policy(walk([], metric=np.nan), CLOCK, **SIZES, resume=file)
    next(training)
    kept = file.read_bytes()
    with pytest.raises(
        ValueError,
        match=r"expected finite metrics, found \{'a': nan, 'b': 1.0\} after 1 of 4 snapshots",
    ):
        next(training)
    assert file.read_bytes() == kept


def test_the_first_part_is_played_in_the_easier_environment_and_judged_in_the_other():
    # Snapshots after 0, 1, 2, 4 and 8 of 8 iterations, the first two parts of them within .25 of
    # all. The easier Clock pays nothing: logits stay as they were, and evaluations do not.
    class Poor(Clock):
        def seen(self, state, own, last):
            return super().seen(state, 0.0 * own, last)

    found = list(train_on_policy(walk([]), CLOCK, **SIZES, easier=Poor(), easier_share=0.25))
    logits = [snapshot.actor for snapshot in found]
    for early in logits[1:3]:
        np.testing.assert_array_equal(early, logits[0])
    assert not np.array_equal(logits[3], logits[2])
    assert all(snapshot.evaluation["returns"].mean() > 0 for snapshot in found)


# ------------------------------------------------------------------------------------------- resume


@pytest.fixture(scope="module")
def left(tmp_path_factory):
    """The file that a training leaves when it is killed after each snapshot."""
    file, contents = tmp_path_factory.mktemp("folder") / "new" / "unfinished.npz", []
    for _ in train_on_policy(walk([]), CLOCK, **SIZES, resume=file):
        contents.append(file.read_bytes())
        assert [path.name for path in file.parent.iterdir()] == [file.name]
    return contents


@pytest.fixture
def file(tmp_path, left):
    """A training that was killed after its third snapshot."""
    (tmp_path / "unfinished.npz").write_bytes(left[2])
    return tmp_path / "unfinished.npz"


def test_a_killed_training_goes_on_bit_for_bit(whole, file, left):
    training = train_on_policy(walk([]), CLOCK, **SIZES, resume=file)
    found = [next(training) for _ in range(4)]
    training.close()  # and killed again
    assert file.read_bytes() != left[2]
    found = list(train_on_policy(walk([]), CLOCK, **SIZES, resume=file))
    for a, b in zip(found, whole[0], strict=True):
        same(a, b)
    spent = [snapshot.cpu_s for snapshot in found]  # added up over processes
    assert spent == sorted(spent) and spent[0] > 0


def test_a_finished_training_is_read_and_not_made_again(whole, file, left):
    traced = []
    file.write_bytes(left[-1])
    found = list(train_on_policy(walk(traced), CLOCK, **SIZES, resume=file))
    for a, b in zip(found, whole[0], strict=True):
        same(a, b)
    assert not traced


@pytest.mark.parametrize(
    ("change", "found"),
    [
        ({"num_envs": 6}, r"expected \(6, .*found \(4, "),
        ({"seed": 4}, "expected the untrained policy of this seed, found another"),
        (
            {"iterations": 16},
            r"expected snapshots after \[0, 12, 48, 108, 192\] steps, found \[0, 12, 24\]",
        ),
    ],
)
def test_the_file_of_another_training_is_refused_by_name(file, change, found):
    with pytest.raises(
        ValueError, match=rf"{file}: expected a file of this training to go on from, .*{found}"
    ):
        next(train_on_policy(walk([]), CLOCK, **SIZES | change, resume=file))


@pytest.mark.parametrize(
    "damage", [lambda data: data[: len(data) // 2], lambda data: b"", lambda data: b"no archive"]
)
def test_a_damaged_file_is_refused_by_name(file, damage):
    file.write_bytes(damage(file.read_bytes()))
    with pytest.raises(
        ValueError,
        match=(
            f"{file}: expected a file of this training to go on from, found another or a "
            "damaged one"
        ),
    ):
        next(train_on_policy(walk([]), CLOCK, **SIZES, resume=file))
