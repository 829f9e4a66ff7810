"""The site of `make docs`: it builds without a warning, and tells what the code knows."""

from __future__ import annotations

import html
import importlib.util
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

import jaxoff
from jaxoff.data import pools
from jaxoff.names import Task
from tests.test_readme import rows

ROOT = Path(__file__).parents[1]
for package in ("mkdocs", "material", "mkdocstrings"):
    if importlib.util.find_spec(package) is None:
        pytest.skip(
            f"{package} is not installed; `make docs` installs the extra `docs`",
            allow_module_level=True,
        )


def build(root: Path, out: Path) -> subprocess.CompletedProcess[str]:
    """Build the site of a repository as `make docs` does, into a folder."""
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(out)]
    env = os.environ | {"NO_MKDOCS_2_WARNING": "1", "JAX_PLATFORMS": "cpu"}
    return subprocess.run(command, cwd=root, env=env, capture_output=True, text=True)


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    """A folder with the site."""
    out = tmp_path_factory.mktemp("site") / "site"
    done = build(ROOT, out)
    assert done.returncode == 0, done.stderr[-3000:]
    return out


@pytest.fixture(scope="module")
def cards() -> ModuleType:
    """The hook that makes cards."""
    spec = importlib.util.spec_from_file_location("cards", ROOT / "docs" / "theme" / "cards.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def text_of(page: Path) -> str:
    """What a page shows beside its navigation, without markup."""
    body = page.read_text().partition("<article")[2]
    return html.unescape(re.sub(r"<[^>]+>", "", body))


def test_the_api_has_every_public_name(site):
    page = (site / "api.html").read_text()
    names = set(jaxoff.__all__) - {"__version__"}
    assert names <= set(re.findall(r'id="jaxoff\.(\w+)"', page))


def test_a_page_loads_nothing_from_elsewhere_and_its_files_are_there(site):
    for page in site.rglob("*.html"):
        for tag in re.findall(r"<(?:script|link|img|iframe|source)\b[^>]*>", page.read_text()):
            for target in re.findall(r'(?:src|href)="?([^"\s>]+)', tag):
                assert not re.match(r"(?:\w+:)?//", target), f"{page.name}: {tag}"
                path = target.partition("?")[0].partition("#")[0]
                if page.name != "404.html":  # its links begin at the root of a server
                    assert (page.parent / path).exists(), f"{page.name}: {tag}"


CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), ""
)


@pytest.mark.skipif(not CHROMIUM, reason="no Chromium is installed")
def test_a_browser_renders_pages_at_the_width_of_a_screen(site, tmp_path):
    from PIL import Image

    for name, width in (("index.html", 1280), ("methods/inspo.html", 800)):
        shot, wide = tmp_path / "page.png", f"--window-size={width},900"
        command = [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", wide]
        command += [f"--user-data-dir={tmp_path / 'profile'}", "--hide-scrollbars"]
        page = (site / name).as_uri()
        made = subprocess.run([*command, f"--screenshot={shot}", page], capture_output=True)
        assert made.returncode == 0 and shot.is_file(), made.stderr[-2000:]
        dump = subprocess.run([*command, "--dump-dom", page], capture_output=True, text=True).stdout
        # The theme's script has run: it marks a page whose script is alive on its root element.
        assert re.search(r"<html[^>]*class=\"[^\"]*\bjs\b", dump), dump[:300]
        with Image.open(shot) as picture:
            found = picture.convert("RGB").getcolors(2**20) or []
        assert picture.size[0] == width
        # A page without its style sheet has hardly a colour; one that did not load has one.
        assert len(found) > 50 and max(count for count, _ in found) < 0.97 * width * 900


def test_home_is_the_readme_and_its_links_lead_to_pages(site):
    page = (site / "index.html").read_text()
    assert "How it compares" in page
    for target in ("methods/inspo.html", "results.html", "template/index.html"):
        assert f'href="{target}"' in page and (site / target).exists()
    assert (site / "experiments" / "reference" / "inspo" / "table3-curves.png").exists()


@pytest.mark.parametrize("method", [*rows(), "mappo", "matd3", "pjap"])
def test_a_methods_page_begins_with_its_card(site, cards, method):
    shown = text_of(site / "methods" / f"{method}.html")
    card = shown.partition("Idea")[0]
    kinds = jaxoff.registry.forms(method) if method in rows() else jaxoff.registry.KINDS
    kinds = ("continuous",) if method == "matd3" else kinds
    assert cards.OTHERS.get(method, f"jaxoff train {method} TASK") in card
    assert f"Actions\n{', '.join(kinds)}\n" in card
    assert "Reference results" in card and "Settings in the code" in card


@pytest.mark.parametrize("method", rows())
def test_a_card_has_reference_results_where_the_readme_has(cards, method):
    assert bool(cards.references(method)) == ("R" in rows()[method])


def test_a_card_has_defaults_and_the_values_by_task(cards):
    module = jaxoff.registry.forms("inspo")["discrete"]
    found = {
        one.name: (one.default, values)
        for one, values in cards.settings("inspo", module, ["discrete"])
    }
    default, values = found["normalise"]
    assert default is True and values == [("matrix/mne*/*", False)]
    # a pattern is told to the form whose tasks it fits
    forms = jaxoff.registry.forms("omar")
    patterns = {
        kind: {
            pattern for _, values in cards.settings("omar", form, [kind]) for pattern, _ in values
        }
        for kind, form in forms.items()
    }
    assert "smax*/*" in patterns["discrete"] and not patterns["discrete"] & patterns["continuous"]


def hook(name: str) -> ModuleType:
    """A hook of the site, by the name of its file."""
    spec = importlib.util.spec_from_file_location(name, ROOT / "docs" / "theme" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_family_with_a_recipe_has_a_page_with_its_numbers(site):
    families = hook("families")
    tasks = [Task.parse(name) for name in jaxoff.tasks()]
    recipes = {task.family for task in tasks if not task.source}
    assert recipes == {family for names in families.PAGES.values() for family in names}
    for page, names in families.PAGES.items():
        shown = text_of(site / "datasets" / f"{page}.html")
        for task in tasks:
            if task.family in names and not task.source:
                assert f"{task.family}/{task.scenario}\n" in shown and task.quality in shown
        for row in families.rows(names):
            assert f"{row['task']}\n" in shown
    for name in pools.shipped():
        page = next(page for page, names in families.PAGES.items() if name.split("/")[0] in names)
        assert f"jaxoff data pool {name} --" in text_of(site / "datasets" / f"{page}.html")
    steps = f"{int(families.rows(['maze'])[0]['steps']):,}"
    assert steps in text_of(site / "datasets" / "maze.html")
    assert "1.000" in text_of(site / "datasets" / "smax.html")


def test_the_notebook_is_a_page_with_its_outputs(site):
    page = site / "notebooks" / "quickstart.html"
    shown = text_of(page)
    assert "results[method] = jaxoff.train(" in shown and "Results of inspo on" in shown
    assert "return_mean" in shown and "<style" not in page.read_text().partition("<article")[2]
    pictures = re.findall(r'<img[^>]*src="([^"]+)"', page.read_text())
    kinds = {Path(name).suffix: (page.parent / name).read_bytes()[:4] for name in pictures}
    assert kinds == {".png": b"\x89PNG", ".gif": b"GIF8"}
    assert (page.parent / "quickstart.ipynb").exists()


def test_a_broken_link_a_lost_anchor_and_a_page_without_a_place_fail(tmp_path):
    copy = tmp_path / "copy"
    for name in ("docs", "experiments/reference", "experiments/bench"):
        shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("*.py", "*.svg"))
    shutil.copytree(ROOT / "docs" / "theme", copy / "docs" / "theme", dirs_exist_ok=True)
    (copy / "baselines").mkdir()
    for name in ("README.md", "mkdocs.yml", "baselines/settings.toml"):
        shutil.copy(ROOT / name, copy / name)
    with (copy / "docs" / "usage.md").open("a") as page:
        page.write("\n[broken](../experiments/reference/none.md) [lost](speed.md#nowhere)\n")
    (copy / "docs" / "alone.md").write_text("# Alone\n")
    done = build(copy, tmp_path / "out")
    assert done.returncode != 0
    assert all(word in done.stderr for word in ("none.md", "#nowhere", "alone.md"))
