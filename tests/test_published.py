"""Published numbers: the files, the audit, and the table of a report."""

from __future__ import annotations

import shutil

import pytest
from jaxoff.experiments import published

from jaxoff.cli import main
from jaxoff.errors import BrokenResult, InvalidSetting
from jaxoff.report import published as report_published
from jaxoff.report import store, store_file
from jaxoff.report.store_file import Row


def test_published_files_have_the_tables_that_are_named():
    found = published.numbers()
    of = lambda source: [each for each in found if each.source == source]
    assert len(of("OG-MARL")) == 84 and len({each.dataset for each in of("OG-MARL")}) == 84
    place = {(x.dataset, x.method): x for x in of("OMAR")}
    spread = place["omar:mpe/simple_spread/Expert", "OMAR"]
    assert (spread.number, spread.deviation, spread.kind) == (114.9, 2.6, "normalised")
    assert place["omar:mamujoco/2halfcheetah/Medium", "MA-CQL"].number == 50.4
    comadice = {(x.dataset, x.method): x for x in of("ComaDICE") if x.kind == "raw"}
    assert comadice["omiga:smac_v1/corridor/Good", "ComaDICE"].number == 17.98
    assert {x.dataset.rpartition("/")[0] for x in of("MADiff")} >= {
        "omar:mpe/simple_spread",
        "og_marl:mamujoco/2ant",
        "og_marl:smac_v1/5m_vs_6m",
    }


def number(source, method, value, dataset="d", kind="raw", table="t"):
    """A published number."""
    return report_published.Number(source, table, dataset, method, value, None, kind, "")


def test_the_audit_finds_renamed_columns_mixed_kinds_and_differing_numbers():
    same = [
        number(source, method, float(k), f"d{k}")
        for source, method in (("one", "MA-CQL"), ("two", "OMAR"))
        for k in range(3)
    ]
    kinds = [x.kind for x in published.audit(same)]
    assert kinds == ["the same column under two names"]
    both = [number("one", "BC", 35.0, kind="normalised"), number("one", "Ours", 586.0)]
    assert [x.kind for x in published.audit(both)] == ["two kinds of numbers in one table"]
    apart = [number("one", "MA-CQL", 98.2), number("two", "CQL", 119.3)]
    (found,) = published.audit(apart)
    assert found.kind == "sources differ, raw" and found.where == "CQL on d"
    assert published.audit([number("one", "BC", 10.0), number("two", "BC", 10.05)]) == []
    later = [number("one", "BC", 10.0, table="a"), number("one", "BC", 11.0, table="b")]
    assert [x.kind for x in published.audit(later)] == ["a source has changed, raw"]


def test_the_audit_of_the_files_finds_what_is_known():
    found = published.audit(published.numbers())
    texts = [f"{each.kind} {each.where} {each.text}" for each in found]
    assert any("two kinds" in text and "CoFlow, mpe" in text for text in texts)
    assert any("MADT of CoFlow (smac" in text and "MADiff-D" in text for text in texts)
    assert any("CQL on omar:mpe/simple_world/Expert" in x and "119.8" in x for x in texts)


# ----------------------------------------------------------------------------------- a report


@pytest.fixture
def results(tmp_path):
    """Results of OMAR and BC on our data of spread, and on a public battle."""
    rows = [
        Row(f"{task} {label}", method, label, task, seed, "cpu", return_mean=value, score=score)
        for task, label, method, value, score in (
            ("mpe/spread/expert", "OMAR", "omar", 500.0, 95.0),
            ("mpe/spread/expert", "MA-TD3+BC", "td3bc", 400.0, 70.0),
            ("omiga:smac_v1/corridor/Good", "BC", "bc", 10.0, None),
            ("matrix/xor/b", "BC", "bc", 0.0, 50.0),
        )
        for seed in range(2)
    ]
    store_file.write(tmp_path / "runs.csv", rows)
    return store.load(tmp_path / "runs.csv")


def test_published_numbers_stand_beside_ours_of_the_same_kind(tmp_path, results):
    assert report_published.write(published.numbers(), results, tmp_path / "published")
    lines = (tmp_path / "published.md").read_text().splitlines()
    find = lambda *texts: [line for line in lines if all(text in line for text in texts)]
    (omar,) = find("mpe/spread/expert", "| OMAR |", "slides")
    assert "| 114.9 ± 2.6 | normalised | OMAR 95 |" in omar
    (td3bc,) = find("mpe/spread/expert", "| MA-TD3+BC |", "slides")
    assert "MA-TD3+BC 70" in td3bc
    (ours,) = find("corridor/Good", "| BC |", "cell 15")
    assert "| 10.81 ± 2.61 | raw | BC 10 |" in ours
    (data,) = find("corridor/Good", "| data |", "cards")
    assert "19.882" in data and not find("matrix/xor/b")
    assert not report_published.write(published.numbers(), results[:0], tmp_path / "none")
    assert not (tmp_path / "none.md").exists()


def test_a_report_shows_published_numbers_and_refuses_an_empty_folder(tmp_path, capsys):
    out = tmp_path / "results"
    main(["train", "bc", "matrix/xor/b", "--steps", "4", "--set", "hidden=4", "--out", str(out)])
    numbers = tmp_path / "numbers"
    numbers.mkdir()
    command = ["report", str(out), "--published", str(numbers)]
    with pytest.raises(SystemExit):
        main(command)
    assert "expected a folder of CSV files, found none" in capsys.readouterr().err
    head = ",".join(report_published.Number._fields)
    (numbers / "some.csv").write_text(f"{head}\nUs,Table 1,matrix/xor/b,BC,0.25,0.1,raw,\n")
    main(command)
    assert "| matrix/xor/b | BC | 0.25 ± 0.1 | raw | bc " in (out / "published.md").read_text()
    assert "Published numbers" in (out / "index.html").read_text()
    shutil.rmtree(numbers)
    with pytest.raises(InvalidSetting):
        report_published.read_folder(numbers)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("Us,T,d,BC,1,,cooked,", "line 2: field 'kind': expected raw, normalised, win rate, found"),
        ("Us,T,d,,1,,raw,", "line 2: field 'method': expected a text, found none"),
        ("Us,T,d,BC,many,,raw,", "line 2: expected a number"),
        ("Us,T,d,BC,nan,,raw,", "field 'number': expected a finite number"),
    ],
)
def test_a_wrong_line_is_refused_by_name(tmp_path, line, message):
    file = tmp_path / "some.csv"
    file.write_text(",".join(report_published.Number._fields) + f"\n{line}\n")
    with pytest.raises(BrokenResult, match=message):
        report_published.read(file)
