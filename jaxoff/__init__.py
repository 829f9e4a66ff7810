"""Offline multi-agent reinforcement learning in JAX, with many seeds in one program.

`import jaxoff` is cheap: the public names are imported when they are first used.

    spec = jaxoff.TrainSpec("inspo", "matrix/xor/c", seeds=range(10))
    results = jaxoff.train(spec, out="results/xor")
    env, policy, spec = results.policy(run=3)
    evaluation = jaxoff.evaluate(env, policy, episodes=100)
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jaxoff.conformance import check_env as check_env
    from jaxoff.conformance import check_learner as check_learner
    from jaxoff.data import load as load
    from jaxoff.data.collect import collect as collect
    from jaxoff.data.own import save as save
    from jaxoff.data.parts import make_family as make_family
    from jaxoff.data.parts import register as register
    from jaxoff.envs.from_jaxmarl import FromJaxMARL as FromJaxMARL
    from jaxoff.envs.to_jaxmarl import as_jaxmarl as as_jaxmarl
    from jaxoff.errors import JaxoffError as JaxoffError
    from jaxoff.eval.final import evaluate_policy as evaluate
    from jaxoff.registry import learner_names as methods
    from jaxoff.registry import make_data as make_data
    from jaxoff.registry import make_env as make_env
    from jaxoff.registry import tasks as tasks
    from jaxoff.runtime import setup as setup
    from jaxoff.training import Results as Results
    from jaxoff.training import TrainSpec as TrainSpec
    from jaxoff.training.restore import restore_policy as load_policy
    from jaxoff.training.script import train as train
    from jaxoff.types import Episodes as Episodes

    __version__: str

# Public name -> (its module, its name in that module).
_FACE = {
    "Episodes": ("jaxoff.types", "Episodes"),
    "FromJaxMARL": ("jaxoff.envs.from_jaxmarl", "FromJaxMARL"),
    "JaxoffError": ("jaxoff.errors", "JaxoffError"),
    "Results": ("jaxoff.training", "Results"),
    "TrainSpec": ("jaxoff.training", "TrainSpec"),
    "as_jaxmarl": ("jaxoff.envs.to_jaxmarl", "as_jaxmarl"),
    "check_env": ("jaxoff.conformance", "check_env"),
    "check_learner": ("jaxoff.conformance", "check_learner"),
    "collect": ("jaxoff.data.collect", "collect"),
    "evaluate": ("jaxoff.eval.final", "evaluate_policy"),
    "load": ("jaxoff.data", "load"),
    "load_policy": ("jaxoff.training.restore", "restore_policy"),
    "make_data": ("jaxoff.registry", "make_data"),
    "make_env": ("jaxoff.registry", "make_env"),
    "make_family": ("jaxoff.data.parts", "make_family"),
    "methods": ("jaxoff.registry", "learner_names"),
    "register": ("jaxoff.data.parts", "register"),
    "save": ("jaxoff.data.own", "save"),
    "setup": ("jaxoff.runtime", "setup"),
    "tasks": ("jaxoff.registry", "tasks"),
    "train": ("jaxoff.training.script", "train"),
}
__all__ = [
    "Episodes",
    "FromJaxMARL",
    "JaxoffError",
    "Results",
    "TrainSpec",
    "__version__",
    "as_jaxmarl",
    "check_env",
    "check_learner",
    "collect",
    "evaluate",
    "load",
    "load_policy",
    "make_data",
    "make_env",
    "make_family",
    "methods",
    "register",
    "save",
    "setup",
    "tasks",
    "train",
]


def __getattr__(name: str) -> Any:
    """The public names (PEP 562)."""
    if name == "__version__":
        return importlib.import_module("importlib.metadata").version("jaxoff")
    if name not in _FACE:
        raise AttributeError(f"module 'jaxoff' has no attribute '{name}'")
    module, own = _FACE[name]
    return getattr(importlib.import_module(module), own)


def __dir__() -> list[str]:
    """Public names, for completion."""
    return sorted(__all__)
