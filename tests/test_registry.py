"""Names: parsed, found, or refused with the nearest ones; configs are typed."""

from __future__ import annotations

import types

import jax
import jax.numpy as jnp
import pytest
from flax import struct

from jaxoff import registry
from jaxoff.registry import Task, UnknownName


@pytest.mark.parametrize(
    ("text", "parts"),
    [("grid/bridge/mixed", ("", "grid", "bridge", "mixed")), ("omar:mpe/spread/medium-replay", ("omar", "mpe", "spread", "medium-replay"))],
)
def test_a_task_is_parsed_and_written_back(text, parts):
    task = Task.parse(text)
    assert (task.source, task.family, task.scenario, task.quality) == parts
    assert str(task) == text
    assert not set(task.slug) & set("/:")


@pytest.mark.parametrize("text", ["bridge", "grid/bridge", "grid/bridge/mixed/x", "grid//mixed", "omar:"])
def test_a_task_of_another_form_is_refused(text):
    with pytest.raises(UnknownName, match=r"expected \[source:\]family/scenario/quality"):
        Task.parse(text)


def test_every_built_in_task_is_named_once_and_has_an_environment():
    tasks = registry.tasks()
    assert len(tasks) == len(set(tasks))
    assert {"matrix/xor/c", "matrix/mne-20/imbalanced-0.98", "grid/bridge/mixed", "alberdice:grid/bridge/optimal"} <= set(tasks)
    for game in ("decoupled", "sign", "action", "twin_peaks"):
        assert f"poly/{game}/uniform" in tasks
    for task in tasks:
        family = Task.parse(task).family
        if family in ("matrix", "grid", "poly"):
            assert family in registry.make_env(task).spec.name


@pytest.mark.parametrize(
    ("task", "near"),
    [
        ("grid/bridge/mixd", "grid/bridge/mixed"),
        ("grid/brigde/optimal", "grid/bridge/optimal"),
        ("matrix/xor/e", "matrix/xor/a"),
        ("matrix/mne/imbalanced-0.8", "matrix/mne/imbalanced-0.9"),
        ("poly/twin_peak/uniform", "poly/twin_peaks/uniform"),
        ("poly/sign/unifrom", "poly/sign/uniform"),
        ("alberdice:matrix/xor/z", "alberdice:matrix/xor/a"),
        ("gird/bridge/mixed", "grid"),
        ("alberdise:grid/bridge/mixed", "alberdice:grid"),
    ],
)
def test_an_unknown_task_lists_the_nearest(task, near):
    for ask in (registry.make_env, registry.make_data):
        with pytest.raises(UnknownName, match=f"nearest: .*{near}"):
            ask(task)


def test_the_source_is_part_of_the_identity():
    ours, theirs = registry.make_env("matrix/xor/a").spec, registry.make_env("alberdice:matrix/xor/a").spec
    assert (ours.horizon, ours.obs_size) == (1, 1)
    assert (theirs.horizon, theirs.obs_size) == (50, 4)


def test_unknown_methods_and_samplers_list_the_nearest():
    with pytest.raises(UnknownName, match="unknown method 'inspoo'; nearest: inspo"):
        registry.learner("inspoo")
    with pytest.raises(UnknownName, match="unknown sampler 'pjab'; nearest: pjap"):
        registry.sampler("pjab")
    assert "uniform" in registry.sampler_names()


def test_a_name_near_nothing_lists_what_is_known():
    assert str(registry.unknown("thing", "zzzz", ["b", "a"])) == "unknown thing 'zzzz'; known: a, b"
    assert str(registry.unknown("thing", "zzzz", [])) == "unknown thing 'zzzz'; known: none"


# ------------------------------------------------------------------------------------------- configs


@struct.dataclass
class Config:
    """A leaf, and one static field of each type."""

    lr: float = 3e-4
    width: int = struct.field(pytree_node=False, default=128)
    shared: bool = struct.field(pytree_node=False, default=True)
    kind: str = struct.field(pytree_node=False, default="product")
    note: str | None = struct.field(pytree_node=False, default=None)


MODULE = types.SimpleNamespace(Config=Config, __name__="method")
TASK = Task.parse("grid/bridge/mixed")


def test_leaves_become_float32_arrays_and_static_fields_stay():
    config = registry.resolve(MODULE, TASK, {"lr": 1})
    assert isinstance(config.lr, jax.Array) and config.lr.dtype == jnp.float32 and float(config.lr) == 1
    assert (config.width, config.shared, config.kind, config.note) == (128, True, "product", None)
    assert jax.tree.leaves(config) == [config.lr]
    assert registry.is_leaf(registry.fields(Config)["lr"]) and not registry.is_leaf(registry.fields(Config)["width"])


def test_text_of_the_command_line_is_read_as_the_fields_type():
    config = registry.resolve(MODULE, TASK, {"lr": "1e-2", "width": "64", "shared": "False", "kind": "joint"})
    assert (float(config.lr), config.width, config.shared, config.kind) == (pytest.approx(0.01), 64, False, "joint")


def test_a_sweep_passes_its_arrays_through():
    values = jnp.array([0.1, 0.2])
    assert registry.resolve(MODULE, TASK, {"lr": values}).lr is not None
    assert registry.resolve(MODULE, TASK, {"lr": values}).lr.tolist() == values.tolist()


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("width", "wide", "method.Config.width: expected int, found 'wide'"),
        ("width", 1.5, "method.Config.width: expected int, found 1.5"),
        ("shared", "yes", "method.Config.shared: expected bool, found 'yes'"),
        ("lr", "fast", "method.Config.lr: expected float, found 'fast'"),
        ("kind", 3, "method.Config.kind: expected str, found 3"),
        ("lr", True, "method.Config.lr: expected float, found True"),
    ],
)
def test_an_ill_typed_value_names_its_field(field, value, message):
    with pytest.raises(TypeError, match=message):
        registry.resolve(MODULE, TASK, {field: value})


def test_an_unknown_field_lists_the_nearest():
    with pytest.raises(UnknownName, match="'widht'; nearest: width"):
        registry.resolve(MODULE, TASK, {"widht": 64})


def test_a_tuple_field_is_given_by_commas():
    config = registry.resolve(registry.learner("maddpg"), registry.Task.parse("poly/sign/uniform"), {"hidden": "16,8"})
    assert config.hidden == (16, 8)


def test_updates_that_a_user_gives_take_the_place_of_a_budget_in_the_settings():
    task = registry.Task.parse("smax/3m/medium")
    config = registry.resolve(registry.learner("cfcql"), task, {})
    assert (config.slots, config.behaviour_slots) == (10_050_000, 10_000_000)
    config = registry.resolve(registry.learner("cfcql"), task, {"steps": 7})
    assert (config.slots, config.steps, config.behaviour_slots) == (0, 7, 10_000_000)
