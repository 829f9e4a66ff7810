"""The table of datasets: rows, failures, what a second call makes again, and the papers'
numbers.
"""

from __future__ import annotations

import csv

import pytest
from jaxoff.experiments.datasets import table

from jaxoff import registry, runtime
from jaxoff.names import UnknownName

# with 3 episodes, d fails: it has four joint actions
PATTERNS = ("matrix/xor/[bd]", "poly/sign/uniform")


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """(folder, what was said) of a first call."""
    out, said = tmp_path_factory.mktemp("datasets"), []
    table.run(out, PATTERNS, 3, 1, said.append)
    return out, said


def test_a_dataset_that_fails_is_a_row_and_the_others_are_made(made):
    out, _ = made
    rows = {row.task: row for row in table.read(out / "datasets.csv")}
    assert list(rows) == ["matrix/xor/b", "matrix/xor/d", "poly/sign/uniform"]
    assert rows["matrix/xor/d"].failed == "InvalidSetting: episodes: expected at least 4, found 3"
    good = rows["matrix/xor/b"]
    # two joint actions once each, in one state; each is worth 1
    assert (
        good.failed,
        good.episodes,
        good.steps,
        good.return_mean,
        good.return_std,
        good.coverage,
        good.unique,
    ) == ("", 2, 2, 1, 0, 1, 1)
    assert (good.seed, good.asked, good.commit, good.hardware) == (
        1,
        3,
        runtime.git_commit(),
        runtime.hardware(),
    )
    assert good.seconds > 0 and good.win_rate != good.win_rate
    assert rows["poly/sign/uniform"].episodes == 3


def test_the_heads_name_hardware_commit_seed_and_command(made):
    out, _ = made
    for name in ("datasets.csv", "datasets.md"):
        text = (out / name).read_text()
        command = (
            "`python -m jaxoff.experiments.datasets --seed 1 --episodes 3 --tasks "
            "'matrix/xor/[bd]' poly/sign/uniform`"
        )
        assert all(
            part in text
            for part in (runtime.hardware(), f"commit {runtime.git_commit()}", "seed 1", command)
        )
    text = (out / "datasets.md").read_text()
    assert (
        "| matrix/xor/d | failed |  | InvalidSetting: episodes: expected at least 4, found 3 |"
        in text
    )
    assert "| matrix/xor/b | 2 | 2 | 1.00 ± 0.00 | 1.00, 1.00 |" in text
    heads = next(line for line in text.splitlines() if line.startswith("| task"))
    assert {
        line.replace("\\|", "").count("|") for line in text.splitlines() if line.startswith("|")
    } == {heads.count("|")}


def test_figures_have_a_panel_for_each_scenario(made):
    out, _ = made
    assert {path.name for path in out.iterdir() if path.is_file()} == {
        "datasets.csv",
        "datasets.md",
        "returns-matrix.png",
        "returns-matrix.svg",
        "returns-poly.png",
        "returns-poly.svg",
    }
    assert "matrix/xor" in (out / "returns-matrix.svg").read_text()
    assert {path.stem for path in (out / "returns").iterdir()} == {
        "matrix-xor-b",
        "poly-sign-uniform",
    }


def test_a_second_call_makes_only_what_failed_or_is_asked_otherwise(made, monkeypatch, tmp_path):
    first, said = made
    (tmp_path / "datasets.csv").write_bytes((first / "datasets.csv").read_bytes())
    asked = []

    def measure(task, episodes, seed):
        asked.append((task, episodes, seed))
        raise MemoryError("none left")

    monkeypatch.setattr(table, "measure", measure)
    table.run(tmp_path, PATTERNS, 3, 1, said.append)
    assert asked == [("matrix/xor/d", 3, 1)] and "1/3 matrix/xor/b: there already" in said
    asked.clear()
    table.run(tmp_path, ("matrix/xor/b",), 3, 2, said.append)  # another seed; the other rows stay
    assert asked == [("matrix/xor/b", 3, 2)]
    rows = {row.task: row for row in table.read(tmp_path / "datasets.csv")}
    assert (
        len(rows) == 3
        and rows["matrix/xor/b"].failed == "MemoryError: none left"
        and rows["poly/sign/uniform"].seed == 1
    )
    assert "These rows come from several calls" in (tmp_path / "datasets.md").read_text()


def test_an_interrupted_call_keeps_the_rows_it_has(monkeypatch, tmp_path, made):
    measure = table.measure

    def stop(task, episodes, seed):
        if task == "poly/sign/uniform":
            raise KeyboardInterrupt
        return measure(task, episodes, seed)

    monkeypatch.setattr(table, "measure", stop)
    with pytest.raises(KeyboardInterrupt):
        table.run(tmp_path, PATTERNS, 2, 0, lambda text: None)
    assert [row.task for row in table.read(tmp_path / "datasets.csv")] == [
        "matrix/xor/b",
        "matrix/xor/d",
    ]


def test_scenarios_without_their_pool_and_public_data_are_left_out(monkeypatch):
    monkeypatch.setattr(table.pools, "has", lambda name: name == "smax/3m")
    found = table.find()
    assert {
        "matrix/xor/a",
        "grid/bridge/mixed",
        "poly/sign/uniform",
        "maze/umaze/waypoint",
        "smax/3m/band-poor",
        "smax/3m/random",
    } <= set(found)
    assert not [
        name for name in found if ":" in name or name.startswith(("mpe/", "mamujoco/", "smax/8m"))
    ]
    with pytest.raises(
        UnknownName, match="unknown task, or one without its pool: 'smax/8m/\\*'; nearest: smax/3m/"
    ):
        table.find(["smax/8m/*"])


def test_a_number_of_episodes_in_the_name_is_kept(monkeypatch):
    asked = []
    monkeypatch.setattr(
        table.registry, "make_data", lambda task, options: asked.append(options.episodes) or 1 / 0
    )
    for task in ("smax/3m/wspm-p50-n40", "smax/3m/medium"):
        with pytest.raises(ZeroDivisionError):
            table.measure(task, 5, 0)
    assert asked == [None, 5]


def test_the_papers_rows_are_tasks_of_ours_with_numbers_and_a_source():
    paper = table.read_paper()
    assert set(paper) <= set(registry.tasks()) and len(paper) == 12 + 22 + 16
    assert (
        paper["mpe/spread/expert"]["mean"] == "530.9489"
        and paper["mpe/CN_3ls3l/imbalanced-low"]["mean"] == "-157.70"
    )
    for task, row in paper.items():
        assert float(row["mean"]) and row["source"] and row["simulator"], task
        assert ("not comparable" in row["simulator"]) == task.startswith("smax")
    with table.PAPER.open() as file:
        assert len(list(csv.DictReader(file))) == len(paper)  # none twice


def test_the_papers_numbers_stand_beside_ours(tmp_path):
    row = table.Row(
        "smax/2s3z/imbalanced-low",
        0,
        0,
        "c",
        "h",
        episodes=10,
        steps=20,
        return_mean=3.5,
        return_std=1.0,
        win_rate=0.25,
    )
    other = table.Row(
        "mpe/tag/medium", 0, 0, "c", "h", episodes=10, steps=250, return_mean=100.0, return_std=50.0
    )
    text = table.write_markdown(tmp_path, [row, other], "about").read_text()
    assert "| 3.24 | SMAC (StarCraft II), not comparable | 0.250 |" in text
    assert "| 116.36 ± 58.86 | particle worlds of OMAR" in text
    # the registry's order
    assert text.index("mpe/tag/medium") < text.index("smax/2s3z/imbalanced-low")
