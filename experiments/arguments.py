"""The arguments that every experiment's command has."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

SCALES = ("smoke", "cpu", "full")


def parse(
    prog: str, description: str, parts: Sequence[str], out: str, data_dir: bool = False
) -> argparse.Namespace:
    """part, scale and out, and data_dir where it is asked for, from the command line."""
    parser = argparse.ArgumentParser(prog=f"python -m {prog}", description=description)
    parser.add_argument("part", nargs="?", default="all", choices=[*parts, "all"])
    parser.add_argument(
        "--scale", default="cpu", choices=SCALES, help="sizes of nets, steps and seeds"
    )
    parser.add_argument(
        "--out", default=Path(out), type=Path, help="folder for results, tables and figures"
    )
    if data_dir:
        parser.add_argument("--data-dir", help="folder of public datasets")
    return parser.parse_args()
