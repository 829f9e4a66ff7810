"""Notebooks as pages: their cells and the outputs that are stored in them. Nothing is executed."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File

ROOT = Path(__file__).parents[2]
PICTURES = {"image/png": "png", "image/gif": "gif"}


def on_files(files: Any, config: Any) -> Any:
    """Add a page for each notebook, and the pictures among its outputs."""
    for path in sorted((ROOT / "docs").glob("notebooks/*.ipynb")):
        cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
        text, pictures = page(path.name, cells)
        files.append(File.generated(config, f"notebooks/{path.stem}.md", content=text))
        for name, content in pictures.items():
            files.append(File.generated(config, f"notebooks/{name}", content=content))
    return files


def page(name: str, cells: list[dict[str, Any]]) -> tuple[str, dict[str, bytes]]:
    """A notebook in Markdown, and its pictures by the names under which the text shows them."""
    parts: list[str] = []
    pictures: dict[str, bytes] = {}
    for number, cell in enumerate(cells):
        source = "".join(cell["source"])
        if cell["cell_type"] == "markdown":
            parts.append(source)
            if not number:
                parts.append(f"[The notebook]({name}), for Jupyter.")
            continue
        parts.append(f"```python\n{source}\n```")
        printed = "".join(
            "".join(each["text"]) for each in cell["outputs"] if each.get("name") == "stdout"
        )
        parts += [f"```text\n{printed.rstrip()}\n```"] if printed else []
        for output in cell["outputs"]:
            parts += _shown(output, f"{name.partition('.')[0]}-{number}", pictures)
    return "\n\n".join(parts) + "\n", pictures


def _shown(output: dict[str, Any], stem: str, pictures: dict[str, bytes]) -> Iterator[str]:
    """What a page shows of a result: a picture, a table, or else its text."""
    found = output.get("data", {})
    picture = next((kind for kind in PICTURES if kind in found), None)
    text = "".join(found.get("text/plain", ""))
    if picture:
        name = f"{stem}-{len(pictures)}.{PICTURES[picture]}"
        pictures[name] = base64.b64decode("".join(found[picture]))
        yield f"![output]({name})"
    elif "text/html" in found:
        table = re.sub(r"<style.*?</style>", "", "".join(found["text/html"]), flags=re.DOTALL)
        yield re.sub(r"<table[^>]*>", "<table>", table)  # the theme's look, not that of pandas
    elif text:
        yield f"```text\n{text.rstrip()}\n```"
