"""Figure 6 of Tilbury et al. (2024): its jobs, its aggregates by hand, a smoke run, and what it
says of data that are not there.
"""

from __future__ import annotations

import re

import numpy as np
import pytest
from jaxoff.experiments.paper import Job
from jaxoff.experiments.pjap import parts, sequences

from jaxoff.eval import statistics
from jaxoff.training.spec import resolve
from jaxoff.types import ReturnScale

SOURCES = {source.name: source for source in sequences.SOURCES}


@pytest.mark.parametrize("scale", ["smoke", "cpu", "full"])
@pytest.mark.parametrize("name", SOURCES)
def test_every_job_has_windows_recurrent_policies_and_the_paper_codes_pjap(name, scale):
    for label in sequences.VARIANTS:
        job = resolve(sequences.cell(SOURCES[name], label, scale, None))
        assert (job.config.actor, job.config.window, job.config.optimiser) == (
            "recurrent",
            20,
            "rmsprop",
        ) and job.config.num_samples
        if label != "MADDPG+CQL":
            sampler = job.sampler_config
            later = "later" in label
            # The submitted code refreshes the training batch, the later code 1,024 other windows.
            assert sampler.refresh == (1024 if later else 128 if scale == "cpu" else 0)
            assert sampler.refresh_from == ("uniform" if "uniform" in label else "priorities")
            assert float(sampler.eps) == pytest.approx(1e-4 if later else 1e-3)
            assert sampler.clip_actions and float(sampler.exponent) == pytest.approx(0.99)
            ramp = 0 if later or "no ramp" in label else pytest.approx(0.3 * job.config.steps)
            assert float(sampler.ramp) == ramp


@pytest.mark.parametrize("name", SOURCES)
def test_critics_have_the_width_of_the_submitted_code_at_full_scale(name):
    for label in sequences.VARIANTS:
        job = resolve(sequences.cell(SOURCES[name], label, "full", None))
        assert (job.config.hidden, job.config.actor_hidden) == ((256, 256), 64)


def test_aggregates_of_ten_seeds_by_hand():
    # scores 0 ... 9: IQM drops 2 at each end, the mean of 2 ... 7 is 4.5; the median over one task
    # is its mean.
    values = np.arange(10.0) ** 2
    found = {name: float(statistic([values])) for name, statistic in sequences.AGGREGATES.items()}
    assert found == {
        "median over tasks": 28.5,
        "median over seeds": 20.5,
        "IQM": pytest.approx(139 / 6),
        "mean": 28.5,
    }


def test_a_table_shows_scores_returns_distances_and_differences(monkeypatch):
    labels = list(sequences.VARIANTS)[:3]
    monkeypatch.setattr(sequences, "VARIANTS", {x: sequences.VARIANTS[x] for x in labels})
    returns = {x: np.full(4, y) for x, y in zip(labels, (4566.12355, 9132.2471, 0.0), strict=True)}
    distances = (np.full(4, 0.2), np.array([0.1, 0.1, 0.1, 0.3]), np.full(4, 0.2))
    late = dict(zip(labels, distances, strict=True))
    text = "\n".join(sequences.table(SOURCES["Good"], returns, late, sequences.PAPER_SCALE))
    assert "| score, IQM | 0.5 [0.5, 0.5] (paper 0.80) | 1 [1, 1] (paper 0.97) | 0 [0, 0] |" in text
    assert (
        "| return, mean | 4.57e+03" in text
        and "| score minus baseline |  | 0.5 [0.5, 0.5] | -0.5 [-0.5, -0.5] |" in text
    )
    assert "| seeds with a smaller distance |  | 3 of 4 | 0 of 4 |" in text
    assert "Score: 0 at return 0, 1 at 9132.25 (0; largest return in Good)." in text
    assert statistics.normalised(4566.12355, ReturnScale(0.0, 9132.2471, "")) == pytest.approx(50)


def test_what_is_missing_is_named(tmp_path, monkeypatch):
    lacking = sequences.Source("six legs", ("mamujoco/halfcheetah-6x1/expert",))
    monkeypatch.setattr(sequences, "SOURCES", (*sequences.SOURCES, lacking))
    for source, wanted in (
        (SOURCES["Good"], "field 'data_dir': expected"),
        (
            lacking,
            "expected a pool of policies, found none .* train one with: jaxoff data pool "
            "mamujoco/halfcheetah-6x1",
        ),
    ):
        found = sequences.run_source(source, Job("pjap", "smoke", tmp_path))
        assert isinstance(found, str)
        assert re.search(wanted, found), found


@pytest.mark.slow
def test_the_smoke_scale_writes_a_table_and_curves_and_trains_once(tmp_path, monkeypatch):
    monkeypatch.setattr(sequences, "SOURCES", (SOURCES["Good"], SOURCES["spread expert"]))
    (section,) = parts.PAPER.make("fig6", "smoke", tmp_path)
    assert list(section.stems) == ["fig6", "fig6-curves"]
    text = (tmp_path / "fig6.md").read_text()
    assert (
        "## spread expert" in text
        and "Not part of the scale smoke: Good." in text
        and "Seeds: 0, 1" in text
    )
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "runs").rglob("final.json")}
    assert len(before) == len(sequences.VARIANTS)
    assert all(f"| {label} |" in text for label in sequences.VARIANTS)
    parts.PAPER.make("fig6", "smoke", tmp_path)
    assert {path: path.stat().st_mtime_ns for path in before} == before
