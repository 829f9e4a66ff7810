"""The commands `jaxoff methods` and `jaxoff settings`: all methods, and the settings of one."""

from __future__ import annotations

import json as json_module
from typing import Annotated, Any, get_args

import tyro
from rich.box import SIMPLE
from rich.table import Column, Table
from rich.text import Text

from jaxoff import registry
from jaxoff.cli.common import Many, console, pairs
from jaxoff.config import Setting, SizeName, check_word, settings_of
from jaxoff.names import Task

PAGES = "docs/methods"  # folder of the repository with one page per method


def method_rows() -> list[dict[str, str]]:
    """One row per form of each method.

    A row has the method's name, its kinds of actions, a sentence on what it is and where it was
    published, its module, and its page.
    """
    rows = []
    for name in registry.learner_names():
        forms = registry.outlines_of(name)
        for form in dict.fromkeys(forms.values()):
            kinds = [kind for kind, other in forms.items() if other == form]
            about = " ".join(form.doc.strip().split("\n\n")[0].split()).rstrip(".")
            ours = form.module.startswith("jaxoff.baselines.")
            row = {"method": name, "actions": ", ".join(kinds), "about": about}
            page = f"{PAGES}/{name}.md" if ours else ""
            rows.append(row | {"code": form.module, "page": page})
    return rows


def methods(json: bool = False) -> None:
    """Every method that can be trained: kinds of actions, what it is and where it was published.

    Args:
        json: print JSON instead of a table.
    """
    rows = method_rows()
    if json:
        print(json_module.dumps(rows, indent=1))
        return
    table = Table(
        Column("method", no_wrap=True),
        Column("actions", min_width=10),
        "what it is",
        box=SIMPLE,
        show_edge=False,
    )
    for row in rows:
        table.add_row(Text(row["method"], style="bold"), row["actions"], row["about"])
    console.print(table)
    console.print(
        "jaxoff settings METHOD TASK: what can be set; jaxoff train METHOD TASK: train it"
    )


def settings(
    method: tyro.conf.Positional[str],
    task: tyro.conf.Positional[str],
    /,
    set: Annotated[tuple[str, ...], Many] = (),
    size: SizeName = "laptop",
    json: bool = False,
) -> None:
    """Every setting of a method for a task: its value, where that comes from, and what it means.

    Args:
        method: a registered method, see `jaxoff methods`.
        task: [source:]family/scenario/quality, see `jaxoff data list`.
        set: NAME=VALUE sets a field of the method's Config, as for `jaxoff train`; may be given
            several times.
        size: for games and Bridge, settings of a laptop's size or the paper's, as for
            `jaxoff train`.
        json: print JSON instead of a table.
    """
    parsed = Task.parse(task)
    check_word("size", size, get_args(SizeName))
    found = settings_of(registry.learner(method, parsed), parsed, pairs(set, "--set"), size)
    if json:
        print(json_module.dumps([setting._asdict() for setting in found], indent=1))
        return
    table = Table(
        Column("setting", no_wrap=True),
        Column("value", no_wrap=True),
        Column("from", no_wrap=True),
        "default",
        "--grid",
        "meaning",
        box=SIMPLE,
    )
    for setting in found:
        table.add_row(*_cells(setting))
    console.print(table)
    console.print(f"change one with: jaxoff train {method} {task} --set NAME=VALUE", soft_wrap=True)


def _cells(setting: Setting) -> tuple[str | Text, ...]:
    """A row of the table; the default is shown only where a setting or the user overrides it."""
    own = setting.source != "default"
    words = Text(f" ({', '.join(setting.words)})" if setting.words else "", style="dim")
    shown = "" if not own else _text(setting.default)
    name = Text(setting.name, style="bold" if own else "")
    return (
        name,
        _text(setting.value),
        setting.source,
        shown,
        "yes" if setting.sweeps else "",
        Text(setting.meaning) + words,
    )


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:g}" if isinstance(value, float) else str(value)
