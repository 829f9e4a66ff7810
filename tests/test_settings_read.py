"""No setting is silent: every field of every Config is read when its method is made and trained, by
some form of the tests.

A form is traced, not run. Reading is recorded at the Config itself; a copy of a Config reads no
field.
"""

from __future__ import annotations

import contextlib
import functools
import sys
from collections.abc import Iterator
from typing import Any

import jax
import pytest
from jaxoff.baselines import bc

from jaxoff import registry
from jaxoff.config import BUDGETS, config_fields
from jaxoff.data.dataset import place
from jaxoff.names import DataOptions
from jaxoff.training.restore import empty_state
from jaxoff.training.spec import fitted, resolve
from jaxoff.types import TimeStep
from tests.learners import FORMS

# Read by the training loop, not by the method: how long to train and what a batch is.
BY_THE_LOOP = {"steps", "batch_size", "window", *BUDGETS}
COPIES = ("dataclasses", "flax.struct")  # modules that read all fields of a Config to copy it
# Fields that no form of the tests reads, each with its reason.
UNREAD: dict[str, dict[str, str]] = {
    "jaxoff.baselines.cql.continuous": dict.fromkeys(
        ("critic_steps", "target_noise"),
        "of the team's critic, whose code OMAR's form of the tests goes through",
    ),
    "jaxoff.baselines.sit": {
        "types": (
            "asked only where an environment has agents of several types, which no form of "
            "the tests has"
        )
    },
}


@contextlib.contextmanager
def recorded(config_class: type) -> Iterator[set[str]]:
    """The fields of a Config that are read inside."""
    fields, read, plain = set(config_fields(config_class)), set(), config_class.__getattribute__

    def reading(self: Any, name: str) -> Any:
        if name in fields and sys._getframe(1).f_globals.get("__name__") not in COPIES:
            read.add(name)
        return plain(self, name)

    config_class.__getattribute__ = reading  # type: ignore[method-assign]
    try:
        yield read
    finally:
        del config_class.__getattribute__


def trace(name: str) -> tuple[Any, set[str]]:
    """The module of a form, and the fields that it reads in all of its stages and in its policy."""
    spec = FORMS[name].spec
    job, env = resolve(spec), registry.make_env(spec.task)
    data = (
        None
        if job.acts
        else registry.make_data(
            spec.task, DataOptions(spec.data_seed, spec.data_episodes, spec.data_dir)
        )
    )
    job = fitted(job, data)
    dataset: Any = () if data is None else place(data, env.spec)
    config, key, state = (
        jax.tree.map(lambda x: x[0], job.config),
        jax.random.key(0),
        empty_state(job).learner,
    )
    with recorded(job.module.Config) as read:
        for stage in job.stages(config, env.spec):
            learner, before = stage.learner, state
            if stage.prepare is None:
                state = jax.eval_shape(learner.init, key)
            else:
                state = jax.eval_shape(
                    functools.partial(_prepared, stage.prepare), before, dataset, key
                )
            if data is None:
                continue
            # What a sampler reads is noted too: a stage may have one of its own.
            batch = jax.eval_shape(
                functools.partial(_batch, job, stage, config, env, key), state, dataset
            )
            state, _ = jax.eval_shape(learner.update, state, batch, key)
        jax.eval_shape(functools.partial(_acted, learner, env), state, key)
    return job.module, read


def _prepared(prepare: Any, before: Any, dataset: Any, key: Any) -> Any:
    return prepare(before, dataset, key)


def _batch(job: Any, stage: Any, config: Any, env: Any, key: Any, state: Any, dataset: Any) -> Any:
    sampler = job.sampler(stage, state, config, env, key)
    drawn = sampler.draw(sampler.init(dataset), dataset, key)
    return sampler.gather(dataset, drawn)


def _acted(learner: Any, env: Any, state: Any, key: Any) -> Any:
    policy = learner.policy(state)
    seen: TimeStep = env.reset(key)[1]
    return policy.distribution(policy.initial(()), seen)[1].mode()


@functools.cache
def reads() -> dict[str, tuple[Any, set[str]]]:
    """Module's name -> the module, and the fields that any form of it reads."""
    found: dict[str, tuple[Any, set[str]]] = {}
    for name in FORMS:
        module, read = trace(name)
        found.setdefault(module.__name__, (module, set()))[1].update(read)
    return found


OURS = (
    module.__name__ for name in registry.learner_names() for module in registry.forms(name).values()
)
FORM_MODULES = sorted({name for name in OURS if name.startswith("jaxoff.baselines.")})


@pytest.mark.parametrize("module", FORM_MODULES)
def test_every_field_is_read_by_some_form(module):
    config_class, read = reads()[module][0].Config, reads()[module][1]
    silent = set(config_fields(config_class)) - read - BY_THE_LOOP - set(UNREAD.get(module, {}))
    assert not silent, silent


def test_what_is_read_is_recorded_and_copies_read_nothing():
    config = bc.Config()
    with recorded(bc.Config) as read:
        assert config.replace(lr=1.0).hidden == 256
        assert read == {"hidden"}
    assert config.lr == 5e-4 and read == {"hidden"}
