"""Training: every learner's seeds and traces; failed runs; the loop's promises; evaluation; errors.

What an update of every learner does is in `test_invariants.py`.
"""

from __future__ import annotations

import dataclasses
import json
import os
import signal
from types import SimpleNamespace

import chex
import distrax
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxoff import registry
from jaxoff.data.dataset import place
from jaxoff.envs.games.bridge import make_bridge
from jaxoff.errors import InvalidSetting
from jaxoff.eval.rollout import evaluate, rollout
from jaxoff.names import DataOptions, UnknownName
from jaxoff.training import Interrupted, TrainSpec, compiling, loop, mapping, train
from jaxoff.training.program import Program
from jaxoff.training.restore import empty_state, restore_policy
from jaxoff.training.spec import evaluation_steps, fitted, resolve
from jaxoff.types import EnvSpec, Policy, TimeStep
from tests.learners import FORMS, TOY, StopAt, state_of, toy_policy

pytestmark = pytest.mark.usefixtures("kept_programs", "kept_data")


def forms(*names: str, slow: tuple[str, ...] = ()):
    """Run a test for these forms (default: all); some take long to compile."""
    return pytest.mark.parametrize(
        "name",
        [pytest.param(n, marks=pytest.mark.slow) if n in slow else n for n in names or FORMS],
    )


def test_the_table_has_every_registered_learner():
    # entry points of other packages are theirs to test
    ours = {
        name
        for name in registry.learner_names()
        if all(m.__name__.startswith("jaxoff.baselines.") for m in registry.forms(name).values())
    }
    assert ours == {form.spec.method for form in FORMS.values()}


# ----------------------------------------------------------------------------------- the run axis


# One of each kind: a net, several trained in turn, a sampler that learns, stages. `make test-all`
# compares every form.
KINDS = ("bc", "inspo", "maddpg-learned-pjap", "sit")


@forms(slow=tuple(name for name in FORMS if name not in KINDS))
def test_a_run_among_others_is_bit_for_bit_the_same(name, trained, tmp_path):
    many, spec = trained(name), FORMS[name].spec  # seeds 0, 1, 2
    others = train(dataclasses.replace(spec, seeds=(1, 7, 8)), tmp_path)
    chex.assert_trees_all_equal(
        jax.tree.map(lambda x: x[1], state_of(many.path)),
        jax.tree.map(lambda x: x[0], state_of(tmp_path)),
    )
    for key, value in many.history.items():
        np.testing.assert_array_equal(others.history[key][:, 0], value[:, 1], err_msg=key)
    np.testing.assert_array_equal(others.returns[0], many.returns[1])


@forms("bc", "inspo", "maddpg-learned-pjap", slow=("inspo",))
def test_a_run_alone_equals_the_run_among_many(name, trained, tmp_path):
    # Another number of runs is another program, so its sums may round in another order.
    many, spec = trained(name), FORMS[name].spec
    alone = train(dataclasses.replace(spec, seeds=(1,)), tmp_path)
    states = (
        jax.tree.map(lambda x: x[1], state_of(many.path)),
        jax.tree.map(lambda x: x[0], state_of(tmp_path)),
    )
    chex.assert_trees_all_close(*states, rtol=1e-5, atol=1e-6)
    for key, value in many.history.items():
        np.testing.assert_allclose(
            alone.history[key][:, 0], value[:, 1], rtol=1e-5, atol=1e-6, err_msg=key
        )
    np.testing.assert_allclose(alone.returns[0], many.returns[1], rtol=1e-6)


@forms("bc", "bc-recurrent", "inspo", "maddpg-learned-pjap", slow=("bc-recurrent", "inspo"))
def test_vmapped_runs_have_the_policies_of_runs_in_sequence(name, trained, tmp_path):
    many, spec = trained(name), FORMS[name].spec
    train(dataclasses.replace(spec, mode="vmap"), tmp_path)
    outputs = [
        [first_output(folder, run) for run in range(len(spec.seeds))]
        for folder in (many.path, tmp_path)
    ]
    np.testing.assert_allclose(outputs[1], outputs[0], rtol=1e-4, atol=1e-6)
    # seeds differ, so equality says something
    assert not np.allclose(outputs[0][0], outputs[0][1], rtol=1e-4)


def first_output(folder, run: int) -> np.ndarray:
    """Probabilities or actions of a trained policy after a reset."""
    env, policy, _ = restore_policy(folder, run)

    def output(key):
        dist = policy.distribution(policy.initial(()), env.reset(key)[1])[1]
        return dist.probs if env.spec.discrete else dist.mode()

    return np.asarray(jax.jit(output)(jax.random.key(0)))


@pytest.mark.parametrize("name", ["bc", "inspo"])
def test_update_is_traced_once_per_stage_over_all_chunks_and_runs(name, monkeypatch):
    spec = FORMS[name].spec
    module, traces = registry.learner(spec.method, spec.task), []

    def make(config, env_spec):
        made = module.make(config, env_spec)
        stages = made if isinstance(made, tuple) and not hasattr(made, "update") else None

        def counted(learner, label):
            def update(*args):
                traces.append(label)
                return learner.update(*args)

            return learner._replace(update=update)

        return (
            tuple(s._replace(learner=counted(s.learner, s.name)) for s in stages)
            if stages
            else counted(made, "train")
        )

    monkeypatch.setattr(
        registry,
        "learner",
        lambda *_: SimpleNamespace(__name__=module.__name__, Config=module.Config, make=make),
    )
    done = train(spec)
    assert done.steps.tolist() == [0, 2, 4, 6]  # three chunks and the look before
    assert traces == (["train"] if name == "bc" else ["behaviour", "train"])


# ----------------------------------------------------------------------------------- failed runs


@pytest.fixture
def toy(monkeypatch):
    """The toy learner under the name `toy`."""
    known = registry.learner
    monkeypatch.setattr(
        registry, "learner", lambda name, task: TOY if name == "toy" else known(name, task)
    )
    return TrainSpec("toy", "matrix/xor/b", seeds=(0, 1), steps=6, evaluations=3, eval_episodes=2)


def test_a_run_with_nan_is_frozen_and_reported_and_the_others_are_as_without_it(
    toy, tmp_path, monkeypatch
):
    # a rate of infinity is refused
    monkeypatch.setattr("jaxoff.training.spec.check_number", lambda *_: None)
    # Of each chunk's 2 updates: with lr = inf, update 2 breaks, so chunk 2 fails and the state is
    # that after 2 updates.
    config = {"bad_from": 2}
    bad = train(
        dataclasses.replace(toy, grid={"lr": [0.1, np.inf]}, config=config), tmp_path / "bad"
    )
    good = train(
        dataclasses.replace(toy, grid={"lr": [0.1, 0.2]}, config=config), tmp_path / "good"
    )
    final = json.loads((tmp_path / "bad" / "final.json").read_text())["runs"]
    assert [run["failed_at"] for run in final] == [None, None, 2, 2]
    assert [run["config"]["lr"] for run in final] == [0.1, 0.1, None, None]
    rows = [
        json.loads(line) for line in (tmp_path / "bad" / "metrics.jsonl").read_text().splitlines()
    ]
    assert [(r["run"], r["step"]) for r in rows if r["loss/loss"] is None] == [
        (2, 4),
        (3, 4),
        (2, 6),
        (3, 6),
    ]
    assert all(("failed_at" in r) == (r["loss/loss"] is None) for r in rows)

    left, right = state_of(tmp_path / "bad"), state_of(tmp_path / "good")
    chex.assert_trees_all_equal(*(jax.tree.map(lambda x: x[:2], s) for s in (left, right)))
    np.testing.assert_array_equal(left["learner"]["count"], [6, 6, 2, 2])
    np.testing.assert_array_equal(left["updates"], [6, 6, 2, 2])
    chex.assert_tree_all_finite(left["learner"])
    np.testing.assert_array_equal(bad.returns[:2], good.returns[:2])
    for key, value in good.history.items():
        np.testing.assert_array_equal(bad.history[key][:, :2], value[:, :2], err_msg=key)
    # The state kept is that of a healthy run after its first two updates: the toy uses step 0.1
    # until then.
    short = train(dataclasses.replace(toy, steps=2, evaluations=1), tmp_path / "short")
    assert short.steps.tolist() == [0, 2]
    np.testing.assert_array_equal(
        left["learner"]["value"][2:], state_of(tmp_path / "short")["learner"]["value"]
    )


# -------------------------------------------------------------------------------- the loop's
# promises


def test_a_chunk_runs_under_the_transfer_guard(toy, monkeypatch):
    kept, refused = compiling.Compiler.made, []

    def made(self, future):
        compiled = kept(self, future)

        def checked(*args):
            try:
                jax.jit(lambda x: x + 1)(np.ones(3))
            except Exception as error:
                refused.append(str(error))
            return compiled(*args)

        return checked

    monkeypatch.setattr(compiling.Compiler, "made", made)
    train(toy)
    # the first evaluation, then three chunks, each with a report
    assert len(refused) == 7 and all(
        "Disallowed host-to-device transfer" in text for text in refused
    )


def test_a_chunk_takes_over_the_memory_of_the_state_it_is_given(toy):
    job, env = resolve(toy), registry.make_env(toy.task)
    mesh = mapping.run_mesh(1)
    dataset = place(registry.make_data(toy.task), env.spec)
    program = Program(job, env, 0, 2, mesh, "sequence", evaluates=True)
    before = program.prepare(mapping.to_devices((job.config, empty_state(job)), mesh), dataset)
    after, _ = program.chunk(before, (dataset, np.int32(2)))
    assert all(leaf.is_deleted() for leaf in jax.tree.leaves(before.run) if leaf.size)
    assert not any(leaf.is_deleted() for leaf in jax.tree.leaves((after, dataset)))


def test_evaluations_are_as_many_as_asked_for_and_do_not_change_the_result(toy, tmp_path):
    assert evaluation_steps(6, 3) == [2, 4, 6] and evaluation_steps(2, 10) == [1, 2]
    assert evaluation_steps(7, 3) == [2, 5, 7] and evaluation_steps(9, 4) == [2, 4, 7, 9]
    steps = evaluation_steps(1009, 10)
    assert len(steps) == 10 and set(np.diff([0, *steps])) == {100, 101} and steps[-1] == 1009
    three, one = (train(dataclasses.replace(toy, evaluations=k), tmp_path / str(k)) for k in (3, 1))
    assert three.steps.tolist() == [0, 2, 4, 6] and one.steps.tolist() == [0, 6]
    chex.assert_trees_all_equal(state_of(tmp_path / "3"), state_of(tmp_path / "1"))
    np.testing.assert_array_equal(three.returns, one.returns)


def test_results_do_not_depend_on_where_chunks_end(toy, tmp_path, monkeypatch):
    # One run of two breaks within the second interval, and a job is stopped within it.
    monkeypatch.setattr("jaxoff.training.spec.check_number", lambda *_: None)
    grid = {"lr": [0.1, np.inf]}
    spec = dataclasses.replace(toy, evaluations=2, config={"bad_from": 4}, grid=grid)
    whole = train(spec, tmp_path / "whole")
    assert [run["failed_at"] for run in whole.runs] == [None, None, 3, 3]
    monkeypatch.setattr(loop._Loop, "_chunk_size", lambda *_: 1)
    with pytest.raises(Interrupted):
        train(spec, tmp_path / "parts", sinks=[StopAt(0, 5)])
    for parts in (train(spec), train(spec, tmp_path / "parts")):
        assert [run["failed_at"] for run in parts.runs] == [None, None, 3, 3]
        chex.assert_trees_all_equal(whole.history, parts.history)
    chex.assert_trees_all_equal(state_of(tmp_path / "whole"), state_of(tmp_path / "parts"))


def test_a_job_that_needs_more_memory_than_there_is_is_refused(toy, monkeypatch):
    monkeypatch.setattr(mapping, "needed_bytes", lambda *_: 10**18)
    with pytest.raises(
        InvalidSetting, match=r"toy on matrix/xor/b: 1,000,000.* bytes .* for 2 runs"
    ):
        train(toy)
    monkeypatch.undo()
    huge = TrainSpec("bc", "matrix/xor/b", steps=1, config={"hidden": 2_000_000})
    with pytest.raises(InvalidSetting, match="bytes of memory are needed for 1 runs, expected at"):
        train(huge)


def test_a_chunk_lasts_as_long_as_it_may(toy, monkeypatch):
    made = []
    size = loop._Loop._chunk_size

    def noted(*args):
        made.append(size(*args))
        return made[-1]

    monkeypatch.setattr(loop._Loop, "_chunk_size", noted)
    spec = dataclasses.replace(toy, evaluations=1, steps=400)
    train(spec)
    assert made == [16, 256, 128]
    made.clear()
    monkeypatch.setattr(loop, "CHUNK_S", 1e-9)
    train(dataclasses.replace(spec, steps=20))
    assert made == [16, 1, 1, 1, 1]


@pytest.mark.parametrize("place", ["start", "record", "finish"])
def test_no_logger_can_end_a_run(toy, tmp_path, capsys, place):
    class Broken(StopAt):
        asked = 0

    def fail(self, _):
        Broken.asked += 1
        raise OSError("no space left")

    setattr(Broken, place, fail)
    done = train(toy, tmp_path, sinks=[Broken(0, -1)])
    assert (tmp_path / "final.json").exists() and len(done.steps) == 4
    error = capsys.readouterr().err
    assert error.count("Broken is switched off, training goes on: OSError('no space left')") == 1
    assert Broken.asked == 1


def test_the_state_is_saved_before_a_logger_is_asked_when_training_is_to_stop(toy, tmp_path):
    class Slow(StopAt):
        def record(self, rec):
            assert any((tmp_path / "checkpoint").iterdir())
            raise SystemExit

    class Early(StopAt):  # a signal before the first record
        def start(self, info):
            os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises((Interrupted, SystemExit)):
        train(toy, tmp_path, sinks=[Early(0, -1), Slow(0, -1)])
    whole = train(toy)
    np.testing.assert_array_equal(train(toy, tmp_path).returns, whole.returns)


def test_a_grid_is_grid_points_times_seeds_with_seeds_inner(toy):
    done = train(dataclasses.replace(toy, grid={"lr": [0.1, 0.2]}))
    assert [(run["config"]["lr"], run["seed"]) for run in done.runs] == [
        (0.1, 0),
        (0.1, 1),
        (0.2, 0),
        (0.2, 1),
    ]
    assert len({float(x) for x in done.history["exact_value"][-1]}) == 4


def test_a_finished_folder_is_read_back_without_training(toy, tmp_path, monkeypatch):
    first = train(toy, tmp_path)
    monkeypatch.setattr(loop, "_Loop", None)  # training again would fail
    again = train(toy, tmp_path)
    assert again.runs == first.runs and again.timing == first.timing and again.path == tmp_path
    np.testing.assert_array_equal(again.returns, first.returns)
    chex.assert_trees_all_equal(again.history, first.history)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"config": {"bad_from": 1}}, "'config.bad_from': expected 1, found 0"),
        ({"task": "matrix/xor/c"}, "'task': expected 'matrix/xor/c', found 'matrix/xor/b'"),
        ({"grid": {"lr": [0.1, 0.2]}}, r"'config.lr': expected \[0.1.*, 0.2.*\], found \[0.1"),
        ({"sampler": "pjap"}, "'sampler': expected 'pjap', found 'uniform'"),
        ({"data_seed": 1}, "'data_seed': expected 1, found 0"),
    ],
)
def test_a_folder_with_another_job_is_refused_naming_the_field(toy, tmp_path, change, message):
    train(toy, tmp_path)
    with pytest.raises(ValueError, match=rf"config\.json: field {message}.*another job"):
        train(dataclasses.replace(toy, **change), tmp_path)


def test_a_folder_whose_data_have_changed_is_refused(toy, tmp_path):
    data = registry.make_data(toy.task)
    train(toy, tmp_path, data=data)
    with pytest.raises(ValueError, match=r"field 'data\.sha256'"):
        train(toy, tmp_path, data=data._replace(reward=np.asarray(data.reward) + 1))


# --------------------------------------------------------------------------------- specs and errors


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"method": "inspoo"}, UnknownName, "unknown method 'inspoo'; nearest: inspo"),
        ({"task": "matrx/xor/b"}, UnknownName, "unknown task family 'matrx'; nearest: matrix"),
        (
            {"task": "xor/b"},
            UnknownName,
            r"task 'xor/b': expected \[source:\]family/scenario/quality, found 2",
        ),
        (
            {"config": {"hiden": 3}},
            UnknownName,
            "unknown field of jaxoff.baselines.bc.Config 'hiden'; nearest: hidden",
        ),
        ({"grid": {"lrr": [1.0]}}, UnknownName, "unknown field of bc's Config 'lrr'; nearest: lr"),
        ({"sampler": "pjop"}, UnknownName, "unknown sampler 'pjop'; nearest: pjap"),
        (
            {"sampler": "pjap", "sampler_config": {"alfa": 1}},
            UnknownName,
            "jaxoff.baselines.pjap.Config 'alfa'; nearest: alpha",
        ),
        (
            {"grid": {"recurrent": [0, 1]}},
            ValueError,
            "grid field 'recurrent': expected a numeric field .* a static one",
        ),
        (
            {"grid": {"lr": []}},
            ValueError,
            "grid field 'lr': expected at least one value, found none",
        ),
        (
            {"config": {"lr": "fast"}},
            TypeError,
            "jaxoff.baselines.bc.Config.lr: expected float, found 'fast'",
        ),
        (
            {"config": {"hidden": 16.5}},
            TypeError,
            "jaxoff.baselines.bc.Config.hidden: expected int, found 16.5",
        ),
        (
            {"config": {"recurrent": "perhaps"}},
            TypeError,
            "jaxoff.baselines.bc.Config.recurrent: expected bool, found 'perhaps'",
        ),
        (
            {"seeds": ()},
            ValueError,
            r"field 'seeds': expected distinct whole numbers in 0 .. 2\*\*32 - 1, at least "
            r"one, found \[\]",
        ),
        ({"seeds": (0, 0)}, ValueError, r"field 'seeds': .* found \[0, 0\]"),
        ({"seeds": (2**32,)}, ValueError, "field 'seeds'"),
        ({"seeds": (0.5,)}, ValueError, "field 'seeds'"),
        ({"grid": {"lr": (1e-3, 1e-3 + 1e-12)}}, ValueError, "grid field 'lr': .* that differ"),
        ({"grid": {"lr": (1e-3, float("nan"))}}, ValueError, "grid field 'lr': .* found nan"),
        ({"grid": {"lr": (1e-3, True)}}, ValueError, "grid field 'lr': .* found True"),
        ({"grid": {"lr": (1e39,)}}, ValueError, "grid field 'lr': .* float32 holds, found 1e.39"),
        ({"config": {"batch_size": True}}, TypeError, "batch_size: expected int, found True"),
        (
            {"config": {"batch_size": 2**31}},
            ValueError,
            "'batch_size': expected at most 2147483647",
        ),
        ({"steps": 2**31}, ValueError, "field 'steps': expected at most 2147483647"),
        ({"sampled": 1}, ValueError, "field 'sampled': expected true or false, found 1"),
        ({"checkpoint_s": float("nan")}, ValueError, "field 'checkpoint_s': .* found nan"),
        ({"checkpoint_s": -1}, ValueError, "field 'checkpoint_s': .* found -1"),
        (
            {"sampler": "pjap", "sampler_config": {"alpha": float("nan")}},
            ValueError,
            "field 'alpha': expected a finite number, found nan",
        ),
        (
            {"sampler": "pjap", "sampler_config": {"eps": -1}},
            ValueError,
            "field 'eps': expected at least 0, found -1",
        ),
        (
            {"sampler": "cyclic", "sampler_config": {"period": 0}},
            ValueError,
            "field 'period': expected at least 1, found 0",
        ),
        ({"steps": 0}, ValueError, "field 'steps': expected a whole number of at least 1, found 0"),
        (
            {"steps": True},
            ValueError,
            "field 'steps': expected a whole number of at least 1, found True",
        ),
        (
            {"evaluations": 2.5},
            ValueError,
            "field 'evaluations': expected a whole number of at least 1, found 2.5",
        ),
        (
            {"obs_dtype": "int8"},
            ValueError,
            "field 'obs_dtype': expected one of float32, bfloat16, found 'int8'",
        ),
        (
            {"config": {"steps": 5}, "steps": 4},
            ValueError,
            "field 'steps': expected once, found 4 and, among .* settings, 5",
        ),
        (
            {"config": {"lr": 0.1}, "grid": {"lr": [0.2]}},
            ValueError,
            "field 'lr': expected in --set, --steps or --grid, found in two",
        ),
        (
            {"grid": {"lr": [1e-60]}},
            ValueError,
            "grid field 'lr': expected a number that float32 holds, found 1e-60",
        ),
        (
            {"config": {"batch_size": 0}},
            ValueError,
            "field 'batch_size': expected at least 1, found 0",
        ),
        ({"config": {"hidden": -3}}, ValueError, "field 'hidden': expected at least 1, found -3"),
        ({"config": {"window": -7}}, ValueError, "field 'window': expected at least -1, found -7"),
        ({"config": {"lr": -1.0}}, ValueError, "field 'lr': expected at least 0, found -1"),
        ({"config": {"lr": "nan"}}, ValueError, "field 'lr': expected a finite number, found nan"),
        (
            {"config": {"lr": "1e400"}},
            ValueError,
            "field 'lr': expected a finite number, found inf",
        ),
        ({"config": {"max_grad_norm": -1.0}}, ValueError, "field 'max_grad_norm'"),
        (
            {"method": "qmix", "config": {"gamma": 7.0}},
            ValueError,
            "field .gamma.: expected 0 to 1, found 7",
        ),
        (
            {"config": {"layer_init": "torhc"}},
            ValueError,
            "field 'layer_init': expected one of torch, .*, found 'torhc'; nearest: torch",
        ),
        (
            {"config": {"recurrent": True}},
            ValueError,
            r"bc: field 'window': expected -1 \(episodes\) or a length",
        ),
        (
            {"task": "matrix/xor/q"},
            UnknownName,
            "unknown task 'matrix/xor/q'; nearest: matrix/xor/",
        ),
        (
            {"method": "maddpg", "config": {}},
            UnknownName,
            "method 'maddpg' has no form for the discrete actions of 'matrix/xor/",
        ),
        (
            {"mode": "both"},
            ValueError,
            "field 'mode': expected one of auto, vmap, sequence, found 'both'",
        ),
    ],
)
def test_a_bad_spec_is_refused_by_name_before_data_and_folder_are_made(
    change, error, message, tmp_path, monkeypatch
):
    if "matrix/xor/q" not in str(change):  # a quality is the data's own word
        monkeypatch.setattr(registry, "make_data", None)
    with pytest.raises(error, match=message):
        train(dataclasses.replace(FORMS["bc"].spec, **change), tmp_path / "job")
    assert not (tmp_path / "job").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"method": "omar", "grid": {"trace": [0.1, 0.9]}},
            "unknown field of omar's Config 'trace'",
        ),
        (
            {"method": "omar", "config": {"search": "banana"}},
            "field 'search': expected one of softmax, cem, random, found 'banana'",
        ),
        (
            {"method": "td3bc", "config": {"batch_size": 64}},
            "field 'batch_size': expected a multiple of 3, the number of agents, found 64",
        ),
        (
            {"method": "cql", "config": {"input_norm": "banana"}},
            "field 'input_norm': expected one of batch, dataset, none, found 'banana'",
        ),
        (
            {"method": "qmix"},
            "method 'qmix' has no form for the continuous actions of 'mpe/spread/random'",
        ),
    ],
)
def test_a_setting_that_the_tasks_form_does_not_read_is_refused_and_the_corrected_job_trains(
    change, message, tmp_path, monkeypatch
):
    with monkeypatch.context() as patch:
        patch.setattr(registry, "make_data", None)
        with pytest.raises(ValueError, match=message):
            train(
                TrainSpec(**{"task": "mpe/spread/random", "method": ""} | change), tmp_path / "job"
            )
    assert not (tmp_path / "job").exists()


def test_settings_of_the_task_come_between_defaults_and_the_users_own():
    def beta(task, **config):
        return float(resolve(TrainSpec("inspo", task, config=config)).config.beta_start[0])

    # matrix/mne*/* in settings.toml says 50, matrix/xor/* 0.02; the default is 0.1.
    assert beta("matrix/mne/balanced") == 50.0
    assert beta("matrix/xor/b") == pytest.approx(0.02)
    assert beta("matrix/mne/balanced", beta_start=3) == 3.0


# --------------------------------------------------------------------------------------- evaluation


def scripted(plan: np.ndarray) -> Policy:
    """Plays plan [T, N] by the number of steps that its memory counted."""

    def distribution(count, seen):
        actions = jnp.asarray(plan)[jnp.minimum(count, len(plan) - 1)]
        return count + 1, distrax.Categorical(logits=jnp.log(jax.nn.one_hot(actions, 5)))

    return Policy(lambda shape: jnp.zeros(shape, jnp.int32), distribution)


def test_the_optimal_path_through_bridge_has_its_exact_return():
    # The best joint policy is worth -1.2354526 (exact dynamic programming); the optimal data hold
    # its episodes.
    data = registry.make_data("grid/bridge/optimal")
    best = int(np.argmax((data.reward * data.filled).sum(1)))
    out = evaluate(
        make_bridge(), scripted(np.asarray(data.actions[best])), jax.random.key(0), 3, sampled=True
    )
    np.testing.assert_allclose(out["returns"], -1.2354526, atol=1e-4)
    assert out["lengths"].tolist() == [int(data.filled[best].sum())] * 3 and out["lengths"][0] < 20


class Lights:
    """Two agents, 4 actions, of which t % 4 is the only one not available.

    1 a step; the first coin ends it early.
    """

    spec = EnvSpec(
        "lights", num_agents=2, obs_size=1, state_size=1, action_size=4, discrete=True, horizon=5
    )

    def reset(self, key):
        """Time 0, and whether the episode ends after 2 steps."""
        state = (jnp.zeros((), jnp.int32), jax.random.bernoulli(key))
        return state, self._see(state, jnp.zeros(()), jnp.full(2, -1, jnp.int32))

    def step(self, key, state, actions):
        """A tick. After the end it pays 100, which must not count."""
        time, early = state
        over = time >= jnp.where(early, 2, 5)
        state = (time + 1, early)
        return state, self._see(state, jnp.where(over, 100.0, 1.0), actions)

    def _see(self, state, reward, last):
        time, early = state
        avail = jnp.tile((jnp.arange(4) != time % 4).astype(jnp.float32), (2, 1))
        seen = jnp.broadcast_to(time.astype(jnp.float32), (2, 1))
        return TimeStep(
            seen, seen[0], avail, reward, early & (time == 2), ~early & (time == 5), last
        )


def counting_policy() -> Policy:
    """Uniform over available actions; its memory counts the steps since the episode began."""

    def distribution(count, seen):
        return count + 1, distrax.Categorical(
            logits=jnp.where(seen.avail > 0, 0.0, -1e10) + 0 * count[..., None, None]
        )

    return Policy(lambda shape: jnp.zeros(shape), distribution)


@pytest.fixture(scope="module")
def lights():
    """64 episodes of Lights."""
    env, policy = Lights(), counting_policy()

    def play(key):
        return rollout(env, policy, key, 64, sampled=True), evaluate(
            env, policy, key, 64, sampled=True
        )

    return jax.jit(play)(jax.random.key(0))


def test_rewards_after_the_end_do_not_count(lights):
    # 2 steps or 5 steps of reward 1; both kinds of episodes are there.
    returns = np.asarray(lights[1]["returns"])
    assert set(returns.tolist()) == {2.0, 5.0}
    np.testing.assert_array_equal(lights[1]["lengths"], returns)


def test_unavailable_actions_are_never_sampled(lights):
    actions = np.asarray(lights[0].actions)  # [T, E, N]
    for time in range(5):
        assert set(np.unique(actions[time]).tolist()) == {0, 1, 2, 3} - {time % 4}


def test_the_previous_action_is_minus_one_after_a_reset_and_then_the_action_made(lights):
    trace = lights[0]
    np.testing.assert_array_equal(trace.before.last_actions[0], -1)
    np.testing.assert_array_equal(trace.before.last_actions[1:], trace.actions[:-1])


def test_memory_starts_anew_in_each_evaluation_and_the_mode_is_taken_if_not_sampled():
    # A plan of one right move (3), then left (4): from memory 0 the first action is 3 in every
    # rollout.
    plan = np.array([[3, 3], [4, 4]])
    play = jax.jit(
        lambda key: rollout(make_bridge(), scripted(plan), key, 2, sampled=False).actions[:, :, 0]
    )
    for seed in (0, 1):
        assert play(jax.random.key(seed))[:3].tolist() == [[3, 3], [4, 4], [4, 4]]


def test_sampled_and_greedy_evaluation_differ_as_the_policy_says():
    # XOR pays 0, 1, 1, -2; with P(1) = 0.4 the mode (0, 0) pays 0, samples pay all three.
    env, policy = registry.make_env("matrix/xor/b"), toy_policy(jnp.array([0.6, 0.4]))
    greedy, drawn = (
        evaluate(env, policy, jax.random.key(0), 64, sampled=flag)["returns"]
        for flag in (False, True)
    )
    assert set(greedy.tolist()) == {0.0} and set(drawn.tolist()) == {0.0, 1.0, -2.0}


def test_an_interrupted_job_without_a_folder_says_that_nothing_was_saved_and_closes_its_sinks(toy):
    sink = StopAt(0, 2)
    with pytest.raises(Interrupted, match="nothing was saved"):
        train(toy, sinks=[sink])
    assert sink.summaries == [{}]


def test_a_budget_in_slots_is_as_many_updates_as_whole_episodes_of_the_data_make_of_it():
    # Episodes of 1 step have 2 filled slots: 8 episodes an update are 16 slots, and 100 slots are 7
    # updates, as 6 give 96.
    spec = TrainSpec(
        "bc",
        "matrix/xor/b",
        config={"hidden": 8, "batch_size": 8, "window": -1, "slots": 100},
        evaluations=1,
    )
    job, data = resolve(spec), registry.make_data(spec.task)
    assert fitted(job, data).config.steps == 7 and fitted(job, data).longest == 1
    results = train(spec)
    assert results.steps.tolist() == [0, 7] and results.runs[0]["updates"] == 7


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (
            {"slots": 100, "steps": 5, "window": -1},
            "bc: fields 'slots' and 'steps': expected one of the two, found both",
        ),
        ({"slots": 100}, r"bc: field 'window': expected -1 \(episodes\) with slots=100, found 0"),
        ({"slots": -1, "window": -1}, "field 'slots': expected at least 0, found -1"),
    ],
)
def test_a_budget_that_cannot_be_counted_is_refused(config, message):
    with pytest.raises(ValueError, match=message):
        resolve(TrainSpec("bc", "matrix/xor/b", config=config))


def test_data_may_have_longer_episodes_than_the_environment():
    # Bridge ends after 20 steps, its data after up to 50: a transformer's times and its context go
    # by the longer.
    small = {"hidden": 8, "layers": 1, "heads": 1, "window": -1, "steps": 1, "batch_size": 2}
    spec = TrainSpec(
        "madt", "grid/bridge/mixed", config=small, data_episodes=20, evaluations=1, eval_episodes=2
    )
    data = registry.make_data(spec.task, DataOptions(0, 20, None))
    longest, env = int(data.filled.sum(1).max()), registry.make_env(spec.task).spec
    job = fitted(resolve(spec), data)
    assert env.horizon == 20 < longest == job.longest
    stage = job.stages(jax.tree.map(lambda x: x[0], job.config), env)[0]
    state = jax.eval_shape(
        lambda key, data: stage.prepare((), data, key), jax.random.key(0), place(data, env)
    )
    tables = state.policy["trunk"]["params"]
    assert tables["times"].shape[0] == longest + 1 and tables["slots"].shape[0] == longest * 1
    assert np.isfinite(train(spec).returns).all()
