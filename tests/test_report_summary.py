"""What a report says beyond its tables: who wins, last and best, tuning, marl-eval's format."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from jaxoff import cli
from jaxoff.cli.common import console
from jaxoff.errors import BrokenResult, InvalidSetting
from jaxoff.eval import statistics
from jaxoff.report import (
    checkpoints,
    html,
    load_experiment,
    load_run,
    marl_eval,
    render,
    report,
    summary,
    tables,
    tuning,
)
from jaxoff.report.load import told_apart
from tests.test_report import make

A, B = "matrix/xor/a", "matrix/xor/b"


def verdict_of(cells: dict[str, tuple[list[float], str]], **data: float) -> summary.Verdict:
    """The verdict on one row; cells: column -> values and the paper's number."""
    marks = statistics.marks({name: values for name, (values, _) in cells.items()})
    row = {
        ("row", name): tables.Cell((np.array(values),), marks[name], printed)
        for name, (values, printed) in cells.items()
    } | {("row", name): tables.Cell((np.array([x]),), "data") for name, x in data.items()}
    names = tuple(name for _, name in row)
    (found,) = summary.verdicts(tables.Table("", ("row",), names, row, "score", "", (), ()))
    return found


# summary


def test_a_clear_winner_is_named_with_its_lead():
    found = verdict_of({"a": ([1.0, 1.2], "0.9"), "b": ([0.1, 0.3], "1.5 ± 0.1")}, data=9.0)
    assert (found.best, found.next, found.clear) == ("a", "b", True)
    # 1.1 - 0.2; the bootstrap of two values each reaches from 1.0 - 0.3 to 1.2 - 0.1
    np.testing.assert_allclose(found.gap, [0.9, 0.7, 1.1])
    assert found.text == "better than every other method"
    assert found.agreement == "b (another one here)"


def test_methods_that_no_test_tells_apart_are_named():
    found = verdict_of({"a": ([1.0, 3.0], "2"), "b": ([1.0, 2.0], "3"), "c": ([0.0], "")})
    assert not found.clear and found.text == (
        "no significant difference from b; not tested against c: fewer than two runs"
    )
    assert found.agreement == "b (no significant difference here)"
    many = verdict_of({name: ([1.0, 3.0], "") for name in "abcde"})
    assert many.text == "no significant difference from 4 others" and many.agreement == "—"


def test_wins_are_counted():
    clear = verdict_of({"a": ([1.0, 1.1], ""), "b": ([0.1, 0.2], "")})
    unclear = verdict_of({"a": ([1.0, 3.0], ""), "b": ([1.0, 2.0], "")})
    alone = verdict_of({"a": ([1.0, 3.0], "")})
    assert summary.sentence([clear, unclear]) == (
        "Best mean on 2 tasks: a on 2 (significantly on 1 of them)."
    )
    assert summary.sentence([clear, alone]) == "Best mean: a, better than every other method."
    assert alone.text == "the only method" and summary.sentence([alone]) == ""


def test_methods_are_compared_by_one_number_for_each_task():
    def table_of(metric: str, *rows: str, mark: str = "best") -> tables.Table:
        cells = {(row, "bc"): tables.Cell((np.ones(2),), mark) for row in rows}
        return tables.Table(metric, rows, ("bc",), cells, metric, "", (), ())

    returns, wins = table_of("return_mean", "x", "y"), table_of("win_rate", "x")
    other, own = table_of("return_mean", "z"), table_of("end reward", "u")
    rest = [table_of("out_of_data", "v"), table_of("distance", "w", mark="")]
    found = summary.leading([own, returns, wins, other, *rest])
    assert [table.title for table in found] == ["win_rate", "return_mean", "end reward"]
    assert found[1] is other


def test_the_first_figure_has_few_panels_and_marks_the_papers_numbers(tmp_path: Path):
    cells = {
        (row, name): tables.Cell((np.arange(3.0),), "", "1.5" if name == "bc" else "")
        for row in "uvwxyz"
        for name in ("bc", "omar")
    }
    table = tables.Table("", tuple("uvwxyz"), ("bc", "omar"), cells, "score", "", (), ())
    assert summary.draw([table, table], tmp_path / "s", most=5) == (5, 7)
    text = (tmp_path / "s.svg").read_text()
    assert "the paper's number" in text and "95% bootstrap intervals" in text
    # the two tables have three and two panels, in rows of their own
    assert [text.count(f">{row}</text>") for row in "uvwx"] == [2, 2, 1, 0]
    assert summary.draw([], tmp_path / "none") == (0, 0) and not (tmp_path / "none.svg").exists()


# notes of a page


def test_a_note_stands_where_it_is_shared(tmp_path: Path):
    table = "# {}\n\n| a |\n|---|\n| 1 |\n\nof all\n\nof {}\n\n{}\n\n- Seeds: {}\n"
    for name, more, seeds in (("one", "pair", 0), ("two", "pair", 1), ("three", "rest", 0)):
        (tmp_path / f"{name}.md").write_text(table.format(name, name, more, seeds))
    sections = [html.Section("s", "", ["one", "two", "three"]), html.Section("t", "", ["three"])]
    text = html.index(tmp_path, "x", sections).read_text()
    first, second = text.index('id="s0"'), text.index('id="s1"')
    assert text.count("<p>of all</p>") == 1 and text.index("<p>of all</p>") < first
    # of two of the three tables of the first section
    assert first < text.index("<p>one, two: pair</p>") < text.index("<h3>one</h3>")
    assert text.index("<h3>one</h3>") < text.index("<p>of one</p>") < text.index("<h3>two</h3>")
    assert first < text.index("two: Seeds: 1") < second < text.index("<li>Seeds: 0</li>")


def test_a_list_before_the_last_one_stays_in_sight(tmp_path: Path):
    (tmp_path / "x.md").write_text("# x\n\n| a |\n|---|\n| 1 |\n\n- found\n\n- Seeds: 0\n")
    text = html.index(tmp_path, "x", [html.Section("s", "", ["x"])]).read_text()
    assert text.index("found") < text.index("<details>") < text.index("Seeds: 0")


# last and best


def test_last_and_best_stand_side_by_side(tmp_path: Path):
    folder = make(tmp_path / "bc", "bc", A, [1.0, 3.0, None])
    with np.load(folder / "final.npz") as file:
        arrays = dict(file)
    # updates 0, 10, 20; the first run is best before the end
    arrays["history/return_mean"] = np.array([[0.0, 0.0, 9.0], [5.0, 1.0, 9.0], [1.0, 3.0, np.nan]])
    np.savez(folder / "final.npz", **arrays)
    assert checkpoints.write([load_run(folder)], tmp_path / "c")
    row = next(x for x in (tmp_path / "c.md").read_text().splitlines() if x.startswith("| matrix"))
    # last: 1 and 3; best: 5 at 10 and 3 at 20, the median of which is 15
    assert row == "| matrix/xor/a | last 2.00 ± 1.41<br>best 4.00 ± 1.41 at 15 |"
    with (tmp_path / "c.csv").open() as stream:
        (line,) = csv.DictReader(stream)
    assert (line["last"], line["best"], line["best_at"]) == ("1 3 nan", "5 3 nan", "10 20 nan")


# tuning


def test_the_expected_best_of_k_configurations_by_hand():
    mean, spread = statistics.expected_best([3.0, 1.0, 2.0])
    # pairs: (1, 2) -> 2, (1, 3) and (2, 3) -> 3
    np.testing.assert_allclose(mean, [2.0, 8 / 3, 3.0])
    np.testing.assert_allclose(spread, [np.sqrt(2 / 3), np.sqrt(2 / 9), 0.0], atol=1e-12)


def test_a_grid_has_a_table_and_a_figure_of_what_tuning_brings(tmp_path: Path):
    points = [{"alpha": x} for x in (0.5, 0.5, 1.0, 1.0, 2.0, 2.0)]
    grid = {"points": points, "seeds": [0, 1] * 3, "grid": {"alpha": [0.5, 1.0, 2.0]}}
    make(tmp_path / "x" / "cql", "cql", A, [1.0, 1.0, 2.0, 4.0, None, None], **grid)
    make(tmp_path / "x" / "bc", "bc", A, [1.0, 2.0])
    runs = load_experiment(tmp_path / "x")
    (found,) = tuning.tuned(runs, told_apart(runs), "return_mean")
    assert (found.task, found.label) == (A, "cql") and found.values.tolist() == [1.0, 3.0]
    page = report(tmp_path / "x").read_text()
    assert "tuning-figure.svg" in page and "best of 2" in page
    with (tmp_path / "x" / "tuning.csv").open() as stream:
        assert [line["expected"] for line in csv.DictReader(stream)] == ["200", "300"]  # scores
    assert tuning.counts_of(9) == [1, 2, 4, 8, 9] and tuning.counts_of(8) == [1, 2, 4, 8]


def test_a_configuration_whose_seeds_lie_in_two_folders_counts_once(tmp_path: Path):
    for name, seeds, finals in (("a", [0, 0], [1.0, 5.0]), ("b", [1, 1], [3.0, 7.0])):
        grid = {"points": [{"alpha": 0.5}, {"alpha": 1.0}], "grid": {"alpha": [0.5, 1.0]}}
        make(tmp_path / name, "cql", A, finals, seeds=seeds, **grid)
    runs = load_experiment(tmp_path)
    (found,) = tuning.tuned(runs, told_apart(runs), "return_mean")
    assert found.values.tolist() == [2.0, 6.0]


def test_the_data_and_the_evaluations_of_a_job_are_no_settings_that_were_tuned(tmp_path: Path):
    grid = {"points": [{"alpha": 0.5}, {"alpha": 1.0}], "grid": {"alpha": [0.5, 1.0]}}
    grid |= {"seeds": [0, 0]}
    for name, finals, about in (
        ("a", [1.0, 2.0], {"data_seed": 0}),
        ("b", [11.0, 12.0], {"data_seed": 1}),
        ("c", [3.0, 4.0], {"data_seed": 1, "eval_episodes": 9}),
        ("d", [5.0, 6.0], {"data_seed": 0, "sampler": "pjap"}),
    ):
        make(tmp_path / name, "cql", A, finals, **grid, **({"sampler": "uniform"} | about))
    runs = load_experiment(tmp_path)
    found = tuning.tuned(runs, told_apart(runs), "return_mean")
    assert {each.label: each.values.tolist() for each in found} == {
        "cql (data_seed=0, eval_episodes=32)": [1.0, 2.0, 5.0, 6.0],
        "cql (data_seed=1, eval_episodes=32)": [11.0, 12.0],
        "cql (data_seed=1, eval_episodes=9)": [3.0, 4.0],
    }


def test_a_grid_is_shown_beside_jobs_without_its_numbers(tmp_path: Path):
    grid = {"points": [{"alpha": 0.5}, {"alpha": 1.0}], "grid": {"alpha": [0.5, 1.0]}}
    make(tmp_path / "cql", "cql", A, [1.0, 2.0], seeds=[0, 0], **grid)
    make(tmp_path / "failed", "omar", A, [None, None], seeds=[0, 0], **grid)
    unplayed = make(tmp_path / "own", "bc", "folder:mine", [1.0, 1.0], seeds=[0, 0], **grid)
    final = json.loads((unplayed / "final.json").read_text())
    for run in final["runs"]:
        run["return_mean"] = run["score"] = None
    (unplayed / "final.json").write_text(json.dumps(final))
    runs = load_experiment(tmp_path)
    assert tuning.leading(runs) == "score" and tuning.leading(runs[2:]) == ""
    (found,) = tuning.tuned(runs, told_apart(runs), "score")
    assert (found.label, found.values.tolist()) == ("cql", [100.0, 200.0])
    assert "tuning-figure.svg" in report(tmp_path).read_text()


# marl-eval


def test_what_an_evaluation_does_not_tell_and_dataset_folders_are_exported(tmp_path: Path):
    folder = make(tmp_path / "r" / "bc", "bc", "folder:My Data", [0.5])
    with np.load(folder / "final.npz") as file:
        arrays = dict(file)
    np.savez(folder / "final.npz", **arrays, **{"history/exact_value": np.ones((3, 1))})
    cli.main(["report", str(tmp_path / "r"), "--marl-eval", str(tmp_path / "m.json")])
    run = json.loads((tmp_path / "m.json").read_text())["folder"]["my data"]["bc"]["seed_0"]
    assert "exact_value" in run["step_1"] and "exact_value" not in run["absolute_metrics"]


def test_results_are_exported_for_marl_eval(tmp_path: Path):
    for method, finals in (("bc", [0.5, 0.25]), ("omar", [1.0, 2.0])):
        for task in (A, "cfcql:matrix/xor/B"):
            make(tmp_path / "r" / f"{method}-{task[-1]}", method, task, finals, seeds=[0, 3])
    file = tmp_path / "out" / "m.json"
    with console.capture():
        cli.main(["report", str(tmp_path / "r"), "--marl-eval", str(file)])
    tree = json.loads(file.read_text())
    assert set(tree) == {"matrix", "cfcql:matrix"} and set(tree["cfcql:matrix"]) == {"xor/b"}
    run = tree["matrix"]["xor/a"]["omar"]["seed_3"]
    assert list(run) == ["step_0", "step_1", "step_2", "absolute_metrics"]
    assert run["step_1"] == {"step_count": 10, "return": [1.0]}
    assert run["absolute_metrics"] == {"return": [0.0] * 4}  # the four episodes of final.npz


def test_two_experiments_with_the_same_method_task_and_seeds_are_both_exported(tmp_path: Path):
    points = {"points": [{"alpha": 0.5}, {"alpha": 0.5}, {"alpha": 1.0}, {"alpha": 1.0}]}
    for name, first in (("one", 0), ("two", 2)):
        make(tmp_path / "r" / name / "bc", "bc", A, [1.0, 2.0])
        make(tmp_path / "r" / name / "cql", "cql", A, [3.0] * 4, seeds=[0, 1, 0, 1], **points)
        # other seeds are further runs of one method
        make(tmp_path / "r" / name / "omar", "omar", B[:-1] + "c", [5.0], seeds=[first])
    # the methods on the two tasks differ
    with pytest.raises(InvalidSetting, match=r"expected the methods bc \(one\), bc \(two\), cql"):
        report(tmp_path / "r", marl_eval=tmp_path / "m.json")
    for name in ("one", "two"):
        shutil.rmtree(tmp_path / "r" / name / "omar")
    cli.main(["report", str(tmp_path / "r"), "--marl-eval", str(tmp_path / "m.json")])
    found = json.loads((tmp_path / "m.json").read_text())["matrix"]["xor/a"]
    assert {name: list(seeds) for name, seeds in found.items()} == {
        f"{label}{name})": ["seed_0", "seed_1"]
        for name in ("one", "two")
        for label in ("bc (", "cql (alpha=0.5, ", "cql (alpha=1, ")
    }


def test_one_job_twice_in_an_experiment_is_not_exported(tmp_path: Path):
    for name in ("bc", "copy"):
        make(tmp_path / "r" / name, "bc", A, [1.0, 2.0])
    with pytest.raises(InvalidSetting, match=r"r/copy: expected seeds that .*r/bc does not have"):
        report(tmp_path / "r", marl_eval=tmp_path / "m.json")
    assert not (tmp_path / "m.json").exists()


def test_later_evaluations_are_exported_with_every_episode(tmp_path: Path):
    folder = make(tmp_path / "r" / "bc", "bc", A, [0.5, 0.25])
    rows = [
        {"run": run, "seed": run, "return_mean": 2.0, "returns": [1.0, 2.0, 3.0]} for run in (0, 1)
    ]
    entry = {"episodes": 3, "sampled": False, "finished": True, "runs": rows}
    file = folder / "evaluations.json"
    file.write_text(json.dumps({"evaluations": [entry]}))
    report(tmp_path / "r", "evaluation", marl_eval=tmp_path / "m.json")
    found = json.loads((tmp_path / "m.json").read_text())["matrix"]["xor/a"]["bc"]["seed_1"]
    assert found["absolute_metrics"]["return"] == [1.0, 2.0, 3.0]
    rows[0]["returns"] = [1.0, "2"]
    file.write_text(json.dumps({"evaluations": [entry]}))
    with pytest.raises(BrokenResult, match="field 'returns': expected numbers, found '2'"):
        report(tmp_path / "r", "evaluation")


def test_later_evaluations_pool_jobs_that_were_evaluated_in_training_in_other_ways(tmp_path: Path):
    for seed in (0, 1):
        folder = make(
            tmp_path / "r" / f"bc{seed}", "bc", A, [0.5], seeds=[seed], eval_episodes=4 + seed
        )
        row = {"run": 0, "seed": seed, "return_mean": 2.0, "returns": [1.0, 3.0]}
        entry = {"episodes": 2, "sampled": False, "finished": True, "runs": [row]}
        (folder / "evaluations.json").write_text(json.dumps({"evaluations": [entry]}))
    report(tmp_path / "r", "evaluation")
    assert "| bc |" in (tmp_path / "r" / "table-return_mean.md").read_text()
    report(tmp_path / "r")
    assert "bc (eval_episodes=4)" in (tmp_path / "r" / "table-return_mean.md").read_text()


def test_runs_without_a_finite_return_are_not_exported(tmp_path: Path):
    make(tmp_path / "r" / "bc", "bc", A, [1.0, 2.0])
    lost = make(tmp_path / "r" / "icq", "icq", B, [1.0])
    final = json.loads((lost / "final.json").read_text())
    final["runs"][0] |= {"return_mean": None, "length_mean": 3.0}
    (lost / "final.json").write_text(json.dumps(final))
    report(tmp_path / "r", marl_eval=tmp_path / "m.json")
    assert list(json.loads((tmp_path / "m.json").read_text())["matrix"]["xor/a"]) == ["bc"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"finals": [1.0, None]},
            "expected runs that did not fail: 2 as elsewhere in matrix, found 1",
        ),
        ({"method": "icq"}, "expected the methods bc as elsewhere in matrix, found icq"),
    ],
)
def test_what_marl_eval_cannot_read_is_refused_before_anything_is_written(
    tmp_path: Path, change: dict, message: str
):
    make(tmp_path / "r" / "a", "bc", A, [1.0, 2.0])
    given = {"method": "bc", "task": B, "finals": [1.0, 2.0]} | change
    make(tmp_path / "r" / "b", **given)
    with pytest.raises(InvalidSetting, match=message):
        report(tmp_path / "r", marl_eval=tmp_path / "m.json")
    assert not (tmp_path / "m.json").exists() and not (tmp_path / "r" / "index.html").exists()


def test_environment_and_task_have_small_letters():
    assert marl_eval.names_of("smax-x/MMM2/medium") == ("smax-x", "mmm2/medium")


# terminal


def test_the_printed_table_leaves_out_what_says_nothing(tmp_path: Path, monkeypatch):
    monkeypatch.setattr(console, "_width", 80)
    points = [{"alpha": x, "learning_rate": 0.0001 * x} for x in (0.5, 1.0, 2.0)]
    make(tmp_path / "r" / "a", "cql", A, [0.5, 1.5, None], points=points, seeds=[0, 0, 0])
    with console.capture() as printed:
        cli.main(["report", str(tmp_path / "r")])
    *lines, _ = printed.get().splitlines()  # the last one is the path of the page
    assert lines[0].strip() == A and lines[1].strip() == "Mean return"
    assert lines[3].split() == ["┃", "method", "┃", "mean", "return", "┃", "best", "┃"]
    assert "│ 1.500       │ best │" in lines[6] and max(map(len, lines)) <= 80
    assert "Best mean: cql (alpha=1, learning_rate=0.0001), not tested" in "\n".join(lines)


# histograms


def test_few_far_values_do_not_squeeze_a_histogram():
    near = np.linspace(0.0, 1.0, 998)
    edges, beyond = statistics.bin_edges([*near, 1000.0, -500.0], 10)
    assert beyond == 2 and -0.2 < edges[0] < 0.0 and 1.0 < edges[-1] < 1.2
    edges, beyond = statistics.bin_edges(near, 10)
    assert (edges[0], edges[-1], beyond) == (0.0, 1.0, 0)
    assert statistics.bin_edges([2.0, 2.0], 4)[0].tolist() == [1.5, 1.75, 2.0, 2.25, 2.5]


def test_a_cell_shows_the_papers_number_only_where_it_is_known():
    known, unknown = (tables.Cell((np.array([1.0, 2.0]),), "", text) for text in ("0.9", ""))
    assert render.cell_lines(known, 1) == ["1.5 ± 0.7", "paper 0.9"]
    assert render.cell_lines(unknown, 1) == ["1.5 ± 0.7"]
