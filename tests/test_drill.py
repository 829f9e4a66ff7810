"""Drills: they tell what held from what did not."""

from __future__ import annotations

import numpy as np
from jaxoff.experiments.drill import Drill, distance, inputs, same
from jaxoff.experiments.drill.__main__ import markdown


def test_outcomes_are_compared_bit_for_bit():
    one = {"a": np.array([1.0, np.nan], np.float32), "b": [{"x": 1}, None]}
    assert same(one, {"a": one["a"].copy(), "b": [{"x": 1}, None]})
    assert not same(one, one | {"a": np.array([-1.0, np.nan], np.float32)})
    assert not same({"a": np.zeros(1)}, {"a": -np.zeros(1)})
    assert not same(one, one | {"b": [{"x": 2}, None]})
    far = distance({"a": np.array([1.0, 4.0])}, {"a": np.array([1.0, 3.0])})
    assert far == 0.25 and distance({"n": np.array([1])}, {"n": np.array([2])}) == np.inf


def test_a_kind_of_bad_input_is_held_only_where_it_is_named_and_leaves_nothing(tmp_path):
    kinds = inputs.KINDS
    assert len(kinds) >= 60 and len({kind.name for kind in kinds}) == len(kinds)
    (tmp_path / "base").mkdir()
    held, text = inputs._try(kinds[0], tmp_path / "base", tmp_path)
    assert held and text.startswith("unknown method 'nosuch'")
    said = kinds[1]._replace(says="something else")
    held, text = inputs._try(said, tmp_path / "base", tmp_path)
    assert not held and text.startswith("status 2, 1 lines, left []: unknown task family")


def test_the_page_tells_how_many_tries_held():
    page = markdown([Drill("kills", "all resume", 2, 1, ("job", "equal"), [("bc", "NO")])], "drill")
    assert "| kills | all resume | 1 of 2 |" in page and "| bc | NO |" in page
