"""The forms of a method, read from its source without running it.

Importing a method would need JAX and take seconds.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Sequence
from importlib.abc import InspectLoader
from importlib.machinery import ModuleSpec
from importlib.util import resolve_name
from typing import NamedTuple


class Outline(NamedTuple):
    """A form of a method: the name of its module, and the module's docstring."""

    module: str
    doc: str


def read(module: str, kinds: tuple[str, ...]) -> dict[str, Outline] | None:
    """Kind of actions -> outline of the form of a method for these actions.

    Read from the module's `FORMS`, or else its `ACTIONS`, which are by default `kinds`. None if the
    source does not show them, or if the module is already imported.
    """
    if module in sys.modules:
        return None
    try:
        spec, tree = _parsed(module)
        table = _assigned(tree, "FORMS")
        if table is None:
            actions = _assigned(tree, "ACTIONS")
            told = kinds if actions is None else ast.literal_eval(actions)
            return dict.fromkeys(told, Outline(module, ast.get_docstring(tree) or ""))
        imported = {
            alias.asname or alias.name: resolve_name(
                f"{'.' * node.level}{node.module or ''}", spec.parent
            )
            + f".{alias.name}"
            for node in tree.body
            if isinstance(node, ast.ImportFrom)
            for alias in node.names
        }
        found = {}
        for kind, value in _items(table):
            _, form = _parsed(imported[value])
            found[kind] = Outline(imported[value], ast.get_docstring(form) or "")
        return found
    except (AttributeError, ImportError, LookupError, SyntaxError, TypeError, ValueError):
        return None


def _parsed(module: str) -> tuple[ModuleSpec, ast.Module]:
    """The spec and syntax tree of a module. Raises ImportError where it has no source."""
    spec: ModuleSpec | None = None
    path: Sequence[str] | None = None
    parts = module.split(".")
    for count in range(1, len(parts) + 1):  # importlib.util.find_spec would import the packages
        name = ".".join(parts[:count])
        finders = (finder.find_spec(name, path) for finder in sys.meta_path)
        spec = next(filter(None, finders), None)
        path = spec.submodule_search_locations if spec else []
    source = (
        spec.loader.get_source(module) if spec and isinstance(spec.loader, InspectLoader) else ""
    )
    if spec is None or not source:
        raise ImportError(f"module '{module}': expected its source, found none")
    return spec, ast.parse(source)


def _assigned(tree: ast.Module, name: str) -> ast.expr | None:
    """The expression that a module assigns to a name last, or None."""
    found = None
    for node in tree.body:
        if isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            if any(isinstance(target, ast.Name) and target.id == name for target in targets):
                found = node.value
    return found


def _items(table: ast.expr) -> list[tuple[str, str]]:
    """Key and name of each item of {"key": name, ...}. Raises ValueError for anything else."""
    if not isinstance(table, ast.Dict):
        raise ValueError("expected a dictionary")
    found = []
    for key, value in zip(table.keys, table.values, strict=True):
        if not (isinstance(key, ast.Constant) and isinstance(value, ast.Name)):
            raise ValueError("expected constants and names")
        found.append((str(key.value), value.id))
    return found
