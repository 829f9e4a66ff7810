"""The names of the folders of jobs."""

from __future__ import annotations

import pytest

from jaxoff.training.naming import LONGEST, folder_name, folder_to_extend
from jaxoff.training.spec import TrainSpec, resolve

TASK = "matrix/xor/c"


@pytest.mark.parametrize(
    ("change", "name"),
    [
        ({}, ""),
        ({"seeds": (3, 4), "evaluations": 2}, ""),
        ({"config": {"lr": 3e-3, "hidden": "16"}, "steps": 7}, "-hidden=16-lr=0.003-steps=7"),
        ({"config": {"window": -1, "recurrent": "true"}}, "-recurrent=true-window=-1"),
        ({"grid": {"lr": [0.1], "hidden": [4, 8]}}, "-grid=hidden+lr"),
        ({"size": "paper", "steps": 7}, "-size=paper-steps=7"),
        ({"data_seed": 3, "data_episodes": 40}, "-data_seed=3-data_episodes=40"),
    ],
)
def test_a_name_says_what_differs_from_the_defaults(change, name):
    assert folder_name(TrainSpec("bc", TASK, **change)) == f"bc-matrix-xor-c{name}"


def test_a_value_that_is_the_default_is_not_in_the_name():
    for size in ("laptop", "paper"):
        (default,) = resolve(TrainSpec("bc", TASK, size=size)).config.lr
        spec = TrainSpec("bc", TASK, size=size, config={"lr": float(f"{default:.6g}")})
        assert folder_name(spec) == "bc-matrix-xor-c" + "-size=paper" * (size == "paper")


def test_the_samplers_settings_are_told_by_its_name():
    spec = TrainSpec("bc", TASK, sampler="pjap", sampler_config={"ramp": 4.0})
    assert folder_name(spec) == "bc+pjap-matrix-xor-c-pjap.ramp=4.0"


def test_a_label_names_the_folder():
    spec = TrainSpec("bc", TASK, variant="small", config={"hidden": 4}, steps=3)
    assert folder_name(spec) == "small-matrix-xor-c"


def test_what_is_unsafe_or_long_has_a_digest_that_differs():
    unsafe = [folder_name(TrainSpec("bc", TASK, variant=label)) for label in ("a/b", "a:b", "../b")]
    long = [
        folder_name(TrainSpec("bc", TASK, variant="x" * LONGEST + end, steps=3)) for end in "ab"
    ]
    assert len({*unsafe, *long}) == 5
    assert all(len(name) <= LONGEST and not set(name) & set("/:\\") for name in unsafe + long)
    assert folder_name(TrainSpec("bc", TASK, variant="a/b")) == unsafe[0]


def test_the_folder_to_extend_has_the_most_updates_of_those_with_fewer(tmp_path):
    head = "bc-matrix-xor-c-hidden=4"
    for name in ("-steps=2", "-steps=9", "-steps=30", "-lr=0.1-steps=8", ""):
        (tmp_path / f"{head}{name}").mkdir()
    found = [
        folder_to_extend(TrainSpec("bc", TASK, config={"hidden": 4}, steps=steps), tmp_path)
        for steps in (2, 3, 20, 10**7)
    ]
    names = [folder and folder.name.removeprefix(head) for folder in found]
    assert names == [None, "-steps=2", "-steps=9", ""]


def test_the_default_number_of_updates_is_one_to_extend_to(tmp_path):
    (tmp_path / "bc-matrix-xor-c-steps=2").mkdir()
    (tmp_path / f"bc-matrix-xor-c-steps={10**7}").mkdir()
    found = folder_to_extend(TrainSpec("bc", TASK), tmp_path)
    assert found is not None and found.name == "bc-matrix-xor-c-steps=2"
    assert folder_to_extend(TrainSpec("bc", TASK, variant="mine"), tmp_path) is None
