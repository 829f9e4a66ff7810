"""Labels and paths are text: whatever is in them is shown as it is, by the terminal, by figures and
on pages.
"""

from __future__ import annotations

import csv
import dataclasses
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from matplotlib.text import Text

from jaxoff import TrainSpec, cli, train
from jaxoff.cli.common import console
from jaxoff.report import figures, render
from jaxoff.report.gif import grid_gif

LABELS = {
    "rich's markup": "[red]x[/x] :smile: [/]",
    "mathematics": r"_$\frac{1}$ $ \$5",
    "markdown and html": "a|b <b>&amp;<br> `c` *d* [e](f) ~g~ _h_",
    "line breaks and tabs": "two\nlines\tof text",
    "other letters, many": "😀 \u200fשלום " + "x" * 300,
}
SIZES = {"steps": 2, "evaluations": 1, "eval_episodes": 2}
SPEC = TrainSpec("bc", "matrix/xor/c", config={"hidden": 16, "batch_size": 8}, **SIZES)


def tight(text: str) -> str:
    """A text without white space, where lines may be broken."""
    return "".join(text.split())


class Cells(HTMLParser):
    """The texts of the header cells of a page, and of its headings and title."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.texts: dict[str, list[str]] = {"th": [], "h1": [], "title": []}
        self.inside = ""
        self.feed(page)

    def handle_starttag(self, tag: str, _: object) -> None:
        if tag in self.texts:
            self.inside = tag
            self.texts[tag].append("")
        elif tag == "b":
            raise AssertionError("a label's tag is a tag of the page")

    def handle_endtag(self, tag: str) -> None:
        self.inside = "" if tag == self.inside else self.inside

    def handle_data(self, data: str) -> None:
        if self.inside:
            self.texts[self.inside][-1] += data


@pytest.mark.filterwarnings("ignore:Glyph")
@pytest.mark.parametrize("label", LABELS.values(), ids=LABELS)
def test_a_label_and_a_path_are_shown_as_they_are(label, tmp_path, capsys):
    folder = tmp_path / label[:60]
    train(dataclasses.replace(SPEC, variant=label), folder / "job")
    options = [f"--{name.replace('_', '-')}={value}" for name, value in SIZES.items()]
    settings = ["--set", "hidden=16", "--set", "batch_size=8"]
    out = tmp_path / "others" / label[:60]
    with console.capture() as printed:
        cli.main(["train", "bc", "matrix/xor/c", "--out", str(out), *options, *settings])
        cli.main(["evaluate", str(folder / "job"), "--episodes", "2"])
        cli.main(["play", str(folder / "job")])
        cli.main(["report", str(folder)])
    shown = tight(printed.get())
    assert "not drawn" not in capsys.readouterr().err
    assert tight(f"results: {out}") in shown and tight(f"page: {folder}") in shown
    title = tight(f"{label} on matrix/xor/c")
    assert title[:40] in shown

    cells = Cells((folder / "index.html").read_text())
    assert tight(label) in map(tight, cells.texts["th"])
    assert tight(folder.name) in tight(cells.texts["h1"][0])
    drawn = ElementTree.parse(folder / "curves-matrix-xor-c.svg").getroot()
    assert tight(label) in tight("".join(drawn.itertext()))
    with (folder / "table-return_mean.csv").open(newline="") as stream:
        assert [row["column"] for row in csv.DictReader(stream)] == [label]
    row = (folder / "table-return_mean.md").read_text().splitlines()[2]
    assert row.replace(r"\|", "").count("|") == 3  # before, between and behind two cells


def test_latex_takes_no_label_for_an_argument_or_a_comment():
    shown = render._tex("[red]*\n%|<")
    assert shown == r"{[}red{]}{*} \%\textbar{}\textless{}"


@pytest.mark.parametrize("label", LABELS.values(), ids=LABELS)
def test_a_figures_label_is_no_mathematics(label):
    shown, is_mathematics = Text()._preprocess_math(figures.label_of(label))
    assert not is_mathematics and tight(shown) == tight(label)


@pytest.mark.parametrize("label", LABELS.values(), ids=LABELS)
def test_a_gif_takes_any_label(label, tmp_path):
    path = grid_gif(np.zeros((1, 1, 2)), np.zeros((1, 3)), [], tmp_path / "a.gif", text=label)
    assert path.stat().st_size > 100


def test_a_path_with_a_line_break_in_an_error_is_one_line(tmp_path, capsys):
    with pytest.raises(SystemExit, match="2"):
        cli.main(["report", str(tmp_path / "two\nlines")])
    error = capsys.readouterr().err
    assert r"two\nlines: expected" in error and error.count("\n") == 1


def test_no_command_makes_a_console_that_reads_markup():
    root = Path(__file__).parent.parent / "jaxoff"
    made = [path.name for path in (root / "cli").glob("*.py") if "Console(" in path.read_text()]
    assert made == ["common.py"]
    assert console.render_str("[red]x").plain == "[red]x"
