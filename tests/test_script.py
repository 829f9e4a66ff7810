"""`jaxoff.train` from a script: what it sets up and shows, and what its results give."""

from __future__ import annotations

import dataclasses
import os
import re
import subprocess
import sys
import textwrap
from pathlib import Path
from types import SimpleNamespace

import chex
import numpy as np
import pytest
from rich.console import Console

import jaxoff
from jaxoff import runtime
from jaxoff.errors import InvalidSetting, MissingProgram
from jaxoff.logs import Progress
from jaxoff.training import results, script
from tests.learners import QUICK_ENV

ROOT = Path(__file__).parent.parent
SIZES = {"steps": 4, "evaluations": 1, "eval_episodes": 2}
SPEC = jaxoff.TrainSpec(
    "bc", "matrix/xor/c", seeds=(0, 1), config={"hidden": 16, "batch_size": 8}, **SIZES
)
# Prints the number of devices and the cache's folder; warnings are on standard error.
TAIL = "print(jax.device_count(), jax.config.jax_compilation_cache_dir)"
TRAIN = f"""
spec = jaxoff.TrainSpec("bc", "matrix/xor/c", seeds=(0, 1), config={SPEC.config}, **{SIZES})
for _ in range(2):
    assert len(jaxoff.train(spec).runs) == 2
"""


def python(code: str, folder: Path, **env: str) -> tuple[int, str, str]:
    """(devices, folder of compiled programs, standard error) of a Python process."""
    mine = {k: v for k, v in os.environ.items() if k not in ("JAX_COMPILATION_CACHE_DIR",)}
    done = subprocess.run(
        [sys.executable, "-c", f"import jax, jaxoff\n{code}\n{TAIL}"],
        env=mine | QUICK_ENV | {"XDG_CACHE_HOME": str(folder)} | env,
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    count, cache = done.stdout.split()
    return int(count), cache, done.stderr


def test_a_script_trains_on_every_core_with_a_cache_and_without_a_word(tmp_path):
    count, cache, error = python(TRAIN, tmp_path)
    assert count == len(runtime.cores()) and not error
    assert cache == str(tmp_path / "jaxoff" / "xla")


@pytest.mark.skipif(len(runtime.cores()) < 2, reason="one core has all there are")
def test_a_process_in_which_jax_has_started_is_told_once_and_trains(tmp_path):
    start = "import jax.numpy as jnp\nwith jax.log_compiles(False): jnp.ones(3).sum()\n"
    count, _, error = python(start + TRAIN, tmp_path)
    assert count == 1 and error.count("JAX had already started") == 1
    assert "call jaxoff.setup() before" in error


@pytest.mark.parametrize(
    ("env", "count"),
    [
        ({"JAX_NUM_CPU_DEVICES": "1"}, 1),
        ({"XLA_FLAGS": "--xla_force_host_platform_device_count=3"}, 3),
    ],
    ids=["a setting of JAX", "a flag of XLA"],
)
def test_what_the_user_has_told_jax_is_kept(tmp_path, env, count):
    own = {"JAX_COMPILATION_CACHE_DIR": str(tmp_path / "own")}
    assert python("jaxoff.setup()", tmp_path, **env, **own)[:2] == (count, str(tmp_path / "own"))


@pytest.mark.parametrize(
    ("progress", "place", "shown"),
    [
        (None, None, False),
        (None, "terminal", True),
        (None, "notebook", True),
        (True, None, True),
        (False, "terminal", False),
    ],
)
def test_a_bar_is_shown_in_terminals_and_notebooks(progress, place, shown, monkeypatch):
    made = []
    monkeypatch.setattr("jaxoff.logs.Progress", type("Shown", (Silent,), {"made": made}))
    monkeypatch.setattr(script, "Console", lambda **_: stream(place))
    jaxoff.train(SPEC, progress=progress)
    assert made == ["bc matrix/xor/c"] * shown


def stream(place: str | None) -> SimpleNamespace:
    """What `Console(stderr=True)` tells of the error stream."""
    return SimpleNamespace(is_terminal=place == "terminal", is_jupyter=place == "notebook")


class Silent(Progress):
    """A bar that only counts that it was made."""

    made: list[str]

    def __init__(self, title: str) -> None:
        super().__init__(title, Console(quiet=True))
        self.made.append(title)


def test_a_bar_of_the_users_own_stays_the_only_one(monkeypatch):
    monkeypatch.setattr(script, "Console", lambda **_: stream("terminal"))
    bar = Progress("mine", Console(quiet=True))
    monkeypatch.setattr(Progress, "__init__", None)  # another one cannot be made
    assert jaxoff.train(SPEC, sinks=[bar]).runs


def test_a_script_extends_a_job_and_starts_it_anew(tmp_path):
    more = dataclasses.replace(SPEC, seeds=(*SPEC.seeds, 9))
    jaxoff.train(SPEC, tmp_path / "job")
    assert len(jaxoff.train(more, tmp_path / "job", extend=True).runs) == len(more.seeds)
    other = dataclasses.replace(SPEC, seeds=(8,))
    assert [run["seed"] for run in jaxoff.train(other, tmp_path / "job", overwrite=True).runs] == [
        8
    ]


# --------------------------------------------------------------------------------------- results


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    """Results of a job in memory, and of the same job in a folder, read back."""
    folder = tmp_path_factory.mktemp("results") / "job"
    jaxoff.train(SPEC, out=str(folder))
    return jaxoff.train(SPEC), jaxoff.train(SPEC, out=folder)


def test_policies_in_memory_are_those_of_the_folder(pair):
    memory, folder = pair
    for run in range(2):
        env, policy, spec = memory.policy(run)
        played = jaxoff.evaluate(env, policy, 20, sampled=True)
        for other in (folder.policy(run), jaxoff.load_policy(folder.path, run)):
            assert other[2].method == spec.method == "bc"
            chex.assert_trees_all_equal(jaxoff.evaluate(*other[:2], 20, sampled=True), played)
    for found in pair:
        with pytest.raises(InvalidSetting, match=r"field 'run': expected 0\.\.1, found 2"):
            found.policy(2)


def test_results_that_were_read_from_files_alone_have_no_policies(pair):
    with pytest.raises(InvalidSetting, match="expected results of a training"):
        results.load(pair[1].path).policy()


def test_results_show_themselves_in_a_line(pair):
    memory, folder = pair
    assert repr(folder) == f"{repr(memory)[: -len('in memory>')]}in {folder.path}>"
    runs = [{"run": k, "return_mean": value, "failed_at": None} for k, value in enumerate((1, 3))]
    lost = {"run": 2, "return_mean": -9.0, "failed_at": 4}
    shown = dataclasses.replace(memory, runs=[*runs, lost])
    # of 1 and 3: mean 2, std sqrt(2)
    assert repr(shown) == (
        "<Results of bc on matrix/xor/c: 3 runs, last return 2.000 ± 1.414, 1 failed, in memory>"
    )


def test_rows_and_frames_have_a_line_per_run(monkeypatch):
    found = jaxoff.train(dataclasses.replace(SPEC, grid={"lr": [0.1, 0.2]}))
    rows = found.rows()
    assert list(rows[0])[:5] == ["method", "task", "run", "seed", "lr"]
    assert [(row["lr"], row["seed"]) for row in rows] == [(0.1, 0), (0.1, 1), (0.2, 0), (0.2, 1)]
    lost = dataclasses.replace(found, runs=[found.runs[0] | {"failed_at": 3}, *found.runs[1:]])
    row = lost.rows()[0]
    assert np.isnan(row["return_mean"]) and row["updates"] == rows[0]["updates"]
    monkeypatch.setitem(sys.modules, "pandas", type("Pandas", (), {"DataFrame": list}))
    assert found.to_frame() == rows
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(MissingProgram, match="pip install pandas"):
        found.to_frame()


@pytest.mark.parametrize("page", ["README.md", "docs/usage.md"])
def test_the_example_of_a_page_runs(page, tmp_path, monkeypatch):
    text = (ROOT / page).read_text()
    (code,) = re.findall(r"same\s+from\s+Python:\n\n((?:    .*\n|\n)+)", text)
    small = {"seeds": (0, 1), "config": {"hidden": 16, "batch_size": 8, "behaviour_steps": 2}}
    make = jaxoff.TrainSpec
    spec = lambda method, task, **given: make(method, task, **given | SIZES | small)
    monkeypatch.setattr(jaxoff, "TrainSpec", spec, raising=False)
    monkeypatch.chdir(tmp_path)
    names: dict = {}
    exec(textwrap.dedent(code), names)
    assert names["results"].path == Path("results/xor") and names["spec"].method == "inspo"
    assert np.isfinite(names["results"].history["exact_value"]).all()
