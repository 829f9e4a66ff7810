"""What the site tells about a method from the registry: a card on top of its page, an overview.

Nothing is trained or written here. The settings are those that `jaxoff settings` prints.
"""

from __future__ import annotations

import dataclasses
import html
import re
import tomllib
from collections.abc import Iterable, Iterator, Sequence
from fnmatch import fnmatch
from pathlib import Path
from types import ModuleType
from typing import Any

from mkdocs.structure.files import File

from jaxoff import registry
from jaxoff.cli.methods import method_rows
from jaxoff.config import Setting, meanings_of, settings_of
from jaxoff.names import Task
from jaxoff.training.spec import TrainSpec

ROOT = Path(__file__).parents[2]
REFERENCE = ROOT / "experiments" / "reference"
# What trains by another command, with its own.
OTHERS = {
    "mappo": "jaxoff data pool FAMILY/SCENARIO",
    "matd3": "jaxoff data pool FAMILY/SCENARIO --method matd3",
    "pjap": "jaxoff train METHOD TASK --sampler pjap",
}
# Columns of the tables of YANHUI, whose paper gives the baselines other names.
ALIASES = {"bcq": "BCQ", "macql": "CQL"}
FIELDS = "<!-- fields of TrainSpec -->"
Values = list[tuple[str, Any]]  # pattern of tasks, and the value of a setting for them


def on_files(files: Any, config: Any) -> Any:
    """Add the overview of all methods."""
    text = ["# Methods", "", "| method | actions | what it is |", "|---|---|---|"]
    text += [
        f"| [{_title(row['method'])}]({row['method']}.md) `{row['method']}` | {row['actions']} "
        f"| {_cell(row['about'])} |"
        for row in method_rows()
    ]
    text += ["", "The [home page](../index.md#what-is-in-it) says which games each one plays, "]
    text += ["[PJAP](pjap.md) is a sampler for any of them, and [MAPPO](mappo.md) and "]
    text += ["[MATD3](matd3.md) train the policies that play the datasets.", ""]
    files.append(File.generated(config, "methods/index.md", content="\n".join(text)))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Put its card below the title of a method's page, and the fields of TrainSpec in their place.

    This hook comes after the one that rewrites links, so that links here are those of the site.
    """
    folder, _, name = page.file.src_uri.removesuffix(".md").rpartition("/")
    if folder == "methods" and name != "index":
        title, _, rest = markdown.partition("\n")
        return "\n".join([title, "", *_card(name), *_settings(name), rest])
    return markdown.replace(FIELDS, "\n".join(_fields()))


def references(name: str) -> list[Path]:
    """The tables of experiments/reference/ that have a column of a method or sampler."""
    wanted = {_title(name), ALIASES.get(name, _title(name))}
    found = []
    for file in sorted(REFERENCE.glob("*/*.md"), key=lambda file: file.with_suffix("")):
        heads = re.findall(r"^\|.*(?=\n\|--)", file.read_text(), re.M)
        labels = [cell.strip().split(",")[0].split("+") for cell in "|".join(heads).split("|")]
        # A method is what a label begins with, and a sampler what follows.
        parts = [part for label in labels for part in (label if name == "pjap" else label[:1])]
        if wanted & set(parts):
            found.append(file)
    return found


def _title(name: str) -> str:
    """What a method is called: the title of its page, as far as a colon."""
    first = (ROOT / "docs" / "methods" / f"{name}.md").read_text().partition("\n")[0]
    return first.removeprefix("# ").partition(":")[0]


def _forms(name: str) -> dict[str, ModuleType]:
    """Kind of actions -> module of a method, a sampler or an on-policy method."""
    if name in registry.learner_names():
        return registry.forms(name)
    load = registry.sampler if name in registry.sampler_names() else registry.online_learner
    return registry.forms_of(load(name))


def _card(name: str) -> Iterator[str]:
    """A table with what a reader looks for first."""
    forms = _forms(name)
    abouts = dict.fromkeys(
        " ".join((module.__doc__ or "").split("\n\n")[0].split()) for module in forms.values()
    )
    codes = dict.fromkeys(
        module.__name__.removeprefix("jaxoff.").replace(".", "/") for module in forms.values()
    )
    groups: dict[str, list[str]] = {}
    for file in references(name):
        link = f"[{file.stem}](../{file.relative_to(ROOT).as_posix()})"
        about, comma, _ = _title_of(file).rpartition(", ")
        groups.setdefault(about if comma else _title_of(file), []).append(link)
    tables = [f"{_cell(about)}: {', '.join(links)}" for about, links in groups.items()]
    yield f"| Command | `{OTHERS.get(name, f'jaxoff train {name} TASK')}` |"
    yield "|---|---|"
    yield f"| What it is | {_cell(' '.join(abouts))} |"
    yield f"| Actions | {', '.join(forms)} |"
    yield f"| Code | {', '.join(f'`{code}.py`' for code in codes)} |"
    yield f"| Reference results | {_lines(tables) or 'none'} |"
    yield ""


def _title_of(table: Path) -> str:
    return table.read_text().partition("\n")[0].removeprefix("# ")


def _settings(name: str) -> Iterator[str]:
    """The settings of each form, folded."""
    by_module: dict[str, list[str]] = {}
    forms = _forms(name)
    for kind, module in forms.items():
        by_module.setdefault(module.__name__, []).append(kind)
    for kinds in by_module.values():
        words = " and ".join(kinds)
        command = (
            f"`jaxoff settings {name} TASK` prints the same for one task. "
            if name in registry.learner_names()
            else ""
        )
        yield f'??? info "Settings in the code, {words} actions"'
        yield ""
        yield f"    {command}Where several patterns fit a task, the last one counts."
        yield ""
        yield "    | setting | default | by task | `--grid` | meaning |"
        yield "    |---|---|---|---|---|"
        for setting, values in settings(name, forms[kinds[0]], kinds):
            words = f" ({', '.join(setting.words)})" if setting.words else ""
            told = _lines(f"`{pattern}`: {_value(value)}" for pattern, value in values)
            yield (
                f"    | `{setting.name}` | {_value(setting.default)} | {told} "
                f"| {'yes' if setting.sweeps else ''} | {_cell(setting.meaning + words)} |"
            )
        yield ""


def settings(name: str, module: ModuleType, kinds: Sequence[str]) -> list[tuple[Setting, Values]]:
    """Every setting of a form, with the values that settings.toml has for tasks of its kinds."""
    discrete = {kind == "discrete" for kind in kinds}
    parsed = [Task.parse(task) for task in registry.tasks()]
    tasks = [task for task in parsed if registry.sizes(task).discrete in discrete]
    names = {f"{task.family}/{task.scenario}/{task.quality}" for task in tasks}
    file = ROOT / "baselines" / "settings.toml"
    tables = tomllib.loads(file.read_text()).get(name, {})
    fitting = {
        pattern: values
        for pattern, values in tables.items()
        if any(fnmatch(task, pattern) for task in names)
    }
    return [
        (
            setting,
            [
                (pattern, values[setting.name])
                for pattern, values in fitting.items()
                if setting.name in values
            ],
        )
        for setting in settings_of(module, tasks[0], {})
    ]


def _fields() -> Iterator[str]:
    """A table of the fields of a TrainSpec."""
    meanings = meanings_of(TrainSpec)
    yield "| field | default | meaning |"
    yield "|---|---|---|"
    for field in dataclasses.fields(TrainSpec):
        default = "" if field.default is dataclasses.MISSING else f"`{field.default!r}`"
        default = "`{}`" if field.default_factory is not dataclasses.MISSING else default
        yield f"| `{field.name}` | {default} | {_cell(meanings[field.name])} |"


def _lines(texts: Iterable[str]) -> str:
    """Texts of a cell, one below the other; long ones are wrapped, unlike numbers."""
    return "".join(f'<span class="line">{text}</span>' for text in texts)


def _value(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:g}" if isinstance(value, float) else _cell(str(value))


def _cell(text: str) -> str:
    """A text that a cell of a table shows as it is."""
    text = html.escape(text, quote=False)
    parts = re.split(r"(`[^`]*`)", text)
    shown = [part if part[:1] == "`" else re.sub(r"([*_\[\]|])", r"\\\1", part) for part in parts]
    return "".join(shown).replace("|", "\\|").replace("\\\\|", "\\|")
