"""Names: parsed, found, or refused with the nearest ones; configs are typed."""

from __future__ import annotations

import dataclasses
import importlib
import subprocess
import sys
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import struct
from jaxoff.baselines import bc

import jaxoff
from jaxoff import registry
from jaxoff.config import config_fields, is_leaf, resolve_config, static
from jaxoff.errors import InvalidSetting, JaxoffError
from jaxoff.names import DataOptions, Task, UnknownName, unknown
from jaxoff.training import TrainSpec
from jaxoff.training.spec import expanded, resolve
from jaxoff.types import EnvSpec


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("grid/bridge/mixed", ("", "grid", "bridge", "mixed")),
        ("omar:mpe/spread/medium-replay", ("omar", "mpe", "spread", "medium-replay")),
    ],
)
def test_a_task_is_parsed_and_written_back(text, parts):
    task = Task.parse(text)
    assert (task.source, task.family, task.scenario, task.quality) == parts
    assert str(task) == text
    assert not set(task.slug) & set("/:")


@pytest.mark.parametrize(
    "text", ["bridge", "grid/bridge", "grid/bridge/mixed/x", "grid//mixed", "omar:"]
)
def test_a_task_of_another_form_is_refused(text):
    with pytest.raises(UnknownName, match=r"expected \[source:\]family/scenario/quality"):
        Task.parse(text)


def test_every_built_in_task_is_named_once_and_has_an_environment():
    tasks = registry.tasks()
    assert len(tasks) == len(set(tasks))
    assert {
        "matrix/xor/c",
        "matrix/mne-20/imbalanced-0.98",
        "grid/bridge/mixed",
        "alberdice:grid/bridge/optimal",
    } <= set(tasks)
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
    ours, theirs = (
        registry.make_env("matrix/xor/a").spec,
        registry.make_env("alberdice:matrix/xor/a").spec,
    )
    assert (ours.horizon, ours.obs_size) == (1, 1)
    assert (theirs.horizon, theirs.obs_size) == (50, 4)


def test_unknown_methods_and_samplers_list_the_nearest():
    with pytest.raises(UnknownName, match="unknown method 'inspoo'; nearest: inspo"):
        registry.learner("inspoo", "matrix/xor/b")
    with pytest.raises(UnknownName, match="unknown sampler 'pjab'; nearest: pjap"):
        registry.sampler("pjab")
    assert "uniform" in registry.sampler_names()


def test_a_name_near_nothing_lists_what_is_known():
    assert str(unknown("thing", "zzzz", ["b", "a"])) == "unknown thing 'zzzz'; known: a, b"
    assert str(unknown("thing", "zzzz", [])) == "unknown thing 'zzzz'; known: none"


# -------------------------------------------------------------------------------------------
# configs


@struct.dataclass
class Config:
    """A leaf, and one static field of each type."""

    lr: float = 3e-4
    width: int = static(128)
    shared: bool = static(True)
    kind: str = static("product")
    note: str | None = static(None)


MODULE = types.SimpleNamespace(Config=Config, make=None, __name__="method")
TASK = Task.parse("grid/bridge/mixed")


def test_leaves_become_float32_arrays_and_static_fields_stay():
    config = resolve_config(MODULE, TASK, {"lr": 1})
    assert (
        isinstance(config.lr, np.ndarray)
        and config.lr.dtype == jnp.float32
        and float(config.lr) == 1
    )
    assert (config.width, config.shared, config.kind, config.note) == (128, True, "product", None)
    assert jax.tree.leaves(config) == [config.lr]
    assert is_leaf(config_fields(Config)["lr"]) and not is_leaf(config_fields(Config)["width"])


def test_text_of_the_command_line_is_read_as_the_fields_type():
    config = resolve_config(
        MODULE, TASK, {"lr": "1e-2", "width": "64", "shared": "False", "kind": "joint"}
    )
    assert (float(config.lr), config.width, config.shared, config.kind) == (
        pytest.approx(0.01),
        64,
        False,
        "joint",
    )


def test_a_sweep_passes_its_arrays_through():
    values = jnp.array([0.1, 0.2])
    assert resolve_config(MODULE, TASK, {"lr": values}).lr is not None
    assert resolve_config(MODULE, TASK, {"lr": values}).lr.tolist() == values.tolist()


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
        resolve_config(MODULE, TASK, {field: value})


@pytest.fixture
def own(monkeypatch):
    """Registries that forget what a test registers."""
    from jaxoff.data import parts

    for name in ("_METHODS", "_SAMPLERS", "_FAMILIES"):
        monkeypatch.setattr(registry, name, {})
    monkeypatch.setattr(parts, "_OWN", {})


@struct.dataclass
class OwnConfig(bc.Config):
    """A Config of another package, some of whose names are fields of the library's methods too."""

    bias: float = -1.0
    zeta: float = 2.0
    heads: int = static(0)
    rows: int = static(2, least=2)


OWN = types.SimpleNamespace(Config=OwnConfig, make=None, __name__="somebodys")


def test_the_librarys_ranges_are_for_its_own_fields_and_those_of_the_loop(own):
    config = resolve_config(OWN, TASK, {})
    assert (float(config.bias), float(config.zeta), config.heads, config.rows) == (-1, 2, 0, 2)
    for name, value, expected in (
        ("bias", float("inf"), "a finite number"),
        ("zeta", 1e-300, "a number that float32 holds"),
        ("heads", 2**31, "at most 2147483647"),
        ("heads", -(2**31), "at least -2147483647"),
        ("rows", 1, "at least 2"),
        ("batch_size", 0, "at least 1"),
        ("window", -2, "at least -1"),
        ("hidden", 0, "at least 1"),  # of the library's Config
    ):
        with pytest.raises(InvalidSetting, match=f"'{name}': expected {expected}, found"):
            resolve_config(OWN, TASK, {name: value})
    jaxoff.register("own", OWN)
    sweep = jaxoff.TrainSpec("own", "matrix/xor/b", grid={"bias": [-0.5, 0.5], "heads": [0, 1]})
    assert [resolve(job).points for job in expanded(sweep)] == [({"bias": -0.5}, {"bias": 0.5})] * 2
    with pytest.raises(InvalidSetting, match=r"grid field 'lr': expected at least 0, found -1"):
        expanded(dataclasses.replace(sweep, grid={"lr": [-1]}))


@struct.dataclass
class OpenConfig:
    """Fields that may be None."""

    clip: float | None = static(None)
    depth: int | float | None = static(None)
    shared: bool | None = static(None)


def test_a_default_of_none_is_read_by_its_annotation_and_refused_where_it_is_traced():
    module = types.SimpleNamespace(Config=OpenConfig, make=None, __name__="open")
    config = resolve_config(module, TASK, {"clip": "0.5", "depth": "2", "shared": "false"})
    assert (config.clip, config.depth, config.shared) == (0.5, 2, False)
    config = resolve_config(module, TASK, {"clip": 1, "depth": "2.5"})
    assert (config.clip, config.depth, config.shared) == (1.0, 2.5, None)
    assert isinstance(config.clip, float)
    with pytest.raises(TypeError, match=r"open.Config.clip: expected float, found 'wide'"):
        resolve_config(module, TASK, {"clip": "wide"})

    @struct.dataclass
    class Traced:
        clip: float | None = None

    module = types.SimpleNamespace(Config=Traced, make=None, __name__="traced")
    with pytest.raises(InvalidSetting, match=r"traced.Config.clip: expected a number as the defau"):
        resolve_config(module, TASK, {})


def test_an_unknown_field_lists_the_nearest():
    with pytest.raises(UnknownName, match="'widht'; nearest: width"):
        resolve_config(MODULE, TASK, {"widht": 64})


def test_a_tuple_field_is_given_by_commas():
    config = resolve_config(
        registry.learner("maddpg", "poly/sign/uniform"),
        Task.parse("poly/sign/uniform"),
        {"hidden": "16,8"},
    )
    assert config.hidden == (16, 8)


def test_updates_that_a_user_gives_take_the_place_of_a_budget_in_the_settings():
    task = Task.parse("smax/3m/medium")
    config = resolve_config(registry.learner("cfcql", task), task, {})
    assert (config.slots, config.behaviour_slots) == (10_050_000, 10_000_000)
    config = resolve_config(registry.learner("cfcql", task), task, {"steps": 7})
    assert (config.slots, config.steps, config.behaviour_slots) == (0, 7, 10_000_000)


def test_games_have_a_laptops_size_unless_the_papers_is_asked_for():
    small, whole = (
        resolve(TrainSpec("inspo", "grid/bridge/mixed", size=size)).config
        for size in ("laptop", "paper")
    )
    assert (small.steps, small.hidden, small.window) == (4000, 64, 0)
    assert (whole.steps, whole.window, float(whole.alpha[0])) == (50_000, -1, np.float32(0.1))
    # A method takes those fields of the tables of all methods that it has.
    assert resolve(TrainSpec("bc", "matrix/xor/b")).config.hidden == 32
    # Elsewhere there is one size, and what is set by hand comes last.
    battles = [TrainSpec("inspo", "smax/3m/medium", size=size) for size in ("laptop", "paper")]
    assert len({resolve(spec).config.steps for spec in battles}) == 1
    assert resolve(TrainSpec("bc", "matrix/xor/b", config={"hidden": 7})).config.hidden == 7
    with pytest.raises(ValueError, match="'size': expected one of laptop, paper, found 'big'"):
        resolve(TrainSpec("bc", "matrix/xor/b", size="big"))


def test_a_method_has_the_form_of_the_tasks_actions_and_a_lacking_one_is_refused():
    assert registry.learner("omar", "matrix/xor/b").__name__ == "jaxoff.baselines.omar.discrete"
    assert (
        registry.learner("omar", "mpe/spread/random").__name__ == "jaxoff.baselines.omar.continuous"
    )
    with pytest.raises(
        UnknownName,
        match=(
            r"method 'qmix' has no form for the continuous actions of 'mpe/spread/random'; "
            r".* facmac, "
        ),
    ):
        registry.learner("qmix", "mpe/spread/random")


def test_settings_of_a_form_are_those_of_its_method():
    task = Task.parse("mpe/spread/random")
    assert float(resolve_config(registry.learner("omar", task), task, {}).mimic) == 1.0


def test_a_field_of_the_other_form_is_refused_by_name():
    # `trace` is of OMAR's discrete form; the continuous one has no such thing.
    task = Task.parse("mpe/spread/random")
    with pytest.raises(
        UnknownName, match=r"unknown field of jaxoff.baselines.omar.continuous.Config 'trace'"
    ):
        resolve_config(registry.learner("omar", task), task, {"trace": 0.5})


def test_the_public_face_is_lazy_and_whole():
    # Nothing heavy is imported before a name is used; every name is there.
    code = (
        "import sys, jaxoff; assert not {'jax', 'jaxmarl', 'matplotlib', 'flax'} & "
        "set(sys.modules); print(jaxoff.__version__)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
    for name in jaxoff.__all__:
        assert getattr(jaxoff, name) is not None and name in dir(jaxoff)
    with pytest.raises(AttributeError, match="module 'jaxoff' has no attribute 'trian'"):
        jaxoff.trian  # noqa: B018


def test_an_environment_can_be_registered_in_a_process(own, tmp_path):
    env = registry.make_env("matrix/xor/b")
    jaxoff.register("own/game", env)
    assert registry.make_env("own/game/random") is env
    made = jaxoff.make_data("own/game/random", DataOptions(seed=1, episodes=30))
    assert len(made.filled) == 30 and len(np.unique(made.actions[:, 0], axis=0)) == 4
    # a second scenario, made when it is asked for, with a recipe of its own
    recipe = lambda env, options: jaxoff.make_data("matrix/xor/a")
    jaxoff.register("own/other", lambda: registry.make_env("matrix/xor/a"), data={"best": recipe})
    names = [name for name in jaxoff.tasks() if name.startswith("own/")]
    assert names == ["own/game/random", "own/other/random", "own/other/best"]
    assert registry.sizes("own/other/best").num_agents == 2
    assert (jaxoff.make_data("own/other/best").reward == 1).all()
    for wrong in ("own/game/best", "own/gmae/random"):
        with pytest.raises(UnknownName, match=r"nearest: .*own/game/random"):
            jaxoff.make_data(wrong)
    jaxoff.register("own/game", registry.make_env("matrix/xor/a"))  # replaced
    assert registry.make_env("own/game/random") is not env
    spec = jaxoff.TrainSpec("bc", "own/game/random", steps=2, evaluations=1, data_episodes=9)
    assert np.isfinite(jaxoff.train(spec).runs[0]["exact_value"])
    # a dataset folder that names it is evaluated in it
    folder = jaxoff.save(made, tmp_path / "mine", env="own/game")
    spec = jaxoff.TrainSpec("bc", str(folder), steps=2, evaluations=1)
    assert np.isfinite(jaxoff.train(spec).runs[0]["exact_value"])


class Corridor:
    """An environment whose specification is an attribute of its class."""

    spec = EnvSpec("corridor", 2, 2, 2, 3, True, 4)


class Method:
    """A method whose `make` is bound to an instance."""

    Config = Config

    def make(self, config, spec):
        """Nothing."""


def method_of(actions):
    """A method for these kinds of actions."""
    return types.SimpleNamespace(Config=Config, make=make_nothing, ACTIONS=actions)


def make_nothing(config, spec):
    """The `make` of a method that is never trained."""


def test_a_class_makes_an_environment_and_an_instance_may_be_a_method(own):
    jaxoff.register("own/corridor", Corridor)
    assert isinstance(registry.make_env("own/corridor/random"), Corridor)
    jaxoff.register("toy", Method())
    assert "toy" in jaxoff.methods() and "toy" not in registry.sampler_names()


@pytest.mark.parametrize(
    ("name", "part", "message"),
    [
        ("smax/mine", lambda: None, "family 'smax': expected a new name"),
        ("own/a/b", lambda: None, "expected family/scenario as the name of an environment"),
        ("own/a", 3, "expected an environment, or a function that makes one, found int"),
        ("uniform", types.SimpleNamespace(Config=3, make=lambda a, b, c: 0), "sampler 'uniform'"),
        ("game", Corridor, "register 'game': expected family/scenario as the name of an"),
        ("game", lambda: Corridor(), "register 'game': expected family/scenario as the name of an"),
        ("toy", Method, "'toy': expected an instance of Method, .* takes self, found the class"),
        ("toy", method_of("discrete"), r"'ACTIONS': expected some .*'continuous'.*, found 'discre"),
        ("toy", method_of(("Discrete",)), r"field 'ACTIONS': .* found \('Discrete',\)"),
        ("toy", method_of(()), r"field 'ACTIONS': .* found \(\)"),
        ("toy", types.SimpleNamespace(FORMS={"real": 3}), r"field 'FORMS': .* found \('real',\)"),
    ],
)
def test_other_parts_are_refused(own, name, part, message):
    with pytest.raises(ValueError, match=message):
        jaxoff.register(name, part)


def test_a_sampler_can_be_registered_in_a_process(own):
    from jaxoff.data import uniform_sampler

    make = lambda config, batch_size, window: uniform_sampler.make(config, batch_size, window)
    part = types.SimpleNamespace(Config=uniform_sampler.Config, make=make)
    jaxoff.register("same", part)
    assert "same" in registry.sampler_names()
    with pytest.raises(UnknownName, match="unknown sampler 'sane'; nearest: same"):
        registry.sampler("sane")
    specs = [
        jaxoff.TrainSpec("bc", "matrix/xor/b", steps=2, evaluations=1, sampler=sampler)
        for sampler in ("same", "uniform")
    ]
    one, other = (jaxoff.train(spec) for spec in specs)
    assert one.spec.label == "bc+same"
    assert one.runs[0]["exact_value"] == other.runs[0]["exact_value"]


def test_a_method_can_be_registered_in_a_process(monkeypatch):
    monkeypatch.setattr(registry, "_METHODS", {})
    jaxoff.register("toy", MODULE)
    assert "toy" in jaxoff.methods() and registry.learner("toy", "matrix/xor/b") is MODULE
    with pytest.raises(ValueError, match="method 'bc': expected a new name"):
        jaxoff.register("bc", MODULE)
    late = types.SimpleNamespace(make=lambda config, batch_size, window: None)
    with pytest.raises(ValueError, match="expected a module with FORMS, or with Config and make"):
        jaxoff.register("late", late)
    with pytest.raises(
        ValueError, match="expected a module with FORMS, or with Config and make, found types"
    ):
        jaxoff.register("other", types)


@pytest.fixture
def package(own, tmp_path, monkeypatch):
    """Write a settings.toml beside the module of a method that is registered as `counts`; returns
    what the method's settings for a task are then."""
    folder = tmp_path / "somebodys"
    folder.mkdir()
    (folder / "__init__.py").touch()
    (folder / "learner.py").write_text(
        "from tests.test_registry import Config, make_nothing as make\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    for name in ("somebodys", "somebodys.learner"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    jaxoff.register("counts", importlib.import_module("somebodys.learner"))

    def widths(text, size="laptop"):
        (folder / "settings.toml").write_text(text)
        return resolve_config(registry.learner("counts", TASK), TASK, {}, size=size).width

    return widths


def test_settings_beside_an_own_method_are_read_by_its_name_and_its_modules(package):
    assert package('[counts."grid/*"]\nwidth = 5') == 5
    assert package('[learner."grid/*"]\nwidth = 6') == 6
    assert package('[counts."*"]\nwidth = 7\n[learner."*"]\nwidth = 8') == 8  # the later one
    small = '[counts."*"]\nwidth = 7\n[laptop.counts."grid/bridge/*"]\nwidth = 2'
    assert (package(small), package(small, "paper")) == (2, 7)
    assert package('[laptop."*"."*"]\nwidth = 3') == 3
    assert package('[counts."matrix/*"]\nwidth = 5') == 128


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[counts\n", r"settings.toml: expected TOML, found otherwise: .*line 1"),
        ('[cuonts."*"]\nwidth = 5', r"table of .*settings.toml 'cuonts'; nearest: counts"),
        ('[laptop.cuonts."*"]\nwidth = 5', r"settings.toml 'laptop.cuonts'"),
        ('[bc."*"]\nwidth = 5', r"settings.toml 'bc'"),
        ("[counts]\nwidth = 5", r"table 'counts': .*, as \[counts.\"family/\*\"\], found 'width'"),
        ('[counts."grid"]\nwidth = 5', r"table 'counts': expected .* tasks fit, .* found 'grid'"),
        ('[counts."a/b/c/*"]\nwidth = 5', r"found 'a/b/c/\*'"),
        ('[laptop."*"]\nwidth = 5', r"table 'laptop.\*': expected .* found 'width'"),
    ],
)
def test_settings_that_nothing_reads_are_refused_by_file_and_table(package, text, message):
    with pytest.raises(JaxoffError, match=message):
        package(text)


def test_a_name_with_a_dot_is_no_package(own):
    jaxoff.register("my.counts", types.SimpleNamespace(Config=Config, make=make_nothing))
    assert resolve_config(registry.learner("my.counts", TASK), TASK, {}).width == 128
