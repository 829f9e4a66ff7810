"""Who in the team was good: a verdict on a dataset whose rewards are known, as a table, pictures
and the command.
"""

from __future__ import annotations

import csv

import numpy as np
import pytest

from jaxoff.data import disk
from jaxoff.data.episodes import concatenate
from jaxoff.envs.smax import smax_spec
from jaxoff.learners import credit
from jaxoff.report import credit as report
from tests.reference.credit_toy import credit_episodes, credit_spec

SETTINGS = credit.Settings(steps=400, lr=5e-3, batch_size=128, members=2, hidden=16, held_out=0.25)


@pytest.fixture(scope="module")
def found():
    """A verdict on 200 episodes of three agents, of which the last does best."""
    told = []
    verdict = credit.judge(
        credit_episodes(200)[0],
        credit_spec(),
        SETTINGS,
        progress=lambda done, total, metrics: told.append((done, total, metrics["r2"])),
    )
    assert [place[:2] for place in told] == [(k + 1, 40) for k in range(40)] and told[-1][2] > told[
        0
    ][2]
    return verdict


def test_the_best_agent_is_told_with_its_uncertainty(found):
    rows = credit.by_agent(found)
    assert [row.rank for row in rows] == [3, 2, 1] and [row.agreement for row in rows] == [1, 1, 1]
    assert (
        all(0 < row.reward_std < 0.3 for row in rows)
        and (found.uncertainty > 0).all()
        and found.r2_held_out > 0.9
    )
    # Shares of the draws: at most a ninth of the worst agent's, a third of the data; all add up to
    # 1.
    assert rows[0].drawn <= 1 / 9 and sum(row.drawn for row in rows) == pytest.approx(1, rel=1e-4)
    assert [row.data for row in rows] == [pytest.approx(1 / 3)] * 3


def test_draws_fall_on_few_trajectories(found):
    # One trajectory with everything: 1; all of one type alike: their number.
    ((kind, few, count),) = credit.effective_draws(found)
    assert (kind, count) == (0, 600) and 1 <= few < 300
    even = found._replace(
        probability=np.full((200, 3), [1 / 400, 1 / 400, 1 / 200]), types=(4, 4, 7)
    )
    assert credit.effective_draws(even) == [
        (4, pytest.approx(400), 400),
        (7, pytest.approx(200), 200),
    ]


def test_held_out_episodes_are_a_quarter_and_copies_stay_together(found):
    assert found.held_out.sum() == 50
    base = credit_episodes(8)[0]
    held = credit._held_out(concatenate([base, base]), 0.25, 0)
    np.testing.assert_array_equal(held[:8], held[8:])
    assert held.sum() == 4
    assert not credit._held_out(base, 0.0, 0).any()


def test_levels_are_compared_with_what_is_drawn(found):
    rows = credit.by_level(found, credit_episodes(200)[0].behaviour_level)
    assert [(row["type"], row["level"], row["data"]) for row in rows] == [
        (0, k, pytest.approx(1 / 3)) for k in range(3)
    ]
    assert rows[0]["own_reward"] < rows[1]["own_reward"] < rows[2]["own_reward"]
    assert sum(row["drawn"] for row in rows) == pytest.approx(1, rel=1e-4)
    assert credit.by_level(found, np.full((200, 3), -1)) == []


def test_trajectories_are_written_line_by_line(found, tmp_path):
    episodes, _ = credit_episodes(200)
    path = report.write_trajectories(found, episodes, tmp_path / "x.csv")
    rows = list(csv.DictReader(path.open()))
    assert len(rows) == 600 and (rows[4]["episode"], rows[4]["agent"], rows[4]["level"]) == (
        "1",
        "1",
        "1",
    )
    assert float(rows[4]["own_return"]) == pytest.approx(found.reward[1, :, 1].sum(), rel=1e-4)
    assert float(rows[4]["team_return"]) == pytest.approx(episodes.reward[1].sum(), rel=1e-4)
    total = sum(float(row["own_return"]) for row in rows[:3])
    assert total == pytest.approx(float(rows[0]["team_return"]), abs=1.5)
    names = [path.name for path in report.draw(found, tmp_path / "y", title="toy")]
    assert names == ["y.png", "y.svg"]
    assert "priority of a trajectory" in (tmp_path / "y.svg").read_text()
    assert report.names_of((0, 1)) == ["agent 0, type 0", "agent 1, type 1"]
    units = smax_spec("smax", "2s3z")
    assert report.names_of((2, 3), units) == ["agent 0, stalker", "agent 1, zealot"]
    assert report.kind_of(7, smax_spec("smax-x", "2s_vs_1sc")) == "spine crawler"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"steps": 0}, "field 'steps': expected at least 1, found 0"),
        ({"held_out": 1.0}, r"field 'held_out': expected a share in \[0, 1\)"),
    ],
)
def test_settings_out_of_range_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        credit.judge(credit_episodes(2)[0], credit_spec(), credit.Settings(**change))


def test_the_command_reads_a_dataset_folder(tmp_path, capsys):
    from jaxoff.cli.look import data_credit

    disk.save(
        tmp_path / "data",
        credit_episodes(20)[0],
        credit_spec(),
        {"env": "credit", "scenario": "credit", "recipe": "", "seed": 0},
    )
    data_credit(str(tmp_path / "data"), steps=2, members=2, out=tmp_path / "out")
    text = capsys.readouterr().out
    assert (
        "Rank: among agents" in text and "behaviour level 2" in text and "held-out episodes" in text
    )
    assert {path.suffix for path in (tmp_path / "out").iterdir()} == {".csv", ".png", ".svg"}
