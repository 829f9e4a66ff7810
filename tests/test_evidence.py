"""Verdicts: what follows from rows, that no row means no verdict, and that the committed pages are
those that the committed stores give.
"""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
from jaxoff.experiments import evidence, published
from jaxoff.experiments.evidence import (
    NOT,
    PAPERS,
    PARTLY,
    REPRODUCED,
    UNTESTED,
    Cells,
    Claim,
    Missing,
    claims_of,
    findings,
    measures,
    page,
)
from jaxoff.experiments.published.page import markdown as published_page
from jaxoff.experiments.sit import claims as sit_claims
from jaxoff.experiments.sit import measured as sit_measured

from jaxoff.errors import InvalidSetting
from jaxoff.report import store, store_file
from jaxoff.report.load import Run
from jaxoff.report.store_file import Row

DOCS = Path(__file__).parents[1] / "docs"
COUNTS = {"inspo": 9, "omar": 13, "sit": 14, "pjap": 10, "yanhui": 7}


def rows(label: str, values, task: str = "task", scale: str = "cpu", **more) -> list[Row]:
    """A row for each value."""
    return [
        Row(f"{task} {label} {scale}", "bc", label, task, seed, scale, return_mean=value, **more)
        for seed, value in enumerate(values)
    ]


def verdict(claim_parts, some) -> str:
    """The verdict on a claim with these parts."""
    (found,) = findings("inspo", [Claim(1, "", "", "", claim_parts)], some)
    return found.verdict


@pytest.mark.parametrize("paper", PAPERS)
def test_every_claim_is_there_and_without_rows_is_not_tested(paper):
    claims = claims_of(paper)
    assert [claim.number for claim in claims] == list(range(1, COUNTS[paper] + 1))
    found = findings(paper, claims, [])
    of_tables = {("omar", 1), ("omar", 2), ("sit", 14)}  # from committed tables of datasets
    for each in found:
        if (paper, each.claim.number) not in of_tables:
            assert each.verdict == UNTESTED and not each.rows
        assert all(part.found for part in each.parts)
        assert each.claim.says and each.claim.asks and each.claim.run


class Anything(Cells):
    """Cells with four seeds of drawn numbers for whatever is asked."""

    def __init__(self, seed: int) -> None:
        super().__init__([], "cpu")
        self.rng = np.random.default_rng(seed)

    def has(self, task, label):
        return True

    def rows(self, task, label, **settings):
        numbers = dict.fromkeys(("any",), 0.0)
        return [
            Row("key", "bc", label, task, k, "cpu", settings, steps=5, numbers=numbers)
            for k in range(4)
        ]

    def of(self, task, label, metric="return_mean", **settings):
        return self.rng.normal(5.0, 1.0, 4)

    def pair(self, task, one, other, metric="return_mean"):
        return self.of(task, one), self.of(task, other)


@pytest.mark.parametrize("paper", PAPERS)
def test_every_check_can_be_computed_and_depends_on_the_numbers(paper):
    """With any numbers each check gives a verdict, and drawn numbers change some of them."""
    by_seed = []
    for seed in range(4):
        holds = {}
        for claim in claims_of(paper):
            for name, check in claim.parts.items():
                try:
                    made = check(Anything(seed))
                except Missing:  # what results cannot test
                    continue
                for part in made if isinstance(made, list) else [made]:
                    assert part.holds in (True, False) and part.found
                    holds[claim.number, name, part.name] = part.holds
        by_seed.append(holds)
    assert len({tuple(holds.items()) for holds in by_seed}) > 1
    assert all(holds.keys() == by_seed[0].keys() for holds in by_seed)


def test_a_verdict_follows_from_the_parts():
    high = {"high": evidence.within("task", "A", 1.0)}
    assert verdict(high, []) == UNTESTED
    assert verdict(high, rows("A", [1, 2, 3])) == REPRODUCED
    assert verdict(high, rows("A", [0, 0, 1])) == NOT
    both = high | {"low": evidence.within("task", "A", high=1.0)}
    assert verdict(both, rows("A", [1, 2, 3])) == PARTLY
    lacking = high | {"other": evidence.within("task", "B", 1.0)}
    assert verdict(lacking, rows("A", [1, 2, 3])) == PARTLY
    assert verdict(lacking, rows("A", [0, 0, 0])) == NOT


def test_the_largest_scale_that_has_the_rows_is_taken_and_scales_are_not_mixed():
    check = evidence.above("task", "A", "B")
    cpu = rows("A", [1.0, 2.0]) + rows("B", [0.0, 1.0])
    full = rows("A", [0.0, 1.0], scale="full")
    assert verdict({"": check}, cpu + full) == REPRODUCED  # B has no rows at full scale
    assert verdict({"": check}, cpu + full + rows("B", [3.0, 4.0], scale="full")) == NOT
    (found,) = findings("inspo", [Claim(1, "", "", "", {"": check})], cpu)
    assert {row.scale for row in found.rows} == {"cpu"} and len(found.rows) == 4


def test_differences_by_hand():
    # differences 1, 2, 3: mean 2, error 1 / sqrt 3 = .577, t(2) = 4.303: 2 ± 2.48
    cells = Cells(rows("A", [1, 3, 5]) + rows("B", [0, 1, 2]), "cpu")
    part = evidence.above("task", "A", "B", errors=2.0)(cells)
    np.testing.assert_allclose(part.effect, (2, 2 - 2.4841, 2 + 2.4841), atol=1e-4)
    assert part.holds and not evidence.above("task", "A", "B", errors=4.0)(cells).holds
    np.testing.assert_allclose(
        evidence.interval(np.array([1.0, 2.0, 3.0])), (2, 2 - 2.4841, 2 + 2.4841), atol=1e-4
    )
    # |3 - 1| = 2; pooled error sqrt(4/3 + 1/3) = 1.291, twice that 2.582
    assert evidence.level("task", "A", "B")(cells).holds
    assert not evidence.level("task", "A", "B", errors=1.0)(cells).holds
    assert evidence.level("task", "A", "B", errors=1.0, least=2.0)(cells).holds


def test_pairs_are_of_common_seeds_and_points_of_a_grid_are_told_apart():
    swept = [
        row for lr in (0.1, 0.2) for row in rows("C", [lr, lr], settings={"lr": lr}, task=f"t{lr}")
    ]
    swept = [Row(**{**vars(row), "task": "task"}) for row in swept]
    cells = Cells(rows("A", [1, 2, 3]) + rows("B", [5, 6]) + swept, "cpu")
    assert [x.tolist() for x in cells.pair("task", "A", "B")] == [[1, 2], [5, 6]]
    assert cells.of("task", "C", lr=0.2).tolist() == [0.2, 0.2]
    with pytest.raises(Missing, match=r"no rows of C, lr 0\.3 on task"):
        cells.of("task", "C", lr=0.3)
    with pytest.raises(Missing, match="rows of C on task are of several settings"):
        cells.of("task", "C")
    with pytest.raises(Missing, match="have no win_rate"):
        cells.of("task", "A", "win_rate")


def test_the_committed_pages_are_what_the_stores_give():
    found = evidence.everything()
    text = "`make evidence` makes the pages anew"
    assert page.markdown(found) == (DOCS / "evidence.md").read_text(), text
    assert page.record(found) == (DOCS / "evidence.json").read_text(), text
    assert published_page(published.numbers()) == (DOCS / "published.md").read_text(), text


def test_the_page_has_every_claim_and_its_counts_are_those_of_the_verdicts():
    text = (DOCS / "evidence.md").read_text()
    told = json.loads((DOCS / "evidence.json").read_text())
    assert len(told["claims"]) == sum(COUNTS.values()) == 53
    for name, count in told["counts"].items():
        assert count == sum(claim["verdict"] == name for claim in told["claims"])
    assert len(re.findall(r"^### ", text, re.M)) == 53
    for anchor in re.findall(r"\]\(#([^)]*)\)", text):
        heads = [x.lower() for x in re.findall(r"^### (.*)$", text, re.M)]
        slugs = {re.sub(r"[^\w -]", "", head).replace(" ", "-") for head in heads}
        assert anchor in slugs


def test_measures_are_computed_once_and_a_new_version_replaces_the_old(tmp_path, monkeypatch):
    calls = []

    def compute():
        calls.append(1)
        return [measures.Measured("A", "task", seed, {"x": float(seed)}) for seed in range(2)]

    made = {"one": measures.Measure(compute), "slow": measures.Measure(compute, slow=True)}
    monkeypatch.setattr(measures, "measures_of", lambda paper: made)
    file = tmp_path / "runs.csv"
    monkeypatch.setattr(measures.runtime, "git_commit", lambda: "abc-dirty")
    with pytest.raises(InvalidSetting, match="expected a commit, found abc-dirty"):
        measures.update("inspo", file=file)
    monkeypatch.setattr(measures.runtime, "git_commit", lambda: "abc")
    assert measures.update("inspo", file=file) == ["one"]
    assert measures.update("inspo", file=file) == []
    assert [row.numbers["x"] for row in store_file.read(file)] == [0.0, 1.0]
    assert measures.update("inspo", ["slow"], file=file) == ["slow"]
    made["one"] = measures.Measure(lambda: compute()[:1], version=2)
    assert measures.update("inspo", file=file) == ["one"]
    assert sorted(row.source for row in store_file.read(file)) == [
        "measure one, version 2",
        *["measure slow, version 1"] * 2,
    ]
    assert store_file.read(file)[0].command == "make evidence"


def test_a_decomposition_gives_the_numbers_that_sits_claims_read():
    place = ("mpe/CN_3ls3l/imbalanced-low", sit_claims.DECOMPOSITION)
    (found,) = sit_measured.decompositions([place], "smoke", seeds=(3,))
    numbers = found.numbers
    assert (found.label, found.task, found.seed) == (place[1], place[0], 3)
    assert {"r2 held out", "own reward 0", "own reward 2"} <= numbers.keys()
    assert 0 <= numbers["priority 1 above 0"] <= 1 - numbers["priority 0 above 1"]
    assert numbers["share of the highest level over the data's"] >= 0


def test_means_over_the_last_tenth_of_a_logged_distance_are_kept():
    distance = np.arange(20.0)[:, None] + [0.0, 100.0]
    arrays = {"history/loss/distance": distance, "returns": np.zeros((2, 0))}
    runs = [{"run": k, "seed": k, "return_mean": 0.0} for k in range(2)]
    config = {"method": "maddpg", "task": "mpe/spread/expert", "config": {"steps": 20}}
    config |= {"git_commit": "abc", "hardware": "", "command": ""}
    run = Run(Path("folder"), config, [], runs, {}, arrays, "MADDPG+CQL")
    late = [row.numbers["loss/distance, last tenth"] for row in store.rows_of(run)]
    assert late == [18.5, 118.5]  # of the last two of twenty
