"""GIFs of agents on a grid, drawn from plain arrays."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from jaxoff.files import replacing

CELL = 64  # pixels per cell
SCALE = 3  # pictures are drawn larger by this factor and then reduced, for smooth edges
FOOT = 48  # pixels below the picture, for two lines of text
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00")
PAPER, INK, WALL, LINE = "#ffffff", "#222222", "#4a4a4a", "#d9d9d9"


def grid_gif(
    positions: np.ndarray,
    walls: np.ndarray,
    goals: np.ndarray,
    path: str | Path,
    rewards: Sequence[float] | np.ndarray | None = None,
    text: str = "",
    *,
    frame_s: float = 0.5,
) -> Path:
    """Write an episode on a grid as a GIF, with step, reward and return below.

    Goals are drawn as rings and agents as discs. positions: [T+1, N, 2] row and column, the first
    frame after the reset. walls: [H, W] bool. goals: [N, 2], the goal of each agent, or [0, 2] for
    none. rewards: [T], the reward of each step. frame_s: seconds per frame. Raises ValueError
    naming an array of a wrong shape.
    """
    positions, walls, goals = (
        np.asarray(positions),
        np.asarray(walls, bool),
        np.asarray(goals, int).reshape(-1, 2),
    )
    if (
        positions.ndim != 3
        or positions.shape[-1] != 2
        or not 1 <= positions.shape[1] <= len(COLOURS)
    ):
        raise ValueError(
            f"grid_gif: field 'positions': expected [T+1, 1..{len(COLOURS)}, 2], found "
            f"{positions.shape}"
        )
    if len(goals) not in (0, positions.shape[1]):
        raise ValueError(
            f"grid_gif: field 'goals': expected {positions.shape[1]} of them, or none, "
            f"found {len(goals)}"
        )
    if rewards is not None and len(rewards) != len(positions) - 1:
        raise ValueError(
            f"grid_gif: field 'rewards': expected {len(positions) - 1} steps, found {len(rewards)}"
        )
    inside = (positions >= 0).all() and (positions < walls.shape).all()
    if not inside:
        raise ValueError(
            f"grid_gif: field 'positions': expected cells of a grid {walls.shape}, found "
            f"{positions.min()}..{positions.max()}"
        )
    ground = _ground(walls, goals)
    frames = [
        _frame(ground, positions[: t + 1], caption(t, rewards, text), walls.shape)
        for t in range(len(positions))
    ]
    # One palette for all frames, so that a colour never flickers.
    palette = frames[-1].quantize(64)
    frames = [frame.quantize(palette=palette, dither=Image.Dither.NONE) for frame in frames]
    return save_gif(frames, path, round(1000 * frame_s), round(3000 * frame_s))


def save_gif(frames: list[Image.Image], path: str | Path, duration: int, last: int) -> Path:
    """Write frames as a GIF that loops; each lasts `duration` ms, the last one `last` ms.

    The file is written completely or not at all.
    """
    durations = [duration] * (len(frames) - 1) + [last]
    with replacing(path) as temporary:
        frames[0].save(
            temporary,
            format="GIF",
            save_all=True,
            append_images=frames[1:],
            duration=durations,
            loop=0,
            disposal=1,
        )
    return Path(path)


def caption(step: int, rewards: Sequence[float] | np.ndarray | None, text: str) -> tuple[str, str]:
    """The two lines below a frame: one with step, reward and return, one with `text`."""
    line = f"step {step}"
    if rewards is not None and step:
        line += (
            f"   reward {float(rewards[step - 1]):.2f}   return {float(np.sum(rewards[:step])):.2f}"
        )
    return line, text


def write(draw: ImageDraw.ImageDraw, top: int, lines: tuple[str, str]) -> None:
    """Write two lines of text into the area that begins at `top`."""
    for line, text in enumerate(lines):
        draw.text((6 * SCALE, top + (6 + 21 * line) * SCALE), text, fill=INK, font=font(14))


def _ground(walls: np.ndarray, goals: np.ndarray) -> Image.Image:
    """The grid without agents, enlarged by SCALE, with room for two lines of text below."""
    rows, columns = walls.shape
    cell = CELL * SCALE
    image = Image.new("RGB", (columns * cell + 2 * SCALE, rows * cell + FOOT * SCALE), PAPER)
    draw = ImageDraw.Draw(image)
    for row, column in np.ndindex(rows, columns):
        box = (column * cell, row * cell, (column + 1) * cell, (row + 1) * cell)
        draw.rectangle(
            box, fill=WALL if walls[row, column] else PAPER, outline=LINE, width=2 * SCALE
        )
    for colour, (row, column) in zip(COLOURS, goals, strict=False):
        _disc(draw, row, column, 0.36, None, colour)
    return image


def _frame(
    ground: Image.Image, path: np.ndarray, lines: tuple[str, str], shape: tuple[int, int]
) -> Image.Image:
    image = ground.copy()
    draw = ImageDraw.Draw(image)
    cell = CELL * SCALE
    shifts = _shifts(path[-1])
    for agent, colour in enumerate(COLOURS[: path.shape[1]]):
        # Each agent's trail has its own offset, so that two trails on one lane are both visible.
        offset = (agent - (path.shape[1] - 1) / 2) * 0.1
        points = [
            ((column + 0.5 + offset) * cell, (row + 0.5 + offset) * cell)
            for row, column in path[:, agent]
        ]
        if len(points) > 1:
            draw.line(points, fill=pale(colour), width=3 * SCALE, joint="curve")
    for agent, colour in enumerate(COLOURS[: path.shape[1]]):
        row, column = path[-1, agent] + np.array([0, shifts[agent]])
        _disc(draw, row, column, 0.21 if shifts[agent] else 0.26, colour, PAPER)
        draw.text(
            ((column + 0.5) * cell, (row + 0.5) * cell),
            str(agent + 1),
            fill=PAPER,
            anchor="mm",
            font=font(18),
        )
    write(draw, shape[0] * cell, lines)
    return image.resize((image.width // SCALE, image.height // SCALE), Image.Resampling.LANCZOS)


def _shifts(cells: np.ndarray) -> list[float]:
    """Horizontal shift of each agent, so that agents in one cell are beside each other."""
    out = []
    for agent, cell in enumerate(cells):
        here = [other for other in range(len(cells)) if (cells[other] == cell).all()]
        out.append((here.index(agent) - (len(here) - 1) / 2) * 0.44)
    return out


def _disc(
    draw: ImageDraw.ImageDraw, row: float, column: float, radius: float, fill: str | None, line: str
) -> None:
    cell = CELL * SCALE
    x, y, r = (column + 0.5) * cell, (row + 0.5) * cell, radius * cell
    draw.ellipse(
        (x - r, y - r, x + r, y + r), fill=fill, outline=line, width=(2 if fill else 4) * SCALE
    )


def pale(colour: str) -> tuple[int, int, int]:
    """A colour such as #0072B2, half way to white."""
    red, green, blue = (int(colour[i : i + 2], 16) for i in (1, 3, 5))
    return (255 + red) // 2, (255 + green) // 2, (255 + blue) // 2


@functools.cache
def font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """The font of a size in pixels of the finished picture."""
    return ImageFont.load_default(size * SCALE)
