"""What is the same bit for bit, and what to rounding: the rows of the README's table that no other
test compares.
"""

from __future__ import annotations

import dataclasses

import chex
import jax
import numpy as np
import pytest

from jaxoff.training import Interrupted, loop, train
from tests.learners import FORMS, StopAt, state_of


@pytest.mark.parametrize("mode", ["sequence", "vmap"])
def test_a_job_is_the_same_given_again_stopped_and_in_other_chunks(mode, tmp_path, monkeypatch):
    spec = dataclasses.replace(FORMS["bc"].spec, mode=mode)
    for name, evaluations in {"whole": 3, "again": 3, "one evaluation": 1}.items():
        train(dataclasses.replace(spec, evaluations=evaluations), tmp_path / name)
    monkeypatch.setattr(loop._Loop, "_chunk_size", lambda *_: 1)
    with pytest.raises(Interrupted):
        train(spec, tmp_path / "stopped", sinks=[StopAt(0, 3)])
    train(spec, tmp_path / "stopped")
    states = [state_of(folder) for folder in sorted(tmp_path.iterdir())]
    assert len(states) == 4
    for other in states[1:]:
        chex.assert_trees_all_equal(other, states[0])


def test_other_modes_and_numbers_of_runs_are_the_same_to_rounding(trained, tmp_path):
    spec, many = FORMS["bc"].spec, state_of(trained("bc").path)
    changes = {"vmap": {"mode": "vmap"}, "alone": {"seeds": spec.seeds[:1]}}
    for name, change in changes.items():
        train(dataclasses.replace(spec, **change), tmp_path / name)
        pairs = zip(jax.tree.leaves(state_of(tmp_path / name)), jax.tree.leaves(many), strict=True)
        for found, wanted in pairs:
            # measured: 0 alone, 1.5e-8 with vmap
            np.testing.assert_allclose(found, wanted[: len(found)], rtol=1e-6, atol=1e-6)
