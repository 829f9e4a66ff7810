"""index.html: one page with the tables and figures of a folder.

It leads with the best method on each task and one figure. What several tables say below their
numbers stands once: in the notes of their section, or in those of the page.
"""

from __future__ import annotations

import html
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote

from markdown_it import MarkdownIt  # a dependency of rich

from jaxoff.eval import statistics
from jaxoff.files import write_text
from jaxoff.report import render, summary
from jaxoff.report.tables import Table

PICTURES = (".svg", ".gif", ".png")  # the first of these that exists is shown
LINKS = (".md", ".tex", ".csv", ".svg", ".png", ".gif")
IGNORED = {"checkpoint", "wandb"}
LEAD = "summary"  # stem of the figure that a page leads with
MOST_PANELS = 12  # of that figure; a table of more tasks below it is folded
FOLD = re.compile(r'<details markdown="1"><summary>(.*?)</summary>\n(.*?)\n</details>', re.S)

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
table { border-collapse: collapse; font-size: .84rem; font-variant-numeric: tabular-nums; }
th, td { padding: .35rem .5rem; border-bottom: 1px solid var(--line); text-align: center; }
th:first-child, td:first-child { text-align: left; }
.words td, .words th { text-align: left; }
.n { white-space: nowrap; }
thead th { background: var(--soft); vertical-align: bottom; }
tbody tr:hover { background: var(--soft); }
figure { display: inline-block; vertical-align: top; margin: .5rem 1rem .5rem 0;
  max-width: 100%; }
figure img { max-width: 100%; background: #fff; border-radius: 6px; }
figcaption, .links { font-size: .82rem; }
code { background: var(--soft); padding: .1em .3em; border-radius: 4px;
  font-size: .85em; overflow-wrap: anywhere; }
ul { font-size: .86rem; } p { max-width: 60rem; } .notes p, details { font-size: .86rem; }
details { margin: .5rem 0; } summary { cursor: pointer; }
"""


class Section(NamedTuple):
    """A part of the page.

    stems: paths of tables and figures in the folder, without their endings.
    """

    title: str
    text: str = ""
    stems: Sequence[str | Path] = ()


class Item(NamedTuple):
    """A table or a picture of the page.

    body: its heading and table, or its picture, as HTML. notes: paragraphs below the table, and
    lines: of its list, both in Markdown. table: what its CSV file holds, where it has methods.
    """

    title: str
    body: str
    links: str
    notes: tuple[str, ...] = ()
    lines: tuple[str, ...] = ()
    table: Table | None = None


def index(folder: str | Path, title: str, sections: Sequence[Section] | None = None) -> Path:
    """Write folder/index.html and return its path.

    The page leads with a summary of the sections' tables and the figure summary.svg, where some
    table compares methods. For each stem the page shows its table (stem.md), or else its picture,
    with links to all its files. sections: None shows every table and picture at or below the
    folder, with a section per folder. Raises FileNotFoundError for a stem with neither.
    """
    folder = Path(folder)
    sections = scan(folder) if sections is None else sections
    items = [[_item(folder, Path(stem)) for stem in section.stems] for section in sections]
    folder.mkdir(parents=True, exist_ok=True)
    lead = _lead(folder, sections, items)
    notes, lines = _placed(sections, items)
    parts = [
        _section(number, section, items[number], notes, lines)
        for number, section in enumerate(sections)
    ]
    links = "".join(
        f'<a href="#s{number}">{html.escape(section.title)}</a>'
        for number, section in enumerate(sections)
    )
    page = (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{html.escape(title)}</title>\n<style>{CSS}</style>\n</head>\n<body>\n"
        f"<h1>{html.escape(title)}</h1>\n"
        f"<nav>{links if len(sections) > 1 else ''}</nav>\n{lead}"
        f"{_notes('How to read the tables of this page', notes, {}, None)}"
        f"{''.join(parts) or '<p>No tables and no figures yet.</p>'}"
        f"{_notes('Of all sections', {}, lines, None)}</body>\n</html>\n"
    )
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
        elif file.suffix in PICTURES and stem not in pictures and inner.stem != LEAD:
            pictures.append(stem)
    return [
        Section("Results" if parent == Path() else str(parent), "", [*tables, *pictures])
        for parent, (tables, pictures) in sorted(found.items())
        if tables or pictures
    ]


Place = tuple[int, ...] | None  # (section, item), (section,), or None for the whole page


def _lead(folder: Path, sections: Sequence[Section], items: Sequence[Sequence[Item]]) -> str:
    """The summary and its figure; "" where no table compares methods."""
    tables = [summary.leading(item.table for item in some if item.table) for some in items]
    several = len(sections) > 1
    groups = [
        (section.title if several else "", summary.verdicts(table))
        for section, some in zip(sections, tables, strict=True)
        for table in some
    ]
    groups = [(name, found) for name, found in groups if found]
    if not any(verdict.next for _, found in groups for verdict in found):
        return ""
    told = summary.sentence([verdict for _, found in groups for verdict in found])
    about = (
        "Difference: of the two best means, with its 95 % bootstrap interval over seeds. Verdicts "
        f"are of two-sided Welch tests at p < {statistics.SIGNIFICANCE}, which are not corrected "
        "for the number of tasks."
    )
    shown, left = summary.draw(
        [table for some in tables for table in some], folder / LEAD, most=MOST_PANELS
    )
    figure = _item(folder, Path(LEAD)).body
    rest = f" {left} more tasks are in the tables below." if left else ""
    table = _html(summary.markdown(groups)).replace("<table>", '<table class="words">')
    table += f"<p>{html.escape(about)}</p>\n"
    count = sum(len(found) for _, found in groups)
    if count > MOST_PANELS:
        table = f"<details><summary>Verdicts on {count} tasks</summary>\n{table}</details>\n"
    picture = figure if shown else ""
    return f"<h2>Summary</h2>\n<p>{html.escape(told + rest)}</p>\n{picture}{table}"


def _placed(
    sections: Sequence[Section], items: Sequence[Sequence[Item]]
) -> tuple[dict[str, Place], dict[str, Place]]:
    """Where each note and each line of the items stands: beside its table, or where it is shared.

    Lines stand with the section at least. What some tables of a section share, but not all, begins
    with their titles. What a section's own text says is no note.
    """
    placed: list[dict[str, Place]] = [{}, {}]
    every: list[dict[str, dict[int, list[int]]]] = [{}, {}]  # text -> section -> items
    for number, some in enumerate(items):
        for place, item in enumerate(some):
            for texts, kind in zip(every, (item.notes, item.lines), strict=True):
                for text in kind:
                    if text not in sections[number].text:
                        texts.setdefault(text, {}).setdefault(number, []).append(place)
    for lines, (where, texts) in enumerate(zip(placed, every, strict=True)):
        for text, by_section in texts.items():
            (number, places), *more = by_section.items()
            alone = all(items[number][place].table is not None for place in places)
            having = [item for item in items[number] if item.notes and (not alone or item.table)]
            if more:
                where[text] = None
            elif len(places) == len(having):
                where[text] = (number,) if lines or len(places) > 1 else (number, places[0])
            elif len(places) == 1 and not lines:
                where[text] = (number, places[0])
            else:
                names = ", ".join(items[number][place].title for place in places)
                where[f"{render.escaped(names)}: {text}"] = (number,)
    return placed[0], placed[1]


def _section(
    number: int,
    section: Section,
    items: Sequence[Item],
    notes: dict[str, Place],
    lines: dict[str, Place],
) -> str:
    text = f"<p>{html.escape(section.text)}</p>\n" if section.text else ""
    body = "".join(
        f"{item.body}{_notes('', notes, {}, (number, place))}{item.links}"
        for place, item in enumerate(items)
    )
    about = _notes("", notes, {}, (number,))
    below = _notes("Seeds, hardware and commands", {}, lines, (number,))
    return f'<h2 id="s{number}">{html.escape(section.title)}</h2>\n{text}{about}{body}{below}'


def _notes(title: str, notes: dict[str, Place], lines: dict[str, Place], place: Place) -> str:
    """The notes and lines of a place; with a title they are folded."""
    texts = [text for text, where in notes.items() if where == place]
    listed = [f"- {text}" for text, where in lines.items() if where == place]
    if not texts and not listed:
        return ""
    shown = _html("\n\n".join([*texts, "\n".join(listed)]))
    if title:
        return f"<details><summary>{html.escape(title)}</summary>\n{shown}</details>\n"
    return f'<div class="notes">{shown}</div>\n'


def _item(folder: Path, stem: Path) -> Item:
    # A stem may contain dots, so an ending is added and never replaced.
    files = {
        ending: stem.with_name(stem.name + ending)
        for ending in LINKS
        if (folder / stem.with_name(stem.name + ending)).is_file()
    }
    links = " · ".join(
        f'<a href="{_href(file)}">{html.escape(file.name)}</a>' for file in files.values()
    )
    name = stem.name.replace("-", " ")
    if ".md" in files:
        text = (folder / files[".md"]).read_text()
        body, notes, lines = _parsed(text)
        name = text.partition("\n")[0].removeprefix("# ") or name
        table = render.read(folder / files[".csv"], name) if ".csv" in files else None
        return Item(name, body, f'<p class="links">{links}</p>\n', notes, lines, table)
    shown = next((files[ending] for ending in PICTURES if ending in files), None)
    if shown is None:
        raise FileNotFoundError(
            f"{folder / stem}: expected a table (.md) or a picture "
            f"({', '.join(PICTURES)}), found neither"
        )
    name = html.escape(name)
    body = (
        f'<figure><img src="{_href(shown)}" alt="{name}" loading="lazy"><figcaption>{name} '
        f"· {links}</figcaption></figure>\n"
    )
    return Item(name, body, "")


def _parsed(text: str) -> tuple[str, tuple[str, ...], tuple[str, ...]]:
    """A Markdown file of jaxoff: HTML up to its last table; paragraphs and list lines below it.

    Line breaks in cells are kept, other HTML is escaped. Folded parts stay folded.
    """
    folds = FOLD.findall(text)
    blocks = [block for block in re.split(r"\n{2,}", FOLD.sub("", text).strip()) if block.strip()]
    lines = blocks.pop().splitlines() if blocks and blocks[-1].startswith("- ") else []
    tables = [i for i, block in enumerate(blocks) if block.startswith("|")]
    end = tables[-1] + 1 if tables else len(blocks)
    body = _html("\n\n".join(blocks[:end]) + "\n")
    body = body.replace("<h1>", "<h3>").replace("</h1>", "</h3>")
    for title, inner in folds:
        name = _html(title).strip().removeprefix("<p>").removesuffix("</p>")
        body += f"<details><summary>{name}</summary>\n{_html(inner)}</details>\n"
    return body, tuple(blocks[end:]), tuple(line.removeprefix("- ") for line in lines)


def _html(text: str) -> str:
    """Markdown as HTML; a table scrolls where it is wider than the page, but a mean and its
    deviation may stand in two lines.
    """
    reader = MarkdownIt("commonmark").enable("table").disable("html_block")
    reader.add_render_rule("html_inline", _break_or_text)
    page = re.sub(r" ± ([\d.e+-]+)", r' <span class="n">± \1</span>', reader.render(text))
    page = page.replace("<table>", '<div class="scroll"><table>')
    return page.replace("</table>", "</table></div>")


def _break_or_text(_: Any, tokens: Sequence[Any], index: int, *__: Any) -> str:
    """HTML within a text: a line break is one, anything else is shown as it is written."""
    content = tokens[index].content
    return content if content == "<br>" else html.escape(content)


def _href(path: Path) -> str:
    return quote(path.as_posix())
