"""Pages of the site that are not below docs/: the README, and what pages link to elsewhere.

Links are written for somebody who reads the repository, and are rewritten here for the site. A
link to a folder leads to the folder's README, or else to a page that lists its files.
"""

from __future__ import annotations

import posixpath
import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File

ROOT = Path(__file__).parents[2]
LINK = re.compile(r"(?<=\]\()([^)#\s]+)(?=[#)])")
PICTURES = (".gif", ".png", ".svg")


def on_files(files: Any, config: Any) -> Any:
    """Add the README as Home, and every file outside docs/ that a page leads to."""
    waiting = [ROOT / "README.md", *(Path(f.abs_src_path) for f in files.documentation_pages())]
    home = "---\nhide: [navigation]\n---\n" + _text(ROOT / "README.md")
    files.append(File.generated(config, "index.md", content=home))
    known = set(waiting)
    while waiting:
        page = waiting.pop()
        for target in re.findall(LINK, _text(page)):
            path = _leads_to(page, target)
            if path is None or path in known or path.is_relative_to(ROOT / "docs"):
                continue
            known.add(path)
            if path.suffix == ".md" or path.is_dir():
                files.append(File.generated(config, _address(path), content=_text(path)))
                waiting.append(path)
            else:
                files.append(File.generated(config, _address(path), abs_src_path=str(path)))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """The text of a page, with the links that the site needs."""
    address = page.file.src_uri
    if address.startswith("experiments/") and not address.endswith("README.md"):
        page.meta["hide"] = ["navigation", "toc"]  # room for wide tables
    path = ROOT / "README.md" if address == "index.md" else ROOT / "docs" / address
    if not path.exists():  # a page from elsewhere has the repository's path
        path = ROOT / address
        path = path if path.exists() else path.parent

    def rewritten(found: re.Match[str]) -> str:
        target = _leads_to(path, found[0])
        if target is None:
            return found[0]
        return posixpath.relpath(_address(target), posixpath.dirname(address) or ".")

    return LINK.sub(rewritten, _unbroken(markdown))


def _unbroken(markdown: str) -> str:
    """The text, with a mean and its deviation on one line in the cells of tables."""
    return re.sub(
        r"^\|.*$", lambda row: row[0].replace(" ± ", "\u00a0±\u00a0"), markdown, flags=re.M
    )


def _leads_to(page: Path, target: str) -> Path | None:
    """The file or folder that a link leads to; None for an address of the web or nothing at all."""
    path = Path(posixpath.normpath((page if page.is_dir() else page.parent) / target))
    if re.match(r"\w+:", target) or not path.exists() or not path.is_relative_to(ROOT):
        return None
    return path / "README.md" if (path / "README.md").exists() else path


def _address(path: Path) -> str:
    """The place in the site of a file or folder of the repository."""
    if path == ROOT / "README.md":
        return "index.md"
    path = path / "index.md" if path.is_dir() else path
    return path.relative_to(
        ROOT / "docs" if path.is_relative_to(ROOT / "docs") else ROOT
    ).as_posix()


def _text(path: Path) -> str:
    """The text of a page; the list of its files for a folder, and for a README elsewhere."""
    if path.is_dir():
        return f"# {path.relative_to(ROOT)}\n\n{_listed(path)}"
    text = path.read_text()
    if path.name == "README.md" and ROOT / "docs" not in path.parents and path.parent != ROOT:
        return f"{text}\n## Files\n\n{_listed(path.parent)}"
    return text


def _listed(folder: Path) -> str:
    """Links to the folders and tables of a folder, then its pictures."""
    lines, pictures = [], []
    for path in sorted(folder.iterdir(), key=lambda path: path.with_suffix("")):
        table = path.with_suffix(".csv")
        if path.suffix in PICTURES:
            pictures.append(f"\n![{path.stem}]({path.name})\n")
        elif path.suffix == ".md" and path.name != "README.md":
            beside = f" ([CSV]({table.name}))" if table.exists() else ""
            lines.append(f"- `{path.stem}`: [{_title(path)}]({path.name}){beside}")
        elif path.is_dir():
            lines.append(f"- [{path.name}/]({path.name})")
    return "\n".join([*lines, *pictures]) + "\n"


def _title(path: Path) -> str:
    first = path.read_text().partition("\n")[0]
    return first.removeprefix("# ") if first.startswith("# ") else path.name
