"""index.html: one page with the tables and figures of a folder."""

from __future__ import annotations

import html
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote

from markdown_it import MarkdownIt  # a dependency of rich

from jaxoff.files import write_text

PICTURES = (".svg", ".gif", ".png")  # the first of these that exists is shown
LINKS = (".md", ".tex", ".csv", ".svg", ".png", ".gif")
IGNORED = {"checkpoint", "wandb"}

CSS = """
:root { color-scheme: light dark; --ink: #1f2328; --page: #ffffff; --soft: #f4f5f7;
  --line: #d8dbe0; --link: #0b62b8; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e4e6ea; --page: #15181c; --soft: #20242a; --line: #383e47; --link: #7db7f5; } }
body { margin: 0 auto; padding: 1.5rem; max-width: 76rem;
  background: var(--page); color: var(--ink);
  font: 16px/1.5 system-ui, sans-serif; }
h1 { font-size: 1.7rem; }
h2 { font-size: 1.25rem; margin-top: 2.5rem; border-bottom: 1px solid var(--line); }
h3 { font-size: 1.05rem; }
a { color: var(--link); } nav a { margin-right: 1rem; } .scroll { overflow-x: auto; }
table { border-collapse: collapse; font-size: .86rem; font-variant-numeric: tabular-nums; }
th, td { padding: .4rem .8rem; border-bottom: 1px solid var(--line);
  text-align: center; white-space: nowrap; }
th:first-child, td:first-child { text-align: left; }
thead th { background: var(--soft); }
tbody tr:hover { background: var(--soft); }
figure { margin: 1rem 0; }
figure img { max-width: 100%; background: #fff; border-radius: 6px; }
figcaption, .links { font-size: .82rem; }
code { background: var(--soft); padding: .1em .3em; border-radius: 4px;
  font-size: .85em; overflow-wrap: anywhere; }
ul { font-size: .86rem; } p { max-width: 60rem; } details { font-size: .86rem; }
"""


class Section(NamedTuple):
    """A part of the page.

    stems: paths of tables and figures in the folder, without their endings.
    """

    title: str
    text: str = ""
    stems: Sequence[str | Path] = ()


def index(folder: str | Path, title: str, sections: Sequence[Section] | None = None) -> Path:
    """Write folder/index.html and return its path.

    For each stem the page shows its table (stem.md), or else its picture, with links to all its
    files. sections: None shows every table and picture at or below the folder, with a section per
    folder. Raises FileNotFoundError for a stem with neither.
    """
    folder = Path(folder)
    sections = scan(folder) if sections is None else sections
    parts = [_section(folder, number, section) for number, section in enumerate(sections)]
    links = "".join(
        f'<a href="#s{number}">{html.escape(section.title)}</a>'
        for number, section in enumerate(sections)
    )
    page = (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{html.escape(title)}</title>\n<style>{CSS}</style>\n</head>\n<body>\n"
        f"<h1>{html.escape(title)}</h1>\n"
        f"<nav>{links}</nav>\n"
        f"{''.join(parts) or '<p>No tables and no figures yet.</p>'}</body>\n</html>\n"
    )
    folder.mkdir(parents=True, exist_ok=True)
    return write_text(folder / "index.html", page)


def scan(folder: str | Path) -> list[Section]:
    """A section for every folder at or below this one that has tables or pictures, tables first.

    A table is an .md file beside a .csv file.
    """
    folder = Path(folder)
    found: dict[Path, tuple[list[Path], list[Path]]] = {}
    for file in sorted(folder.rglob("*")):
        inner = file.relative_to(folder)
        if IGNORED & set(inner.parts) or any(part.startswith(".") for part in inner.parts):
            continue
        tables, pictures = found.setdefault(inner.parent, ([], []))
        stem = inner.with_suffix("") if file.suffix in LINKS else inner
        if file.suffix == ".md" and file.with_suffix(".csv").exists():
            tables.append(stem)
        elif file.suffix in PICTURES and stem not in pictures:
            pictures.append(stem)
    return [
        Section("Results" if parent == Path() else str(parent), "", [*tables, *pictures])
        for parent, (tables, pictures) in sorted(found.items())
        if tables or pictures
    ]


def _section(folder: Path, number: int, section: Section) -> str:
    text = f"<p>{html.escape(section.text)}</p>\n" if section.text else ""
    items = "".join(_item(folder, Path(stem)) for stem in section.stems)
    return f'<h2 id="s{number}">{html.escape(section.title)}</h2>\n{text}{items}'


def _item(folder: Path, stem: Path) -> str:
    # A stem may contain dots, so an ending is added and never replaced.
    files = {
        ending: stem.with_name(stem.name + ending)
        for ending in LINKS
        if (folder / stem.with_name(stem.name + ending)).is_file()
    }
    links = " · ".join(
        f'<a href="{_href(file)}">{html.escape(file.name)}</a>' for file in files.values()
    )
    if ".md" in files:
        return f'{_table((folder / files[".md"]).read_text())}<p class="links">{links}</p>\n'
    shown = next((files[ending] for ending in PICTURES if ending in files), None)
    if shown is None:
        raise FileNotFoundError(
            f"{folder / stem}: expected a table (.md) or a picture "
            f"({', '.join(PICTURES)}), found neither"
        )
    name = html.escape(stem.name.replace("-", " "))
    return (
        f'<figure><img src="{_href(shown)}" alt="{name}" loading="lazy"><figcaption>{name} '
        f"· {links}</figcaption></figure>\n"
    )


def _table(text: str) -> str:
    """A markdown table of jaxoff as HTML; line breaks in cells are kept, other HTML is escaped."""
    body, _, commands = text.partition("\n- Command:")
    page = _html(body + "\n")
    if commands:
        page += (
            f"<details><summary>Commands</summary>\n{_html('- Command:' + commands)}</details>\n"
        )
    page = page.replace("<h1>", "<h3>").replace("</h1>", "</h3>")
    return page.replace("<table>", '<div class="scroll"><table>').replace(
        "</table>", "</table></div>"
    )


def _html(text: str) -> str:
    reader = MarkdownIt("commonmark").enable("table").disable("html_block")
    reader.add_render_rule("html_inline", _break_or_text)
    return reader.render(text)


def _break_or_text(_: Any, tokens: Sequence[Any], index: int, *__: Any) -> str:
    """HTML within a text: a line break is one, anything else is shown as it is written."""
    content = tokens[index].content
    return content if content == "<br>" else html.escape(content)


def _href(path: Path) -> str:
    return quote(path.as_posix())
