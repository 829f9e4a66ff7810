"""GIFs of bodies that move in the plane, drawn from plain arrays."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageColor, ImageDraw

from jaxoff.report.gif import (
    COLOURS,
    FOOT,
    INK,
    LINE,
    PAPER,
    SCALE,
    WALL,
    caption,
    font,
    pale,
    save_gif,
    write,
)

SIDE = 560  # pixels of the longer side
FRAMES = 200  # maximum number of frames; of a longer episode, evenly spaced steps are shown
FOREST, FOOD = "#b8e0d4", "#F0E442"
# The i-th body of a kind has the i-th of these colours, in turn. Bodies that stand still are drawn
# below those that move.
MOVING = {"agent": COLOURS, "ally": COLOURS[:1], "enemy": COLOURS[1:2], "prey": (INK,)}
STILL = {
    "forest": (FOREST,),
    "obstacle": (WALL,),
    "food": (FOOD,),
    "landmark": (WALL,),
    "goal": COLOURS,
}
RINGS = ("landmark", "goal")
NUMBERED = ("agent", "ally", "enemy")
TEAMS = {"ally": "allies", "enemy": "enemies"}
BAR = 30  # pixels below the picture, for the health of two teams
TRAILS = ("agent", "prey")


class View(NamedTuple):
    """The visible part of the plane: its left, top, width and height, and its zoom.

    zoom: pixels per unit, in the drawing before it is reduced by SCALE.
    """

    left: float
    top: float
    width: float
    height: float
    zoom: float

    def at(self, x: float, y: float) -> tuple[float, float]:
        """Pixel of a point; y goes up."""
        return (x - self.left) * self.zoom, (self.top - y) * self.zoom

    @property
    def size(self) -> tuple[int, int]:
        """Width and height in pixels of the drawing, which are multiples of SCALE."""
        return round(self.width * self.zoom / SCALE) * SCALE, round(
            self.height * self.zoom / SCALE
        ) * SCALE


def scene_gif(
    positions: np.ndarray,
    kinds: Sequence[str],
    radii: Sequence[float] | np.ndarray,
    path: str | Path,
    rewards: Sequence[float] | np.ndarray | None = None,
    text: str = "",
    *,
    health: np.ndarray | None = None,
    walls: Sequence[Sequence[float]] | np.ndarray | None = None,
    bounds: Sequence[float] | None = None,
    shots: np.ndarray | None = None,
    result: str = "",
) -> Path:
    """Write an episode as a GIF: discs that move, with step, reward and return below.

    positions: [T+1, K, 2] x and y (upwards) of K bodies, the first frame after the reset. kinds: K
    names from `MOVING` and `STILL`; the latter are drawn at their first position, landmarks and
    goals as rings (goal i in the colour of agent i). radii: [K], in units of the positions.
    rewards: [T], the reward of each step. health: [T+1, K] in 0..1, the part of a disc that is not
    pale; a body with health 0 is not drawn. walls: [M, 4] rectangles (x0, y0, x1, y1). bounds: (x0,
    y0, x1, y1), the least that is visible; by default the living bodies of all frames, or where the
    shots were, if there are any. shots: [T+1, K], the body that each body shot at in the step
    before, or -1; a line is drawn to it. Below allies and enemies stand how many of them live and
    their health; result: who won, which the last frame shows. With shots, the first frame is that
    before the first of them. Of a long episode 200 frames are shown, the last one among them, and a
    GIF lasts about 10 s at most. Raises ValueError naming an argument of a wrong shape or value.
    """
    positions, radii = np.asarray(positions, float), np.asarray(radii, float)
    walls = np.asarray(() if walls is None else walls, float)
    walls = walls.reshape(0, 4) if walls.size == 0 else walls
    _check(positions, kinds, radii, rewards, health, walls, bounds, shots)
    life = np.ones(positions.shape[:2]) if health is None else np.asarray(health, float)
    lines = _shot_lines(positions, life, shots)
    view = _view(positions, radii, _engaged(life, shots) if lines else life > 0, bounds)
    order = [list(kinds[:body]).count(kind) for body, kind in enumerate(kinds)]
    foot = FOOT + BAR * (set(TEAMS) <= set(kinds))
    ground = _ground(view, positions[0], kinds, order, radii, walls, foot)
    last = len(positions) - 1
    palette, (width, height) = _palette(), view.size
    frames, before = [], 0
    # a battle begins one step before its first shot
    first = max(0, min((step for step, _ in lines), default=0) - 1)
    for t in np.linspace(first, last, min(last - first + 1, FRAMES)).round().astype(int):
        _trails(ImageDraw.Draw(ground), view, positions[before : t + 1], kinds, order)
        fired = [line for (step, _), line in lines.items() if before < step <= t]
        frame = _frame(ground, view, positions[t], kinds, order, radii, life[t], fired)
        draw = ImageDraw.Draw(frame)
        # cover bodies that leave the bounds, so that they are not drawn over the text
        draw.rectangle((0, height, width, frame.height), fill=PAPER)
        draw.rectangle((0, 0, width - 1, height), outline=LINE, width=SCALE)
        if foot > FOOT:
            _teams(draw, height, width, kinds, life[t], result if t == last else "")
        write(draw, height + (foot - FOOT) * SCALE, caption(int(t), rewards, text))
        frames.append(frame.reduce(SCALE).quantize(palette=palette, dither=Image.Dither.NONE))
        before = t
    duration = round(1000 * min(max(8.0 / len(frames), 0.05), 0.25))
    return save_gif(frames, path, duration, 1500)


def _check(
    positions: np.ndarray,
    kinds: Sequence[str],
    radii: np.ndarray,
    rewards: Sequence[float] | np.ndarray | None,
    health: np.ndarray | None,
    walls: np.ndarray,
    bounds: Sequence[float] | None,
    shots: np.ndarray | None,
) -> None:
    def expect(good: bool, field: str, expected: str, found: object) -> None:
        if not good:
            raise ValueError(f"scene_gif: field '{field}': expected {expected}, found {found}")

    shape = positions.shape
    expect(
        positions.ndim == 3 and shape[-1] == 2 and min(shape) > 0, "positions", "[T+1, K, 2]", shape
    )
    expect(
        bool(np.isfinite(positions).all()),
        "positions",
        "finite numbers",
        f"{(~np.isfinite(positions)).sum()} that are not",
    )
    expect(len(kinds) == shape[1], "kinds", f"{shape[1]} names", len(kinds))
    strange = sorted(set(kinds) - set(MOVING) - set(STILL))
    expect(not strange, "kinds", f"names among {', '.join([*MOVING, *STILL])}", ", ".join(strange))
    expect(
        radii.shape == shape[1:2] and bool((radii > 0).all()),
        "radii",
        f"{shape[1]} positive numbers",
        radii.tolist(),
    )
    expect(
        rewards is None or len(rewards) == shape[0] - 1,
        "rewards",
        f"{shape[0] - 1} steps",
        0 if rewards is None else len(rewards),
    )
    expect(
        health is None or health.shape == shape[:2],
        "health",
        f"shape {shape[:2]}",
        None if health is None else health.shape,
    )
    found = None if shots is None else np.shape(shots)
    expect(shots is None or found == shape[:2], "shots", f"shape {shape[:2]}", found)
    good = walls.ndim == 2 and walls.shape[-1] == 4 and bool((walls[:, :2] < walls[:, 2:]).all())
    expect(good, "walls", "rectangles (x0, y0, x1, y1) with x0 < x1 and y0 < y1", walls.tolist())
    good = bounds is None or (len(bounds) == 4 and bounds[0] < bounds[2] and bounds[1] < bounds[3])
    expect(good, "bounds", "(x0, y0, x1, y1) with x0 < x1 and y0 < y1", bounds)


def _view(
    positions: np.ndarray, radii: np.ndarray, alive: np.ndarray, bounds: Sequence[float] | None
) -> View:
    if bounds is None:
        reach = np.broadcast_to(radii, alive.shape)[alive][:, None]
        seen = positions[alive] if alive.any() else np.zeros((1, 2))
        low, high = (seen - reach).min(0), (seen + reach).max(0)
        low, high = low - 0.04 * (high - low).max(), high + 0.04 * (high - low).max()
    else:
        low, high = np.array(bounds[:2], float), np.array(bounds[2:], float)
    # neither side is so short that the text does not fit
    span = np.maximum(high - low, 0.7 * (high - low).max())
    left, top = (low[0] + high[0] - span[0]) / 2, (low[1] + high[1] + span[1]) / 2
    return View(left, top, span[0], span[1], SIDE * SCALE / span.max())


def _ground(
    view: View,
    points: np.ndarray,
    kinds: Sequence[str],
    order: list[int],
    radii: np.ndarray,
    walls: np.ndarray,
    foot: int,
) -> Image.Image:
    """The scene without moving bodies, enlarged by SCALE, with `foot` pixels for text below."""
    width, height = view.size
    image = Image.new("RGB", (width, height + foot * SCALE), PAPER)
    draw = ImageDraw.Draw(image)
    for x0, y0, x1, y1 in walls:
        draw.rectangle((*view.at(x0, y1), *view.at(x1, y0)), fill=WALL)
    for kind, colours in STILL.items():  # in this order: forests at the bottom
        for body in (body for body in range(len(kinds)) if kinds[body] == kind):
            colour = colours[order[body] % len(colours)]
            edge = INK if kind == "food" else colour
            ring = kind in RINGS
            _disc(
                draw,
                *view.at(*points[body]),
                _pixels(view, radii[body]),
                None if ring else colour,
                edge,
                4 if ring else 1,
            )
    return image


def _trails(
    draw: ImageDraw.ImageDraw,
    view: View,
    points: np.ndarray,
    kinds: Sequence[str],
    order: list[int],
) -> None:
    """Draw the path [t, K, 2] since the previous frame; the ground keeps it for later frames."""
    for body in (body for body in range(len(kinds)) if kinds[body] in TRAILS and len(points) > 1):
        colours = MOVING[kinds[body]]
        draw.line(
            [view.at(*point) for point in points[:, body]],
            fill=pale(colours[order[body] % len(colours)]),
            width=3 * SCALE,
        )


def _frame(
    ground: Image.Image,
    view: View,
    points: np.ndarray,
    kinds: Sequence[str],
    order: list[int],
    radii: np.ndarray,
    health: np.ndarray,
    fired: Sequence[tuple[int, np.ndarray, np.ndarray]],
) -> Image.Image:
    image = ground.copy()
    draw = ImageDraw.Draw(image)
    for body in np.argsort(-radii, kind="stable"):  # large bodies first, so none hides a small one
        if kinds[body] not in MOVING or health[body] <= 0:
            continue
        colours = MOVING[kinds[body]]
        colour = colours[order[body] % len(colours)]
        (x, y), r = view.at(*points[body]), _pixels(view, radii[body])
        if health[body] < 1:  # the part that was lost, clockwise from the top, is pale
            draw.ellipse((x - r, y - r, x + r, y + r), fill=pale(colour))
            draw.pieslice((x - r, y - r, x + r, y + r), 270 - 360 * health[body], 270, fill=colour)
        _disc(draw, x, y, r, colour if health[body] >= 1 else None, PAPER, 1)
        if kinds[body] in NUMBERED and r >= 7 * SCALE:
            size = min(18, round(1.1 * r / SCALE))
            draw.text((x, y), str(order[body] + 1), fill=PAPER, anchor="mm", font=font(size))
    for body, start, end in fired:  # from the edge of the body that shoots to the other's centre
        colours = MOVING[kinds[body]]
        here, there = np.array(view.at(*start)), np.array(view.at(*end))
        length = max(float(np.hypot(*(there - here))), 1.0)
        here = here + (there - here) * min(_pixels(view, radii[body]) / length, 0.9)
        line = (*here, *there)
        draw.line(line, fill=PAPER, width=5 * SCALE)
        draw.line(line, fill=colours[order[body] % len(colours)], width=2 * SCALE)
        _disc(
            draw,
            float(there[0]),
            float(there[1]),
            4 * SCALE,
            colours[order[body] % len(colours)],
            PAPER,
            1,
        )
    return image


def _shot_lines(
    positions: np.ndarray, life: np.ndarray, shots: np.ndarray | None
) -> dict[tuple[int, int], tuple[int, np.ndarray, np.ndarray]]:
    """(step, body) -> the body, its place and that of the body it shot at, for each shot."""
    found = {}
    for step, body in np.argwhere(np.asarray(-1 if shots is None else shots) >= 0).tolist():
        target = int(np.asarray(shots)[step, body])
        when = step if life[step, target] > 0 else step - 1  # the dead have no place
        found[step, body] = (body, positions[step, body], positions[when, target])
    return found


def _engaged(life: np.ndarray, shots: np.ndarray | None) -> np.ndarray:
    """[T+1, K] bool: living bodies that shoot or are shot at, from the step before on."""
    found = np.zeros(life.shape, bool)
    for step, body in np.argwhere(np.asarray(-1 if shots is None else shots) >= 0).tolist():
        found[step - 1 : step + 1, [body, int(np.asarray(shots)[step, body])]] = True
    return found & (life > 0)


def _teams(
    draw: ImageDraw.ImageDraw,
    top: int,
    width: int,
    kinds: Sequence[str],
    health: np.ndarray,
    result: str,
) -> None:
    """Allies at the left and enemies at the right: how many live, and a bar of their health; the
    result between them.
    """
    room, line = width / 3, top + BAR * SCALE / 2
    for kind, name in TEAMS.items():
        own = health[[k == kind for k in kinds]]
        left = 6 * SCALE if kind == "ally" else width - room + 6 * SCALE
        text = f"{name} {int((own > 0).sum())}/{own.size} "
        draw.text((left, line), text, fill=MOVING[kind][0], anchor="lm", font=font(14))
        start, end = left + draw.textlength(text, font=font(14)), left + room - 12 * SCALE
        y0, y1 = line - 5 * SCALE, line + 5 * SCALE
        draw.rectangle((start, y0, end, y1), fill=pale(MOVING[kind][0]))
        if own.mean() > 0:
            full = start + (end - start) * float(own.mean())
            draw.rectangle((start, y0, full, y1), fill=MOVING[kind][0])
    draw.text((width / 2, line), result, fill=INK, anchor="mm", font=font(16))


def _disc(
    draw: ImageDraw.ImageDraw, x: float, y: float, r: float, fill: str | None, line: str, width: int
) -> None:
    draw.ellipse((x - r, y - r, x + r, y + r), fill=fill, outline=line, width=width * SCALE)


def _pixels(view: View, radius: float) -> float:
    """A radius in pixels, but at least large enough to be visible."""
    return max(radius * view.zoom, 5 * SCALE)


def _palette() -> Image.Image:
    """One palette for all frames, with inks in steps towards white.

    With one palette no colour flickers, or is lost once the last body of its kind is gone.
    """
    inks = np.array([ImageColor.getrgb(colour) for colour in (INK, WALL, FOOD, *COLOURS)])
    share = np.linspace(0, 1, 17)[1:, None, None]
    steps = (share * inks + (1 - share) * ImageColor.getrgb(PAPER)).round().reshape(-1, 3)
    # Pale colours get no steps, because Pillow, which compares colours in steps of four, would
    # take such a step for white.
    colours = np.concatenate(
        [[ImageColor.getrgb(colour) for colour in (PAPER, LINE, FOREST)], steps]
    ).astype(int)
    image = Image.new("P", (1, 1))
    image.putpalette(colours.ravel().tolist())
    return image
