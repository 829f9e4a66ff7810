"""The notebook runs from its first cell to its last in a kernel of its own, with small sizes."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.learners import QUICK_ENV

nbclient = pytest.importorskip("nbclient", reason="`make docs` installs the extra `docs`")
nbformat = pytest.importorskip("nbformat")
pytest.importorskip("ipykernel")

FILE = Path(__file__).parents[1] / "docs" / "notebooks" / "quickstart.ipynb"
SMOKE = "task = 'grid/bridge/optimal'\nsteps, seeds, size = 4, 2, 8"


def outputs_of(notebook) -> list[dict]:
    """Every output of a notebook's cells."""
    return [each for cell in notebook.cells for each in cell.get("outputs", [])]


def kinds_of(notebook) -> set[str]:
    """The MIME types of what a notebook shows, without that of objects as text."""
    return {kind for each in outputs_of(notebook) for kind in each.get("data", {})} - {"text/plain"}


def test_the_notebook_runs_and_shows_curves_a_table_and_an_episode(tmp_path, monkeypatch):
    notebook = nbformat.read(FILE, as_version=4)
    stored = kinds_of(notebook)
    (cell,) = (cell for cell in notebook.cells if "parameters" in cell.metadata.get("tags", ()))
    cell.source = SMOKE
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    for name, value in QUICK_ENV.items():
        monkeypatch.setenv(name, value)
    place = {"metadata": {"path": str(tmp_path)}}
    client = nbclient.NotebookClient(notebook, timeout=600, resources=place)
    client.execute(env=dict(os.environ))
    shown = kinds_of(notebook)
    assert shown == stored == {"image/png", "text/html", "image/gif"}
    text = "".join(each.get("text", "") for each in outputs_of(notebook))
    for method in ("bc", "omiga", "inspo"):
        assert f"<Results of {method} on grid/bridge/optimal: 2 runs" in text
        assert (tmp_path / "results" / method / "final.json").exists()
    assert (tmp_path / "bridge.gif").read_bytes().startswith(b"GIF8")
    assert not [each for each in outputs_of(notebook) if each.get("name") == "stderr"]


def test_the_stored_outputs_hold_no_warning_and_no_path():
    notebook = nbformat.read(FILE, as_version=4)
    nbformat.validate(notebook)
    assert not [each for each in outputs_of(notebook) if each.get("name") == "stderr"]
    text = FILE.read_text()
    assert "/home/" not in text and "/tmp/" not in text and "Error" not in text
