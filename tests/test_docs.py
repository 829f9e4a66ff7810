"""The code of the tutorials runs as it is printed: Python blocks in one namespace per page, and the
commands of console blocks, in an empty folder.
"""

from __future__ import annotations

import os
import re
import shlex
import sys
from pathlib import Path
from types import ModuleType

import pytest

from jaxoff import registry
from jaxoff.cli import main
from jaxoff.data import parts
from jaxoff.training.stop import Stop  # noqa: F401  JAX starts here, and not in the middle of a page

DOCS = Path(__file__).parent.parent / "docs"
PAGES = ("start", "sweeping", "own-data", "own-environment", "own-method")
PUBLIC = Path(
    os.environ.get("JAXOFF_PUBLIC_DATA", Path(__file__).parent.parent.parent / "shared" / "data")
)
BLOCK = re.compile(r"(?:<!-- needs: (\w+) -->\n)?```(python|console)\n(.*?)```", re.DOTALL)


def blocks(page: str) -> list[tuple[str, str, str, int]]:
    """(what it needs, language, code, line number) of each block of a page that runs."""
    text = (DOCS / f"{page}.md").read_text()
    return [
        (needs or "", kind, code, text[: found.start(3)].count("\n"))
        for found in BLOCK.finditer(text)
        for needs, kind, code in [found.groups()]
    ]


def run(page: str, wanted: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run the blocks of a page that need `wanted`."""
    module = ModuleType(page.replace("-", "_"))  # dataclasses look for the module of a class
    monkeypatch.setitem(sys.modules, module.__name__, module)
    names = vars(module)
    for needs, kind, code, line in blocks(page):
        if needs != wanted:
            continue
        if kind == "python":
            exec(compile("\n" * line + code, f"{page}.md", "exec"), names)
        else:
            for command in re.findall(r"^\$ jaxoff (.*)$", code, re.MULTILINE):
                main(shlex.split(command))


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch):
    """An empty folder, and registries that forget what a page registers."""
    monkeypatch.chdir(tmp_path)
    for name in ("_METHODS", "_SAMPLERS", "_FAMILIES"):
        monkeypatch.setattr(registry, name, {})
    monkeypatch.setattr(parts, "_OWN", {})


@pytest.mark.parametrize("page", PAGES)
def test_the_code_of_a_tutorial_runs(page, capsys, monkeypatch):
    run(page, "", monkeypatch)
    assert "FAULT" not in capsys.readouterr().out


def test_the_tutorial_on_a_real_file_prints_what_it_quotes(tmp_path, capsys, monkeypatch):
    if not (PUBLIC / "alberdice" / "bridge_from_start" / "buffer_optimal").is_dir():
        pytest.skip("AlberDICE's buffers are not here")
    (tmp_path / "alberdice").symlink_to(PUBLIC / "alberdice")
    run("own-data", "alberdice", monkeypatch)
    shown = capsys.readouterr().out
    assert "4000 steps of 500 episodes" in shown and "bc-bridge-hidden=64" in shown
    # and the arrays are those of our own reader
    import numpy as np

    from jaxoff.data import disk
    from jaxoff.names import DataOptions

    ours = registry.make_data("alberdice:grid/bridge/optimal", DataOptions(data_dir=str(PUBLIC)))
    for one, other in zip(disk.load("data/bridge")[0], ours, strict=True):
        np.testing.assert_array_equal(one, other)


def test_links_between_pages_lead_somewhere():
    pages = [DOCS / f"{page}.md" for page in PAGES] + [DOCS / "template" / "README.md"]
    for page in pages:
        for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text()):
            assert (page.parent / target).exists(), f"{page.name}: {target}"
