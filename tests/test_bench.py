"""Benchmarks at sizes that show only that they run, and that they count what they say."""

from __future__ import annotations

import pytest
from jaxoff.experiments.bench import blocks as bench_blocks
from jaxoff.experiments.bench import speed, tokens
from jaxoff.experiments.paper import Column
from jaxoff.experiments.yanhui import runs

from jaxoff import blocks
from jaxoff.training import TrainSpec

GAME = "matrix/xor/b"  # 2 agents, one step


def test_a_row_of_speeds_is_measured_with_one_run_and_with_two():
    rows = [
        speed.measure(
            "bc", speed.Case("bc", GAME, {"hidden": 8, "batch_size": 4}, 2), "vmap", count
        )
        for count in (1, 2)
    ]
    assert [row.runs for row in rows] == [1, 2] and all(
        row.updates_per_s > 0 and row.cpu_ms > 0 and row.limit_gflops > 0 for row in rows
    )


@pytest.mark.parametrize(
    ("method", "task", "config", "update", "step"),
    [
        # windows x agents x context x tokens of a step; a joint step: agents x context x tokens
        ("madt", GAME, {"batch_size": 4}, 4 * 2, 2),
        (
            "madt",
            "grid/bridge/optimal",
            {"batch_size": 3, "window": 5, "mode": "rtg_state_action"},
            3 * 2 * 5 * 3,
            2 * 5 * 3,
        ),
        # of YANHUI's batch only the anchors are read
        ("yanhui", GAME, {"batch_size": 6, "anchors": 3, "support": 8, "window": 0}, 3 * 2, 2),
    ],
)
def test_tokens_are_the_positions_that_the_transformer_reads(method, task, config, update, step):
    spec = TrainSpec(method, task, config=config | {"hidden": 8, "layers": 1})
    assert tokens.tokens_of(speed.prepare(spec, "sequence", 1)) == (update, step)


@pytest.mark.slow
def test_the_page_of_tokens_per_second_at_smoke_scale(tmp_path, monkeypatch):
    # a game in the place of battles, which take long to compile
    monkeypatch.setattr(tokens, "COLUMNS", {"MADT": Column("madt")})
    monkeypatch.setattr(runs, "madt_updates", lambda task: 4)
    monkeypatch.setattr(speed, "REPEATS", 1)
    ways = speed.ways()
    monkeypatch.setattr(speed, "ways", lambda: {"vmap": ways["vmap"]})
    text = tokens.run(tmp_path, (1, 2), GAME, "smoke", 2).read_text()
    assert "A token is one position of the transformer's input sequence." in text
    assert (
        "| learner | tokens of one update | way | 1 run | 2 runs | updates/s, most runs | "
        "compile s |" in text
    )
    lines = [line for line in text.splitlines() if line.startswith("| MADT |")]
    assert len(lines) == 2
    # smoke: 4 windows of one step; 2 agents
    assert [line.split(" | ")[1] for line in lines] == ["8", "2"]


def test_the_settings_measured_are_those_of_the_experiment():
    made = {
        name: runs.specs([tokens.TASK], {name: column}, "cpu")[0]
        for name, column in tokens.COLUMNS.items()
    }
    assert {name: spec.method for name, spec in made.items()} == {
        "MADT": "madt",
        "MADT-C20": "madt",
        "YANHUI": "yanhui",
    }
    assert (
        made["YANHUI"].config["anchors"] == 32
        and made["MADT-C20"].config["window"] == 20
        and not made["MADT"].sampled
    )


@pytest.mark.slow
def test_updates_in_blocks_in_double_precision_are_those_in_one_piece(monkeypatch):
    monkeypatch.setattr(bench_blocks, "CASES", {"qmix": ("qmix", GAME)})
    monkeypatch.setattr(bench_blocks, "UPDATES", 3)
    monkeypatch.setattr(blocks, "BLOCK_BYTES", 200)
    # in single precision 1e-8 would be an accident
    assert 0 < bench_blocks.in_double("qmix") < 1e-10
