"""YANHUI's experiments: jobs of every scale, what must hold, and a part at smoke scale."""

from __future__ import annotations

import numpy as np
import pytest
from jaxoff.experiments import checks as shared_checks
from jaxoff.experiments.paper import printed
from jaxoff.experiments.yanhui import checks, parts, runs

from jaxoff.training.spec import resolve


@pytest.mark.parametrize("scale", runs.SIZES)
def test_every_job_is_made_of_known_fields(scale, monkeypatch):
    monkeypatch.setattr(runs, "madt_updates", lambda task: 12_000)
    for label, column in (runs.COLUMNS | runs.ABLATIONS).items():
        made = runs.specs(["smax/3m/wspm-p50-n200"], {label: column}, scale)
        # at full scale every seed has its own data, and at least as many updates as MADT makes in
        # 100 epochs
        assert len(made) == (5 if scale == "full" else 1) and all(
            resolve(spec).config.steps == spec.steps for spec in made
        )
        assert [spec.data_seed for spec in made] == [spec.seeds[0] for spec in made]
        assert made[0].steps == {"smoke": 4, "cpu": 6000, "full": 12_000}[scale]


def test_updates_of_full_scale_are_those_of_100_epochs_and_at_least_ten_thousand(monkeypatch):
    monkeypatch.setattr(runs, "madt_updates", lambda task: 2200)
    assert runs.specs(["smax/3m/wspm-p0-n200"], runs.MADT, "full")[0].steps == 10_000
    # a fifth of the episodes are seen as often in a fifth of the updates
    assert runs.specs(["smax/3m/wspm-p0-n40"], runs.MADT, "cpu", 0.2)[0].steps == 1200
    monkeypatch.setattr(runs, "madt_updates", lambda task: 400)
    assert runs.specs(["smax/3m/wspm-p0-n40"], runs.MADT, "full", 0.2)[0].steps == 2000


def test_epochs_are_counted_in_batches_of_the_datas_steps():
    # 8 episodes of 3m have some 100 steps, fewer than a batch of 128; 40 have 550 or so, 4 batches
    assert runs.madt_updates("smax/3m/wspm-p50-n40") == 400


def test_paired_differences_and_areas():
    task, ours, theirs = "t", np.array([19.0, 18, 20, 19, 19]), np.array([12.0, 11, 12, 13, 12])
    # differences 7, 7, 8, 6, 7: mean 7, deviation .707, error .316, t(4) = 2.776
    np.testing.assert_allclose(
        shared_checks.difference(ours, theirs), [7.0, 0.3162, 7 - 0.878, 7 + 0.878], atol=1e-3
    )
    values = {
        (task, "YANHUI"): ours,
        (task, "MADT"): theirs,
        ("clean", "YANHUI"): ours + 1,
        ("clean", "MADT"): ours + 0.5,
    }
    assert (
        checks.above(values, task, "3m", "MADT").holds and checks.tie(values, "clean", "3m").holds
    )
    assert (
        not checks.tie(values, task, "3m").holds and checks.kept(values, "clean", task, "3m").holds
    )
    worse = {(task, "YANHUI"): theirs, (task, "MADT"): ours}
    assert not checks.above(worse, task, "3m", "MADT").holds
    curve = {
        ("0", "YANHUI"): np.array([20.0]),
        ("50", "YANHUI"): np.array([18.0]),
        ("90", "YANHUI"): np.array([10.0]),
    }
    # MADT starts where YANHUI does and falls twice as fast: 20, 16, 0
    curve |= {(place, "MADT"): 2 * found - 20 for (place, _), found in curve.items()} | {
        ("100", "YANHUI"): np.array([0.0])
    }
    places = {0: "0", 50: "50", 90: "90", 100: "100"}
    # (19 * 50 + 14 * 40) / 90 = 16.78
    assert checks.area(curve, places, "YANHUI") == pytest.approx(16.78, abs=0.01)
    assert [check.holds for check in checks.robust(curve, places, ["YANHUI", "MADT"])] == [
        True,
        True,
    ]
    other = {
        (place, "MADT" if name == "YANHUI" else "YANHUI"): found
        for (place, name), found in curve.items()
    }
    assert [check.holds for check in checks.robust(other, places, ["YANHUI", "MADT"])] == [
        False,
        False,
    ]


def test_without_contrast_ties_with_madt_within_two_pooled_errors_and_is_below_yanhui():
    # variance 2.5: the pooled error of 5 and 5 is sqrt(.5 + .5) = 1
    spread = np.array([-2.0, -1, 0, 1, 2])
    holds = lambda ours, ablated, madt: [
        check.holds
        for check in checks.without_contrast(
            {
                ("t", "YANHUI"): ours + spread,
                ("t", "no contrast"): ablated + spread,
                ("t", "MADT"): madt + spread,
            },
            "t",
            "3m",
        )
    ]
    assert holds(15.0, 10.0, 11.9) == holds(15.0, 10.0, 8.1) == [True, True]
    assert holds(15.0, 10.0, 12.1) == [False, True] and holds(10.0, 10.0, 11.0) == [True, False]


@pytest.mark.slow
def test_table_2_holds_the_ablation_against_madt(tmp_path, monkeypatch):
    # A game in the place of battles; two columns of the ablations are enough.
    monkeypatch.setattr(runs, "task_of", lambda name, percent, episodes: "matrix/xor/b")
    monkeypatch.setattr(runs, "madt_updates", lambda task: 700)
    monkeypatch.setattr(
        runs, "ABLATIONS", {name: runs.ABLATIONS[name] for name in ("YANHUI", "no contrast")}
    )
    (section,) = parts.PAPER.make("table2", "smoke", tmp_path)
    assert section.stems == ["table2", "table2-checks"]
    text = (tmp_path / "table2-checks.md").read_text()
    assert (
        "| A4, 3m, p = 50 %: no contrast and MADT tie | difference " in text
        and "| A4, 3m, p = 50 %: no contrast below YANHUI |" in text
    )


def test_the_papers_numbers_stand_in_rows_that_the_tables_have():
    for name, columns in (("table1", runs.PAPER_COLUMNS), ("table2", runs.ABLATIONS)):
        paper = printed("yanhui", name)
        assert {column for _, column in paper} == set(columns)
        rows = {f"{map_name}, p = {p} %" for map_name in runs.SCENARIOS for p in (0, 50)}
        assert {row for row, _ in paper} <= rows


@pytest.mark.parametrize("world", ["matrix", pytest.param("smax", marks=pytest.mark.slow)])
def test_figure_2_and_its_table_at_smoke_scale(tmp_path, monkeypatch, world):
    # A game in the place of battles, which take long to compile: (a) without, (b) with "poor data".
    games = {0: "matrix/xor/a", 50: "matrix/xor/b"}
    if world == "matrix":
        monkeypatch.setattr(runs, "task_of", lambda name, percent, episodes: games[percent])
        monkeypatch.setattr(runs, "madt_updates", lambda task: 700)
    monkeypatch.setattr(
        runs, "CURVE_COLUMNS", {name: column for name, column in runs.CLAIM.items() if name != "BC"}
    )
    (section,) = parts.PAPER.make("fig2", "smoke", tmp_path)
    wins = ["fig2-table-win-rate"] if world == "smax" else []
    assert (
        section.stems == ["fig2", "fig2-table", *wins, "fig2-checks"]
        and (tmp_path / "fig2.svg").exists()
    )
    text = (tmp_path / "fig2-table.md").read_text()
    assert "± standard error over seeds" in text and "| 3m, p = 50 % |" in text
    assert (
        world == "smax"
        or "(of MADT in 100 epochs of 128 windows): 3m, p = 0 %: 2 (700); 3m, p = 50 %: 2 (700)"
        in text
    )
    assert "A3: falls less than MADT" in (tmp_path / "fig2-checks.md").read_text()
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "runs").rglob("final.json")}
    parts.PAPER.make("fig2", "smoke", tmp_path)
    # nothing is trained twice
    assert len(before) == 4 and {path: path.stat().st_mtime_ns for path in before} == before
