"""What is the same bit for bit, and what to rounding: the rows of the table in docs/usage.md that
no other test compares.
"""

from __future__ import annotations

import dataclasses

import chex
import jax
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


def test_a_run_alone_is_the_same_bit_for_bit_in_sequence_and_to_rounding_in_the_other_mode(
    trained, tmp_path
):
    spec, many = FORMS["bc"].spec, state_of(trained("bc").path)
    train(dataclasses.replace(spec, seeds=spec.seeds[:1], mode="sequence"), tmp_path / "alone")
    train(dataclasses.replace(spec, mode="vmap"), tmp_path / "vmap")
    first = jax.tree.map(lambda x: x[:1], many)
    chex.assert_trees_all_equal(state_of(tmp_path / "alone"), first)
    # measured: 1.5e-8
    chex.assert_trees_all_close(state_of(tmp_path / "vmap"), many, rtol=1e-6, atol=1e-6)
