"""The plan for described GPUs: what is counted of a program, floors, and the page."""

from __future__ import annotations

import csv
import dataclasses
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest
from jax import lax
from jaxoff.experiments.bench import hlo, plan, plan_page
from jaxoff.experiments.bench.chip import CHIPS, Chip
from jaxoff.experiments.bench.plan_rows import Row, read, write

from jaxoff import blocks, registry
from jaxoff.names import UnknownName

# A loop over updates whose number is an argument; each gathers 3 of 1,000 rows and multiplies.
TEXT = """HloModule jit_f, is_scheduled=true

%taken (rows: f32[1000,4], index: s32[3,1]) -> f32[3,4] {
  %rows = f32[1000,4]{1,0} parameter(0)
  %index = s32[3,1]{1,0} parameter(1)
  %wide = f32[500,4]{1,0} slice(%rows), slice={[0:500], [0:4]}
  %gather.1 = f32[3,4]{1,0} gather(%wide, %index), offset_dims={1}, slice_sizes={1,4}
  ROOT %twice = f32[3,4]{1,0} add(%gather.1, %gather.1)
}

%written (all: f32[7,3], new: f32[1,3], at: s32[]) -> f32[7,3] {
  %all = f32[7,3]{1,0} parameter(0)
  %new = f32[1,3]{1,0} parameter(1)
  %at = s32[] parameter(2)
  ROOT %put = f32[7,3]{1,0} dynamic-update-slice(%all, %new, %at, %at)
}

%inner (state: (s32[], f32[3,4])) -> (s32[], f32[3,4]) {
  %state = (s32[], /*index=1*/f32[3,4]{1,0}) parameter(0)
  %x = f32[3,4]{1,0} get-tuple-element(%state), index=1
  %k = s32[] get-tuple-element(%state), index=0
  %square = f32[4,4]{1,0} constant({...})
  %dot.1 = f32[3,4]{1,0} dot(%x, %square), lhs_contracting_dims={1}, rhs_contracting_dims={0}
  ROOT %out = (s32[], f32[3,4]{1,0}) tuple(%k, %dot.1)
}

%few (state: (s32[], f32[3,4])) -> pred[] {
  %state = (s32[], f32[3,4]{1,0}) parameter(0)
  %k = s32[] get-tuple-element(%state), index=0
  ROOT %less = pred[] compare(%k, %k), direction=LT
}

%body (state: (s32[], f32[1000,4], s32[3,1], f32[7,3])) -> (s32[], /*index=1*/f32[1000,4]) {
  %state = (s32[], f32[1000,4]{1,0}, s32[3,1]{1,0}, f32[7,3]{1,0}) parameter(0)
  %k = s32[] get-tuple-element(%state), index=0
  %rows = f32[1000,4]{1,0} get-tuple-element(%state), index=1
  %index = s32[3,1]{1,0} get-tuple-element(%state), index=2
  %told = f32[7,3]{1,0} get-tuple-element(%state), index=3
  %batch = f32[3,4]{1,0} fusion(%rows, %index), kind=kLoop, calls=%taken
  %start = (s32[], f32[3,4]{1,0}) tuple(%k, %batch)
  %loop = (s32[], f32[3,4]{1,0}) while(%start), condition=%few, body=%inner, \
backend_config={"known_trip_count":{"n":"5"}}
  %new = f32[1,3]{1,0} constant({...})
  %kept = f32[7,3]{1,0} fusion(%told, %new, %k), kind=kLoop, calls=%written
  ROOT %out = (s32[], f32[1000,4]{1,0}, s32[3,1]{1,0}, f32[7,3]{1,0}) tuple(%k, %rows, \
%index, %kept)
}

%more (state: (s32[], f32[1000,4], s32[3,1], f32[7,3])) -> pred[] {
  %state = (s32[], f32[1000,4]{1,0}, s32[3,1]{1,0}, f32[7,3]{1,0}) parameter(0)
  %k = s32[] get-tuple-element(%state), index=0
  ROOT %less = pred[] compare(%k, %k), direction=LT
}

ENTRY %main (a: s32[], b: f32[1000,4], c: s32[3,1], d: f32[7,3]) -> f32[7,3] {
  %a = s32[] parameter(0)
  %b = f32[1000,4]{1,0} parameter(1)
  %c = s32[3,1]{1,0} parameter(2)
  %d = f32[7,3]{1,0} parameter(3)
  %before = f32[1000,4]{1,0} copy(%b)
  %start = (s32[], f32[1000,4]{1,0}, s32[3,1]{1,0}, f32[7,3]{1,0}) tuple(%a, %before, %c, %d)
  %updates = (s32[], f32[1000,4]{1,0}, s32[3,1]{1,0}, f32[7,3]{1,0}) while(%start), \
condition=%more, body=%body
  ROOT %out = f32[7,3]{1,0} get-tuple-element(%updates), index=3
}
"""
SMALL = Chip("small", "", 1000, 100, 50.0)
ROW = Row(
    "bc", "t", "train", True, "a100", 64, "XLA", 100, 20, 300, 7.0, 9e9, 8e9, 6e9, 1.0, 2.0, "c"
)


def test_an_update_is_one_pass_of_the_outer_loop_with_inner_loops_as_often_as_they_run():
    work = hlo.Program(TEXT).update()
    # the gather, 5 products, the write, and the condition of the loop over updates
    assert work.kernels == 1 + 5 + 1 + 1
    assert work.products == 5 * 2 * (3 * 4) * 4
    assert work.others == 3 * 4 + 1
    assert work.waits == 1
    # gather: 12 numbers, 3 indices, 12 results; product: 12 + 16 + 12; write: a row of 3 and its
    # place are read, 3 numbers are written; the condition compares two integers into one byte
    assert work.bytes == 4 * (12 + 3 + 12) + 5 * 4 * 40 + 4 * (3 + 1 + 3) + 4 + 4 + 1


def test_a_compiled_program_is_counted_by_its_loops():
    def updates(count, x):
        inner = lambda x: lax.scan(lambda y, _: (jnp.tanh(y @ y), None), x, length=6)[0]
        return lax.fori_loop(0, count, lambda _, x: inner(x), x)

    made = jax.jit(updates).lower(jnp.int32(3), jnp.ones((8, 8))).compile()
    work = hlo.Program(made.as_text()).update()
    assert work.products == 6 * 2 * 8**3
    with pytest.raises(ValueError, match="expected a loop over updates, found none"):
        hlo.Program(jax.jit(jnp.tanh).lower(1.0).compile().as_text()).update()


def test_a_long_sort_is_several_kernels():
    row = hlo.Instruction("s", "sort", (hlo.Shape("f32", (4, 8192)),), ("x",), "dimensions={1}")
    # 13 stages: the first 11 in one kernel; stage 12: one exchange and the rest; stage 13: two
    assert hlo._sort_kernels(row) == 1 + 2 + 3


def test_a_floor_is_what_takes_longest():
    floor = SMALL.floor(kernels=10, moved=200, products=60, others=40)
    # 10 x 2 us; 200 / 100; 60 / 50 + 40 / 25
    assert dataclasses.astuple(floor) == pytest.approx((20e-6, 2.0, 2.8))
    assert floor.binds == "arithmetic" and floor.seconds == pytest.approx(2.8)
    assert SMALL.floor(10, 400, 60, 40).binds == "bandwidth"
    assert SMALL.usable_bytes == 750


def test_described_chips_have_their_makers_numbers():
    # A100: 108 cores x 64 x 2 x 1.41 GHz; H100 and H200: 132 x 128 x 2 x 1.98
    assert {name: round(x.flops / 1e12, 1) for name, x in CHIPS.items()} == {
        "a100": 19.5,
        "h100": 66.9,
        "h200": 66.9,
    }
    assert CHIPS["h200"].memory_bytes > CHIPS["h100"].memory_bytes > CHIPS["a100"].memory_bytes


def test_rows_survive_their_file(tmp_path):
    rows = [ROW, dataclasses.replace(ROW, stage="behaviour", last=False, runs=1)]
    write(tmp_path / "plan.csv", rows, list(plan.CASES))
    assert read(tmp_path / "plan.csv") == rows[::-1]  # stages in order
    assert read(tmp_path / "none.csv") == []


def test_the_page_extrapolates_memory_by_a_line_and_names_what_binds():
    rows = [dataclasses.replace(ROW, runs=runs, temporaries=10**7 * runs) for runs in (16, 64)]
    fixed, each = plan_page.line_of(rows)
    assert fixed == pytest.approx(120, abs=1e3) and each == pytest.approx(1e7, rel=1e-3)
    text = plan_page.markdown(rows, [dataclasses.replace(ROW, moved=18e9)], plan.__doc__ or "")
    most = int(CHIPS["a100"].usable_bytes / 1e7)
    assert f"| {most:,} |" in text or f"| {most - 1:,} |" in text
    # 9 GB at 1,555 GB/s
    assert "| bc | train | 7 | 9 | 8 | 6 | 5.79 (5.79) |" in text
    assert "| bc | train | 7 | 7 | 18 | 9 |" in text  # before and after


def test_sizes_of_data_are_those_of_the_table_of_datasets():
    path = Path(plan.__file__).parents[1] / "reference" / "datasets" / "datasets.csv"
    lines = [line for line in path.read_text().splitlines() if not line.startswith("#")]
    told = {row["task"]: (row["episodes"], row["steps"]) for row in csv.DictReader(lines)}
    for task, size in plan.SIZES.items():
        assert task not in told or told[task] == tuple(map(str, size)), task


def test_every_method_is_planned():
    planned = {plan.spec_of(name).method for name in plan.CASES}
    assert planned == set(registry.learner_names())


def test_an_unknown_learner_is_refused_by_name(tmp_path):
    with pytest.raises(UnknownName, match="unknown learner of the plan 'inspoo'; nearest: inspo"):
        plan.main(["inspoo", "--out", str(tmp_path)])


@pytest.mark.slow
@pytest.mark.skipif(not plan.has_plugin(), reason="the CUDA wheels of JAX are not installed")
@pytest.mark.parametrize("learner", ["maddpg-game", "td3bc", "inspo-game"])
def test_a_program_is_compiled_for_a_described_gpu(learner):
    fits = blocks.fits_cache
    rows = list(plan.compiled(learner, "a100", 4))
    assert blocks.fits_cache is fits
    assert rows[-1].last and rows[-1].kernels > 5 and rows[-1].moved > 0
    assert all(row.planned > 0 and row.chip == "a100" for row in rows)
