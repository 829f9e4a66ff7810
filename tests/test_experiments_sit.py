"""SIT's experiments at smoke scale: what they write; that every job of every scale is made of known
fields.
"""

from __future__ import annotations

import jax
import numpy as np
import pytest
from jaxoff.experiments.paper import Column, kind_of, printed
from jaxoff.experiments.sit import parts, runs

from jaxoff import registry
from jaxoff.training.spec import resolve
from tests.reference.credit_toy import credit_episodes


@pytest.mark.parametrize("scale", runs.SCALES)
def test_every_job_is_made_of_known_fields(scale):
    for kind, maps in runs.MAPS.items():
        columns = runs.columns_of(maps[0]) | runs.ABLATIONS | runs.PRIORITY | runs.MNC
        task = f"{maps[0]}/imbalanced-low"
        for label, column in columns.items():
            config = resolve(*runs.specs([task], {label: column}, scale)).config
            assert config.window == -1 and config.steps >= 4, (kind, label)
            without = (
                label == "SIT"
                or column.method == "sit"
                or (kind == "mamujoco" and label in ("MABCQ", "MACQL"))
            )
            assert hasattr(config, "recurrent") != without and getattr(config, "recurrent", True), (
                kind,
                label,
            )
    column = Column("sit", grid={"alpha": runs.SWEEPS["alpha"]})
    sweep = resolve(*runs.specs(["mpe/CN_3ls3l/imbalanced-low"], {"x": column}, scale))
    assert sweep.num_runs == 4 * runs.SIZES["mpe"][scale].seeds


def test_robots_have_every_column_of_the_paper_and_each_makes_a_learner():
    scenario = runs.MAPS["mamujoco"][0]
    task = f"{scenario}/imbalanced-low"
    columns, known = runs.columns_of(scenario), printed("sit", "table1")
    assert ["Behaviour", *columns] == [
        column for row, column in known if row == f"{runs.label(scenario)} low"
    ]
    for scale in runs.SCALES:
        for label, column in columns.items():
            job = resolve(*runs.specs([task], {label: column}, scale))
            stages = job.stages(jax.tree.map(lambda x: x[0], job.config), registry.make_spec(task))
            assert stages[-1].steps == job.config.steps, (scale, label)
    # the rate of Table 11, in batches of all agents
    config = resolve(*runs.specs([task], {"MACQL": columns["MACQL"]}, "full")).config
    assert (float(config.lr[0]), float(config.cql[0]), config.batch_size, config.own_batches) == (
        pytest.approx(5e-4),
        2.0,
        32,
        False,
    )


def test_full_scale_is_tables_10_and_11():
    config = resolve(
        *runs.specs(["mpe/CN_3ls3l/imbalanced-low"], {"SIT": runs.COLUMNS["SIT"]}, "full")
    ).config
    assert (config.steps, config.decomposition_steps, config.batch_size, config.members) == (
        15000,
        20000,
        32,
        5,
    )
    assert (
        config.hidden,
        config.critic_hidden,
        config.decomposition_hidden,
        config.target_every,
    ) == (64, 32, 64, 100)
    leaves = [
        float(getattr(config, name).ravel()[0])
        for name in ("lr", "critic_lr", "decomposition_lr", "alpha", "beta", "eta")
    ]
    assert leaves == pytest.approx([5e-4, 1e-4, 1e-4, 0.2, 0.1, 1.0])


def test_the_papers_table_is_whole():
    known = printed("sit", "table1")
    assert len(known) == 22 * 7
    rows = {
        f"{runs.label(name)} {quality}"
        for maps in runs.MAPS.values()
        for name in maps
        for quality in runs.QUALITIES
    }
    assert {row for row, _ in known} == rows
    assert (
        known["CN_3ls3l low", "BC"] == "-161.1 ± 4.2"
        and known["2s3z medium", "SIT"] == "14.8 ± 0.3"
    )


def test_an_exchange_keeps_every_step_and_its_reward():
    episodes, _ = credit_episodes(40)
    mixed = runs.exchanged(episodes, (0, 0, 1))
    for name in ("reward", "state", "filled"):
        np.testing.assert_array_equal(getattr(mixed, name), getattr(episodes, name))
    # alone in its type
    np.testing.assert_array_equal(mixed.actions[..., 2], episodes.actions[..., 2])
    swapped = (mixed.obs[..., 0, :] == episodes.obs[..., 1, :]).all(-1) & episodes.filled[
        :, 0, None
    ]
    kept = (mixed.obs[..., 0, :] == episodes.obs[..., 0, :]).all(-1)
    assert (swapped | kept).all() and 0.3 < swapped[:, :4].mean() < 0.7
    np.testing.assert_array_equal(
        mixed.actions[..., 0],
        np.where(swapped[:, :-1], episodes.actions[..., 1], episodes.actions[..., 0]),
    )


def test_figure_3_tells_agents_and_levels(tmp_path):
    (section,) = parts.PAPER.make("fig3", "smoke", tmp_path)
    assert section.stems == ["fig3", "fig3-CN_3ls3l-medium", "fig3-CN_3ls3l-low"]
    text = (tmp_path / "fig3.md").read_text()
    assert (
        text.count("| CN_3ls3l medium | ") == 3 + 3
        and "| CN_3ls3l low | type 0 | 1 | 16.7% |" in text
        and "held-out" in text
    )
    assert (tmp_path / "fig3-CN_3ls3l-low.png").exists()


@pytest.mark.slow
def test_table_1_has_the_datas_return_and_the_papers_numbers(tmp_path, monkeypatch):
    # one is enough to see the table
    monkeypatch.setattr(runs, "COLUMNS", {"BC": runs.COLUMNS["BC"]})
    monkeypatch.setattr(runs, "QUALITIES", ("low",))
    (section,) = parts.PAPER.make("table1", "smoke", tmp_path)
    text = (tmp_path / "table1.md").read_text()
    assert (
        "| task | Behaviour | BC |" in text
        and "paper -161.1 ± 4.2" in text
        and "paper -157.7" in text
    )
    assert section.stems == ["table1"]
    monkeypatch.setattr(
        runs,
        "SCALES",
        {
            "smoke": runs.dataclasses.replace(
                runs.SCALES["smoke"], maps={"smax": ("smax-x/1c3s5z",)}
            )
        },
    )
    assert runs.tasks_of("smax", "low", "smoke") == ({}, ["smax-x/1c3s5z"])


@pytest.mark.slow
def test_the_claim_compares_settings_of_the_paper_and_tuned_ones(tmp_path, monkeypatch):
    few = {name: runs.CLAIM[name] for name in ("BC", "ICQ", "SIT")}
    monkeypatch.setattr(runs, "CLAIM", few)
    monkeypatch.setattr(runs, "TUNED", {f"{name}, tuned": few[name] for name in ("ICQ", "SIT")})
    at = runs.dataclasses.replace(
        runs.SCALES["smoke"], claimed={"mpe/CN_3ls3l/imbalanced-low": "CN_3ls3l low"}
    )
    monkeypatch.setattr(runs, "SCALES", {"smoke": at})
    (section,) = parts.PAPER.make("claim", "smoke", tmp_path)
    text = (tmp_path / "claim-checks.md").read_text()
    assert section.stems == ["claim", "claim-checks", "claim-curves"]
    # no battle at this scale
    assert parts.PAPER.make("claim-smax", "smoke", tmp_path)[0].stems == []
    assert (
        text.count("| CN_3ls3l low: ") == 4
        and "| CN_3ls3l low: ICQ, tuned above BC | difference" in text
    )


def test_the_search_has_seeds_of_its_own_and_holds_what_was_chosen():
    sizes = {
        "mpe": {"ICQ, values": 12, "ICQ, advantages": 12, "SIT": 27},
        "smax": {"ICQ, advantages": 9, "SIT, advantages": 12},
    }
    for task in runs.SCALES["cpu"].claimed:
        kind = kind_of(task)
        points = {
            name: resolve(*runs.specs([task], {name: column}, "cpu")).num_runs
            for name, column in runs.SEARCH[kind].items()
        }
        assert points == sizes[kind]
    for chosen in runs.TUNED.values():
        assert any(_holds(column, chosen) for column in runs.SEARCH["mpe"].values())
    assert not set(runs.SEARCH_SEEDS) & set(range(runs.SIZES["mpe"]["full"].seeds))


def _holds(searched, chosen):
    """Whether a setting is a point of a search."""
    rest = {name: value for name, value in chosen.config.items() if name not in searched.grid}
    inside = all(chosen.config.get(name) in values for name, values in searched.grid.items())
    return searched.method == chosen.method and rest == searched.config and inside
