"""How policies were evaluated: tables and figures tell it; reports of `jaxoff evaluate`."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from jaxoff import cli
from jaxoff.cli.common import console
from jaxoff.errors import BrokenResult, InvalidSetting
from jaxoff.report import load_experiment, load_run, protocol, render, report, tables
from jaxoff.report.protocol import Protocol
from tests.test_report import make

SAMPLED = "last evaluation of training, 32 episodes per run, sampled actions"
MODES = "last evaluation of training, 32 episodes per run, modes of the policies"


def evaluation(values: dict[int, float], sampled: bool = False, **changes: Any) -> dict[str, Any]:
    """An entry of evaluations.json with the return of each run; a run's seed is its number."""
    rows = [{"run": run, "seed": run, "return_mean": value} for run, value in values.items()]
    return {"episodes": 100, "sampled": sampled, "finished": True, "runs": rows, **changes}


def played(folder: Path, *entries: Any) -> Path:
    """Write a folder's evaluations.json."""
    (folder / "evaluations.json").write_text(json.dumps({"evaluations": entries}))
    return folder


@pytest.fixture
def pair(tmp_path: Path) -> tuple[Path, Path]:
    """The folders of two jobs of two runs, evaluated with 100 episodes by the policies' modes."""
    one = make(tmp_path / "one", "bc", "matrix/xor/a", [0.1, 0.2])
    two = make(tmp_path / "two", "omar", "matrix/xor/a", [0.3, 0.4])
    return played(one, evaluation({0: 5.0, 1: 7.0})), played(two, evaluation({0: 8.0, 1: 9.0}))


def test_tables_figures_and_pages_tell_how_policies_were_evaluated(tmp_path: Path):
    make(tmp_path / "bc", "bc", "matrix/xor/a", [0.1, 0.2], joint=np.full((2, 2), 0.25))
    page = report(tmp_path).read_text()
    assert f"Evaluation: {SAMPLED}." in page
    for ending in ("md", "tex"):
        text = (tmp_path / f"table-return_mean.{ending}").read_text()
        assert f"Evaluation: {SAMPLED}." in text
    with (tmp_path / "table-return_mean.csv").open() as stream:
        assert [row["evaluation"] for row in csv.DictReader(stream)] == [SAMPLED]
    for stem, words in {
        "curves-matrix-xor-a": "Evaluation: each point 32 episodes",
        "profiles": "Evaluation: last evaluation of training",
        "aggregate": "Evaluation: last evaluation of training",
        "policies-matrix-xor-a": "last evaluation of training",
    }.items():
        assert words in (tmp_path / f"{stem}.svg").read_text()


@pytest.mark.parametrize(
    ("greedy", "wanted"),
    [
        ([], f"Evaluation: {SAMPLED}."),
        ([("bc", "a"), ("bc", "b")], f"Evaluations differ. bc: {MODES}. omar: {SAMPLED}."),
        ([("bc", "a"), ("omar", "a")], f"Evaluations differ. a: {MODES}. b: {SAMPLED}."),
        ([("bc", "a")], f"differ. bc on a: {MODES}. omar on a, bc on b, omar on b: {SAMPLED}."),
    ],
    ids=["equal", "by column", "by row", "by cell"],
)
def test_a_table_of_different_evaluations_names_them(tmp_path: Path, greedy, wanted):
    for task in "ab":
        for method in ("bc", "omar"):
            sampled = (method, task) not in greedy
            make(tmp_path / f"{method}-{task}", method, task, [0.1], sampled=sampled)
    table = tables.build(sorted(load_experiment(tmp_path), key=lambda run: run.task))
    assert wanted in render.markdown(table)


def test_folders_of_one_cell_that_differ_are_told():
    cell = [(("a", "bc"), MODES), (("a", "bc"), SAMPLED), (("a", "omar"), SAMPLED)]
    assert protocol.told(cell) == (
        f"Evaluations differ. bc on a: {MODES}; {SAMPLED}. omar on a: {SAMPLED}."
    )


def test_an_exact_value_is_said_to_need_no_episodes():
    exact = "last evaluation of training, computed from the policies without episodes"
    assert Protocol(True, 32).of("exact_value") == exact
    assert Protocol(True, 32).along("exact_value") == (
        "each point computed from the policies without episodes"
    )


def test_a_report_of_evaluations_has_the_latest_of_each_run(pair):
    one, _ = pair
    played(one, evaluation({0: 1.0, 1: 7.0}), evaluation({0: 5.0}))
    page = report(one.parent, "evaluation").read_text()
    assert "jaxoff evaluate, after training, 100 episodes per run, modes of the policies" in page
    with (one.parent / "table-return_mean.csv").open() as stream:
        found = {row["column"]: row["values"] for row in csv.DictReader(stream)}
    assert found == {"bc": "5 7", "omar": "8 9"}
    # the curves are of training
    assert "each point 32 episodes" in (one.parent / "curves-matrix-xor-a.svg").read_text()


def test_evaluations_are_chosen_by_actions_and_number_of_episodes(pair):
    one = played(
        pair[0],
        evaluation({0: 1.0, 1: 1.0}),
        evaluation({0: 2.0, 1: 2.0}, sampled=True),
        evaluation({0: 3.0, 1: 3.0}, sampled=True, episodes=7),
    )
    values = lambda **chosen: protocol.evaluated([load_run(one)], **chosen)[0].values("return_mean")
    np.testing.assert_array_equal(values(), [3.0, 3.0])
    np.testing.assert_array_equal(values(sampled=False), [1.0, 1.0])
    np.testing.assert_array_equal(values(sampled=True, episodes=100), [2.0, 2.0])


def test_a_run_that_failed_is_no_number_in_a_later_evaluation(pair):
    entry = evaluation({0: 5.0, 1: 7.0})
    entry["runs"][0]["failed_at"] = 3
    (run,) = protocol.evaluated([load_run(played(pair[0], entry))])
    np.testing.assert_array_equal(run.values("return_mean"), [np.nan, 7.0])


@pytest.mark.parametrize("change", [{"sampled": True}, {"episodes": 50}])
def test_different_evaluations_are_refused_naming_the_folders(pair, change):
    one, two = pair
    played(two, evaluation({0: 8.0, 1: 9.0}, **change))
    with pytest.raises(InvalidSetting, match="same actions and number of episodes") as error:
        report(one.parent, "evaluation")
    assert f"100 episodes per run, modes of the policies in {one}; " in str(error.value)
    assert f"in {two}; choose some by --greedy" in str(error.value)
    assert not list(one.parent.glob("*.*"))


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ([], r"one/evaluations\.json: expected an evaluation of each run, found none of runs 0, 1"),
        ([evaluation({1: 7.0})], "found none of runs 0; `jaxoff evaluate .*one`"),
        ([evaluation({0: 1.0, 1: 7.0}, finished=False)], "found none of runs 0, 1"),
    ],
    ids=["none", "a run lacks one", "before the end of training"],
)
def test_a_run_without_an_evaluation_is_refused(pair, entries, message):
    with pytest.raises(InvalidSetting, match=message):
        report(played(pair[0], *entries).parent, "evaluation")
    (pair[0] / "evaluations.json").unlink()
    with pytest.raises(InvalidSetting, match="found none of runs 0, 1"):
        report(pair[0].parent, "evaluation")
    config = json.loads((pair[0] / "config.json").read_text()) | {"env": ""}
    (pair[0] / "config.json").write_text(json.dumps(config))  # trained without an environment
    with pytest.raises(InvalidSetting, match=r"evaluate .*one --env FAMILY/SCENARIO` makes it"):
        report(pair[0].parent, "evaluation")


def test_evaluations_from_before_a_job_was_extended_are_of_other_policies(tmp_path: Path):
    folder = make(tmp_path / "one", "bc", "matrix/xor/a", [0.1])
    final = json.loads((folder / "final.json").read_text())
    final["runs"][0]["updates"] = 40
    (folder / "final.json").write_text(json.dumps(final))
    values = lambda: protocol.evaluated([load_run(folder)])[0].values("return_mean").tolist()
    played(folder, evaluation({0: 5.0}, updates=20), evaluation({0: 6.0}, updates=40))
    assert values() == [6.0]
    played(folder, evaluation({0: 6.0}, updates=40), evaluation({0: 5.0}, updates=20))
    assert values() == [6.0]
    played(folder, evaluation({0: 5.0}))  # of an earlier version, which does not tell
    assert values() == [5.0]
    config = json.loads((folder / "config.json").read_text()) | {"parts": [[20, 2]]}
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(InvalidSetting, match="found none of runs 0"):
        values()


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ([], "evaluation 0: expected an object, found list"),
        (evaluation({0: 1.0}) | {"runs": 3}, "evaluation 0: field 'runs': expected list"),
        ({"episodes": 3}, "evaluation 0: field 'sampled'"),
        (evaluation({}) | {"runs": [{"run": 0, "seed": 0}]}, "field 'return_mean'"),
        (
            evaluation({}) | {"runs": [{"run": k, "seed": 5, "return_mean": 1} for k in (0, 1)]},
            "field 'seed': expected 0 for run 0, found 5",
        ),
    ],
)
def test_a_damaged_file_of_evaluations_is_named(pair, entry, message):
    with pytest.raises(BrokenResult, match=message) as error:
        report(played(pair[0], entry).parent, "evaluation")
    assert str(pair[0] / "evaluations.json") in str(error.value)


def test_the_command_reports_evaluations_and_refuses_options_that_do_nothing(pair, capsys):
    folder = pair[0].parent
    with console.capture():
        cli.main(["report", str(folder), "--from", "evaluation", "--greedy", "--episodes", "100"])
    assert "jaxoff evaluate, after training" in (folder / "index.html").read_text()
    for options, message in {
        ("--greedy", "--episodes", "3"): "--episodes, --greedy: expected with --from evaluation",
        ("--from", "evaluation", "--greedy", "--sampled"): "expected one of the two, found both",
    }.items():
        with pytest.raises(SystemExit, match="2"):
            cli.main(["report", str(folder), *options])
        assert message in capsys.readouterr().err
