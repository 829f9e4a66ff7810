"""What is drawn for InSPO: learning curves, joint-policy heat maps, episodes of Bridge."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from jaxoff.report import figures
from jaxoff.report.load import Run
from jaxoff.report.play import episode_of, write_gif
from jaxoff.report.tables import number_of
from jaxoff.training.restore import restore_policy

OPTIMUM = {"matrix": {"xor": 1.0, "mne": 20.0, "mne-20": 20.0}, "grid": {"bridge": -1.2354526}}


def learning_curves(
    runs: Sequence[Run],
    tasks: Mapping[str, str],
    stem: Path,
    printed: Mapping[tuple[str, str], str] | None = None,
) -> None:
    """Value over updates, exact where it is known, with the optimum as a line.

    printed: (task's label, column) -> what the paper prints, which is marked where it is a number.
    """
    numbers = {place: number_of(text) for place, text in (printed or {}).items()}
    metric = "exact_value" if all(run.has("exact_value") for run in runs) else "return_mean"
    family, scenario, _ = runs[0].task.split("/")
    figures.curves(
        runs,
        metric,
        stem,
        tasks=tasks,
        label="expected reward" if metric == "exact_value" else "return",
        reference={"optimum": OPTIMUM[family][scenario]},
        paper={place: number for place, number in numbers.items() if number is not None},
    )


def joint_policies(runs: Sequence[Run], actions: Sequence[str], stem: Path) -> None:
    """Joint policies [A, A] of the first run of each result, at its last evaluation."""
    figures.heat_maps(
        {run.variant: run.history("joint_policy")[-1, 0] for run in runs},
        actions,
        stem,
        note="joint policies at the last evaluation of training",
    )


def episodes(runs: Sequence[Run], out: Path) -> list[str]:
    """A GIF of one episode of the first run of each result; returns the file stems.

    Results from the store have no policies, and no GIF.
    """
    stems = []
    for run in (run for run in runs if run.path.is_dir()):
        env, policy, spec = restore_policy(run.path)
        stem = f"episode-{run.path.name}"
        if write_gif(
            env,
            episode_of(env, policy, 0, sampled=True),
            out / f"{stem}.gif",
            f"{spec.label}, {spec.task}",
        ):
            stems.append(stem)
    return stems
