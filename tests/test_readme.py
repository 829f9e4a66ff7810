"""The README's table of methods and games says what runs, and its files are there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import jaxoff
from jaxoff import registry
from jaxoff.errors import JaxoffError

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "README.md").read_text()
GAMES = {
    "matrix games": "matrix/xor/b",
    "Bridge": "grid/bridge/mixed",
    "polynomial games": "poly/sign/uniform",
    "particle worlds": "mpe/spread/medium",
    "battles (SMAX)": "smax/3m/medium",
    "robots (MuJoCo)": "mamujoco/halfcheetah-2x3/medium",
    "mazes": "maze/umaze/waypoint",
}


def rows() -> dict[str, list[str]]:
    """Method -> its cells, by the table's order of games."""
    head, *lines = re.findall(r"^\| (?:method \||\[.*\) `).*$", TEXT, re.M)
    assert [x.strip() for x in head.split("|")[2:-1]] == list(GAMES)
    cells = [[x.strip() for x in line.split("|")[1:-1]] for line in lines]
    return {re.findall("`(.*)`", name)[0]: marks for name, *marks in cells}


def test_every_method_is_in_the_table():
    assert set(rows()) == {name for name in jaxoff.methods() if name != "mappo"}


@pytest.mark.parametrize("method", rows())
def test_the_table_says_where_a_method_runs(method):
    for mark, task in zip(rows()[method], GAMES.values(), strict=True):
        try:
            registry.learner(method, task)
        except JaxoffError:
            assert mark == "", task
        else:
            assert mark in ("x", "R"), task


def test_links_lead_to_files():
    for page in (ROOT / "README.md", *(ROOT / "docs").glob("**/*.md")):
        for link in re.findall(r"\]\(([^)#]+)[^)]*\)", page.read_text()):
            if not re.match(r"\w+:", link):
                assert (page.parent / link).exists(), f"{page.name}: {link}"
