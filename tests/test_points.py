"""The page of `make benchmark`: jobs that are made smaller, and sections of all papers."""

from __future__ import annotations

import sys

from jaxoff.experiments import points, suite
from jaxoff.experiments.inspo import runs as inspo
from jaxoff.experiments.omar import runs as omar

from jaxoff.report.html import Section
from jaxoff.training.spec import resolve


def test_jobs_are_smaller_at_scale_cpu_alone_and_otherwise_the_papers():
    whole = inspo.specs(points.GAMES, inspo.PAPER_COLUMNS, "cpu")
    made = points.shorter(whole, "cpu", 1500, 2, batch_size=100)
    assert len(made) == len(points.GAMES) * len(inspo.PAPER_COLUMNS)
    for spec, full in zip(made, whole, strict=True):
        few, many = resolve(spec).config, resolve(full).config
        assert few.steps == min(1500, many.steps) and few.hidden == many.hidden
        assert few.batch_size == min(100, many.batch_size)  # batches of 16 episodes stay
        assert spec.seeds == (0, 1) and spec.evaluations == 5
        assert (spec.task, spec.label, spec.sampled) == (full.task, full.label, full.sampled)
    smoke = inspo.specs(points.GAMES, inspo.PAPER_COLUMNS, "smoke")
    assert points.shorter(smoke, "smoke", 1, 1) == smoke


def test_updates_that_a_paper_leaves_to_the_method_are_fewer_too():
    for spec in points.shorter(omar.specs(points.SPREAD, omar.PAIR, "cpu"), "cpu", 700):
        assert resolve(spec).config.steps == 700


def test_the_page_has_the_sections_of_every_paper(tmp_path, monkeypatch, capsys):
    assert set(points.POINTS) == {"inspo", "pjap", "omar", "sit", "yanhui"}

    def point(job):
        (job.out / "numbers.md").parent.mkdir(parents=True, exist_ok=True)
        (job.out / "numbers.md").write_text(f"# {job.paper} at {job.scale}\n")
        return Section(f"point of {job.paper}", "", ["numbers"])

    monkeypatch.setattr(points, "POINTS", dict.fromkeys(points.POINTS, (point,)))
    given = ["suite", "--scale", "smoke", "--out", str(tmp_path)]
    monkeypatch.setattr(sys, "argv", given)
    suite.main()
    page = (tmp_path / "index.html").read_text()
    assert "5 sections" in capsys.readouterr().out
    assert all(f"point of {name}" in page for name in points.POINTS)
