"""The command `python -m experiments.pjap [fig1 ... fig5 | extras | all] --scale smoke|cpu|full --out results/pjap`.

smoke: two seeds and a tenth of the epochs, to see that everything runs. cpu: the paper's epochs with
ten seeds. full: the same with a hundred seeds.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from experiments.pjap import figures, runs, tables
from jaxoff.report.figures import save, style
from jaxoff.report.tables import Table, write

SCALES = {"smoke": (2, 0.1), "cpu": (10, 1.0), "full": (100, 1.0)}  # seeds, share of the epochs


class Job:
    """One call of the command: where it writes, and with how many seeds and epochs."""

    def __init__(self, scale: str, out: Path, command: str) -> None:
        seeds, self.share = SCALES[scale]
        self.seeds, self.out = range(seeds), out
        self.about = tables.about(self.seeds, command)

    def epochs(self, full: int = runs.EPOCHS) -> int:
        """Epochs of this scale."""
        return max(int(full * self.share), tables.LATE)

    def save(self, name: str, figure: Any, *made: tuple[str, Table]) -> list[Path]:
        """Write a figure as PNG and SVG, and tables; returns the paths."""
        paths = [path for stem, table in made for path in write(table, self.out / stem)]
        if figure is None:
            return paths
        with style():
            return paths + save(figure, self.out / name)


def fig1(job: Job) -> list[Path]:
    """One datum, and the step that it causes."""
    return job.save("fig1", figures.fig1())


def fig2(job: Job) -> list[Path]:
    """Online, four buffer sizes."""
    results = runs.fig2_runs(job.seeds, job.epochs(190))
    return job.save("fig2", figures.fig2(results), *tables.fig2(results, runs.CAPACITIES, job.about).items())


def fig3(job: Job) -> list[Path]:
    """Uniform data, three starts."""
    return job.save("fig3", figures.fig3(*runs.fig3_runs(job.epochs(200))))


def fig4(job: Job) -> list[Path]:
    """Twin peaks, data around the origin and around a maximum."""
    panels = {centre: runs.fig4_runs(centre, job.seeds, job.epochs()) for centre in ("origin", "peak")}
    return job.save("fig4", figures.fig4(panels), ("fig4-end", tables.fig4(panels, job.about)))


def fig5(job: Job) -> list[Path]:
    """Uniform against PJAP."""
    data, uniform, pjap = runs.fig5_runs(job.seeds, job.epochs())
    return job.save("fig5", figures.fig5(data, uniform, pjap), *tables.fig5(uniform, pjap, job.about).items())


def extras(job: Job) -> list[Path]:
    """Not in the paper: permuted pairing, alpha x eps, size of the refreshed set."""
    pairs, results = runs.pairing_runs(job.seeds, job.epochs())
    paths = job.save("extra-pairing", figures.pairing(results, pairs), ("extra-pairing", tables.pairing(results, job.about)))
    swept = runs.grid_runs(job.seeds, job.epochs())
    paths += job.save("extra-grid", figures.grid(swept), ("extra-grid", tables.grid(swept, job.about)))
    sizes = runs.refresh_runs(job.seeds, job.epochs())
    return paths + job.save("extra-refresh", None, ("extra-refresh", tables.refresh(sizes, job.about)))


PARTS: dict[str, Callable[[Job], list[Path]]] = {"fig1": fig1, "fig2": fig2, "fig3": fig3, "fig4": fig4, "fig5": fig5, "extras": extras}


def main(arguments: Sequence[str] | None = None) -> list[Path]:
    """Make the chosen figures and tables; returns the files written."""
    parser = argparse.ArgumentParser(prog="python -m experiments.pjap", description="Figures 1 to 5 of Tilbury et al. (2024).")
    parser.add_argument("part", nargs="?", default="all", choices=[*PARTS, "all"])
    parser.add_argument("--scale", default="cpu", choices=list(SCALES), help="seeds and epochs")
    parser.add_argument("--out", default=Path("results/pjap"), type=Path, help="folder for figures and tables")
    chosen = parser.parse_args(arguments)
    job = Job(chosen.scale, chosen.out, f"python -m experiments.pjap {chosen.part} --scale {chosen.scale}")
    parts = PARTS.values() if chosen.part == "all" else [PARTS[chosen.part]]
    return [path for part in parts for path in part(job)]
