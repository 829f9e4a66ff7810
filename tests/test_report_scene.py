"""GIFs of bodies in the plane: what is drawn where, and episodes of the worlds that have a
picture.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from PIL import Image

from jaxoff.data.recipes import random_policy
from jaxoff.envs.base import ScenePicture
from jaxoff.envs.games.matrix import make_matrix
from jaxoff.envs.maze import OFFSET, make_maze
from jaxoff.envs.mpe.omar import make_spread, make_tag, make_world
from jaxoff.envs.mpe.sit import make_sit
from jaxoff.envs.smax import make_smax
from jaxoff.report import scene
from jaxoff.report.play import Episode, episode_gif, result_of, write_gif
from jaxoff.report.scene import scene_gif

BLUE, VERMILION, GREEN = (0x00, 0x72, 0xB2), (0xD5, 0x5E, 0x00), (0x00, 0x9E, 0x73)
DARK, WHITE, INK = (0x4A, 0x4A, 0x4A), (255, 255, 255), (0x22, 0x22, 0x22)
SQUARE = (0.0, 0.0, 10.0, 10.0)  # 560 pixels: 56 to a unit
KEY = jax.random.key(0)


def frames_of(path: Path | None) -> list[np.ndarray]:
    assert path is not None
    with Image.open(path) as image:
        out = []
        for index in range(image.n_frames):
            image.seek(index)
            out.append(np.asarray(image.convert("RGB")).astype(int))
    return out


def pixel(frame: np.ndarray, x: float, y: float, bounds: tuple[float, ...] = SQUARE) -> np.ndarray:
    """Colour at a point of the scene; 560 pixels are the longer side."""
    zoom = 560 / max(bounds[2] - bounds[0], bounds[3] - bounds[1])
    return frame[int((bounds[3] - y) * zoom), int((x - bounds[0]) * zoom)]


def is_close(colour: np.ndarray, expected: tuple[int, ...]) -> bool:
    return bool(np.abs(colour - expected).max() < 12)


def draw(tmp_path: Path, positions: Any, kinds: list[str], **more: Any) -> list[np.ndarray]:
    more = {"radii": [1.0] * len(kinds), "bounds": SQUARE, **more}
    return frames_of(scene_gif(np.array(positions), kinds, path=tmp_path / "scene.gif", **more))


def test_a_frame_per_slot_of_the_size_of_the_bounds_and_two_lines_of_text(tmp_path: Path):
    # 10 x 7 units: 560 x 392 pixels, and 48 below
    frames = draw(
        tmp_path,
        np.ones((4, 1, 2)),
        ["agent"],
        bounds=(0, 0, 10, 7),
        rewards=[1.0, 2.0, 3.0],
        text="random",
    )
    assert len(frames) == 4 and {frame.shape for frame in frames} == {(440, 560, 3)}
    assert (frames[0][396:] != frames[3][396:]).any()  # the caption counts


def test_narrow_bounds_are_widened_so_that_text_fits(tmp_path: Path):
    # 0.7 x 560
    assert draw(tmp_path, [[[0.0, 5.0]]], ["agent"], bounds=(0, 0, 1, 10))[0].shape == (608, 392, 3)


def test_a_body_that_leaves_the_bounds_is_not_over_the_text(tmp_path: Path):
    frame = draw(tmp_path, [[[5, 5]], [[5, -0.5]]], ["agent"])[1]
    # 36 pixels below the scene, where the disc reaches 84, and right of the caption
    assert is_close(frame[596, 300], WHITE) and is_close(pixel(frame, 4.7, 0.1), BLUE)


def test_agents_are_discs_in_their_own_colours_where_they_are_with_y_upwards(tmp_path: Path):
    frames = draw(tmp_path, [[[2, 8], [5, 3]], [[4, 8], [5, 3]]], ["agent", "agent"])
    # 0.7 left of the centre, beside the number
    assert is_close(pixel(frames[0], 1.3, 8), BLUE) and is_close(
        pixel(frames[0], 4.3, 3), VERMILION
    )
    assert is_close(pixel(frames[1], 3.3, 8), BLUE) and is_close(pixel(frames[0], 2, 2), WHITE)
    assert is_close(pixel(frames[0], 4.5, 8), WHITE)


def test_an_agent_leaves_a_pale_trail(tmp_path: Path):
    frames = draw(tmp_path, [[[2, 5]], [[8, 5]]], ["agent"])
    # half of the way from blue to white
    assert is_close(pixel(frames[0], 5, 5), WHITE) and is_close(
        pixel(frames[1], 5, 5), (127, 184, 216)
    )


def test_landmarks_are_rings_and_obstacles_discs_and_a_goal_has_its_agents_colour(tmp_path: Path):
    kinds = ["landmark", "obstacle", "goal", "goal", "prey", "enemy"]
    frame = draw(
        tmp_path, [[[2, 2], [5, 2], [8, 2], [2, 8], [5, 8], [8, 8]]], kinds, walls=[[4, 4, 6, 6]]
    )[0]
    for x, y, centre, rim in [
        (2, 2, WHITE, DARK),
        (5, 2, DARK, DARK),
        (8, 2, WHITE, BLUE),
        (2, 8, WHITE, VERMILION),
        (5, 8, INK, INK),
    ]:
        # 54 pixels from the centre, the ring being 52 to 56
        assert is_close(pixel(frame, x, y), centre) and is_close(pixel(frame, x - 54 / 56, y), rim)
    assert is_close(pixel(frame, 7.3, 8), VERMILION)
    # a wall
    assert is_close(pixel(frame, 4.1, 5.9), DARK) and is_close(pixel(frame, 3.9, 5), WHITE)


def test_the_dead_are_not_drawn_and_lost_health_is_pale(tmp_path: Path):
    positions = np.broadcast_to(np.array([[3.0, 5.0], [7.0, 5.0]]), (3, 2, 2))
    frames = draw(
        tmp_path, positions, ["ally", "enemy"], health=np.array([[1, 1], [0.5, 1], [1, 0]])
    )
    assert is_close(pixel(frames[0], 3.7, 5), BLUE) and is_close(
        pixel(frames[0], 6.3, 5), VERMILION
    )
    # half of it is lost, clockwise from the top: the right half
    assert is_close(pixel(frames[1], 2.3, 5), BLUE) and is_close(
        pixel(frames[1], 3.7, 5), (127, 184, 216)
    )
    assert is_close(pixel(frames[2], 6.3, 5), WHITE)


def test_without_bounds_the_view_holds_the_living_only(tmp_path: Path):
    positions, health = np.array([[[100, 100], [110, 100], [0, 0]]]), np.array([[1, 1, 0]])
    frame = draw(tmp_path, positions, ["ally", "enemy", "enemy"], health=health, bounds=None)[0]
    # x: 99 to 111 and 4% of 12 on both sides; y: as much for the longer side, then 0.7 of it about
    # 100
    x0, x1 = 99 - 0.48, 111 + 0.48
    bounds = (x0, 100 - 0.35 * (x1 - x0), x1, 100 + 0.35 * (x1 - x0))
    assert frame.shape == (470, 560, 3)  # with a bar of each team, 30 pixels high
    assert is_close(pixel(frame, 99.3, 100, bounds), BLUE) and is_close(
        pixel(frame, 109.3, 100, bounds), VERMILION
    )


def test_a_battle_shows_its_shots_both_teams_and_who_won(tmp_path: Path):
    positions = np.broadcast_to(np.array([[2.0, 5.0], [8.0, 5.0]]), (4, 2, 2))
    shots = np.array([[-1, -1], [-1, -1], [1, -1], [-1, -1]])
    health = np.array([[1, 1], [1, 1], [0.5, 1], [0.5, 0]])
    more = {"health": health, "shots": shots, "result": "allies won"}
    before, shot, end = draw(tmp_path, positions, ["ally", "enemy"], **more)
    # it begins one step before the first shot
    assert is_close(pixel(before, 5, 5), WHITE) and is_close(pixel(end, 5, 5), WHITE)
    assert is_close(pixel(shot, 5, 5), BLUE) and is_close(pixel(shot, 8, 5), BLUE)
    # a bar of each team, 15 pixels below the scene: it ends at a third of 560 pixels and at 560
    assert is_close(before[575, 170], BLUE) and is_close(before[575, 540], VERMILION)
    assert is_close(shot[575, 170], (127, 184, 216))  # half of its health is lost
    assert is_close(end[575, 540], (234, 174, 127)) and not is_close(end[575, 540], VERMILION)
    said = [(np.abs(frame[560:590, 220:340] - INK).max(-1) < 40).sum() for frame in (shot, end)]
    assert said[0] == 0 < said[1]


def test_a_battle_is_cropped_to_where_the_shots_are(tmp_path: Path):
    positions = np.broadcast_to(np.array([[2.0, 5.0], [6.0, 5.0], [90.0, 90.0]]), (3, 3, 2))
    shots = np.full((3, 3), -1)
    kinds = ["ally", "enemy", "enemy"]
    # all bodies: 90 x 87 units, and 4 % of 90 on all sides; below it 30 and 48 pixels
    whole = draw(tmp_path, positions, kinds, shots=shots, bounds=None)[0]
    assert whole.shape == (round(560 * (87 + 7.2) / (90 + 7.2)) + 78, 560, 3)
    shots[2, 0] = 1
    frame = draw(tmp_path, positions, kinds, shots=shots, bounds=None)[0]
    assert frame.shape == (392 + 78, 560, 3)
    # x: 1 to 7, and 4 % of 6 on both sides; y: 0.7 of that about 5
    x0, x1 = 1 - 0.24, 7 + 0.24
    bounds = (x0, 5 - 0.35 * (x1 - x0), x1, 5 + 0.35 * (x1 - x0))
    assert is_close(pixel(frame, 2.7, 5, bounds), BLUE)
    assert is_close(pixel(frame, 6.7, 5, bounds), VERMILION)


def test_a_long_episode_is_thinned_out_to_its_last_frame(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(scene, "FRAMES", 4)
    positions = np.stack([np.linspace(1, 9, 31), np.full(31, 5.0)], -1)[:, None]
    frames = draw(tmp_path, positions, ["ally"])
    assert (
        len(frames) == 4
        and is_close(pixel(frames[0], 0.3, 5), BLUE)
        and is_close(pixel(frames[3], 8.3, 5), BLUE)
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"positions": np.zeros((2, 2))},
            r"field 'positions': expected \[T\+1, K, 2\], found \(2, 2\)",
        ),
        (
            {"positions": np.full((2, 1, 2), np.nan)},
            "field 'positions': expected finite numbers, found 4 that are not",
        ),
        ({"kinds": ["agent"] * 2}, "field 'kinds': expected 1 names, found 2"),
        (
            {"kinds": ["dog"]},
            "field 'kinds': expected names among agent, ally, enemy, prey, forest, .* found dog",
        ),
        ({"radii": [0.0]}, r"field 'radii': expected 1 positive numbers, found \[0.0\]"),
        ({"rewards": [0.0, 0.0]}, "field 'rewards': expected 1 steps, found 2"),
        ({"health": np.ones((1, 2))}, r"field 'health': expected shape \(2, 1\), found \(1, 2\)"),
        ({"shots": np.zeros((1, 1))}, r"field 'shots': expected shape \(2, 1\), found \(1, 1\)"),
        (
            {"walls": [[1, 0, 0, 1]]},
            r"field 'walls': expected rectangles .* found \[\[1.0, 0.0, 0.0, 1.0\]\]",
        ),
        ({"walls": [[1, 0]]}, "field 'walls': expected rectangles"),
        (
            {"bounds": (0, 0, 0, 1)},
            r"field 'bounds': expected \(x0, y0, x1, y1\) .* found \(0, 0, 0, 1\)",
        ),
    ],
)
def test_a_wrong_argument_is_named(tmp_path: Path, change: dict[str, Any], message: str):
    good = {"positions": np.zeros((2, 1, 2)), "kinds": ["agent"], "radii": [1.0], "rewards": [0.0]}
    with pytest.raises(ValueError, match=message):
        scene_gif(path=tmp_path / "a.gif", **{**good, **change})


# ------------------------------------------------------------------------------------------- worlds

PARTICLES = [
    (make_spread(), ["agent"] * 3 + ["landmark"] * 3),
    (make_spread(2, 1, False), ["agent"] * 2 + ["goal"] * 2),
    (make_tag("still"), ["agent"] * 3 + ["prey"] + ["obstacle"] * 2),
    (make_world("still"), ["agent"] * 3 + ["prey", "obstacle", "food", "food", "forest", "forest"]),
    (make_sit("CN_4ls4l"), ["agent"] * 4 + ["landmark"] * 4),
    (make_sit("PP_3p1p"), ["agent"] * 3 + ["prey"]),
]


@pytest.mark.parametrize(
    ("env", "kinds"), PARTICLES, ids=lambda value: getattr(getattr(value, "spec", None), "name", "")
)
def test_a_particle_worlds_picture_has_its_bodies_where_they_are(env: Any, kinds: list[str]):
    state, seen = env.reset(KEY)
    shown = env.picture.positions(np.asarray(seen.state)[None])
    assert (
        list(env.picture.kinds) == kinds
        and env.picture.radii.shape == (len(kinds),)
        and shown.shape == (1, len(kinds), 2)
    )
    dim = state.positions.shape[-1]
    np.testing.assert_allclose(shown[0, :, :dim], state.positions, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(shown[0, :, dim:], 0.0)


def test_an_episode_of_spread_becomes_a_gif(tmp_path: Path):
    env = make_spread()
    frames = frames_of(episode_gif(env, random_policy(env.spec), 1, tmp_path / "spread.gif"))
    assert len(frames) == 26  # the reset and 25 steps
    # 0.7 of a disc of radius 0.15 in a world of less than 8 is at least 200 pixels
    for colour in (BLUE, VERMILION, GREEN):
        assert (np.abs(frames[0] - colour).max(-1) < 12).sum() > 200


def test_an_episode_of_a_battle_becomes_a_gif(tmp_path: Path):
    env = make_smax("smax", "3m")
    path = episode_gif(env, random_policy(env.spec), 0, tmp_path / "3m.gif", sampled=True)
    frames = frames_of(path)
    assert 2 <= len(frames) <= 61
    for colour in (BLUE, VERMILION):
        assert (np.abs(frames[0] - colour).max(-1) < 12).sum() > 100


def test_a_battles_picture_has_units_in_map_units_and_the_dead_without_health():
    env = make_smax("smax", "3m")
    state, seen = env.reset(KEY)
    picture = env.picture
    assert isinstance(picture, ScenePicture) and picture.health is not None
    assert picture.kinds == ("ally",) * 3 + ("enemy",) * 3
    np.testing.assert_allclose(picture.radii, 0.375, rtol=1e-6)  # marines
    np.testing.assert_allclose(
        picture.positions(np.asarray(seen.state)[None])[0], state.state.unit_positions, rtol=1e-5
    )
    dead = env.game.global_state(
        state.replace(state=state.state.replace(unit_alive=state.state.unit_alive.at[4].set(False)))
    )
    np.testing.assert_array_equal(picture.health(np.asarray(dead)[None]), [[1, 1, 1, 1, 0, 1]])


def test_a_unit_has_shot_if_its_cooldown_did_not_just_run_down():
    env = make_smax("smax", "3m")  # three marines on each side, which wait 0.61 s after a shot
    wait, targets = np.zeros((3, 6)), np.zeros((3, 6))
    wait[1, [0, 3, 1]] = np.array([0.5, 0.3, 0.11]) / 0.61
    wait[0, 1] = 1.0  # 0.61 - 0.5 = 0.11: it did not shoot
    wait[2, 0] = 0.0
    # actions 5 + j: an ally attacks enemy j, an enemy the allies from the last one backwards
    targets[1:, 0], targets[1:, 3], targets[1:, 1] = 6 / 7, 5 / 7, 7 / 7
    moves, state = np.zeros((3, 12)), [np.ones((3, 6)), np.zeros((3, 12)), wait]
    shots = env.game.shots(np.concatenate([*state, moves, targets, np.zeros((3, 36))], 1))
    assert shots.tolist() == [[-1] * 6, [4, -1, -1, 2, -1, -1], [-1] * 6]


def test_who_won_follows_from_the_last_state():
    env = make_smax("smax", "3m")
    alive = {
        "allies won": (1, 0),
        "enemies won": (0, 1),
        "time ran out": (1, 1),
        "all are dead": (0, 0),
    }
    for words, (allies, enemies) in alive.items():
        state = np.concatenate([np.repeat([allies, enemies], 3), np.zeros(72)])[None]
        assert result_of(env, env.picture, state) == words
    grid = make_spread()
    assert result_of(grid, grid.picture, np.zeros((1, grid.spec.state_size))) == ""


def test_a_maze_is_drawn_as_its_map_is_printed(tmp_path: Path):
    # rows  #####  #G..#  ###.#  #...#  #####: the mass is in the last row but one, at the left
    env = make_maze("maze/umaze")
    state = np.array(
        [[3.0 - OFFSET, 1.0 - OFFSET, 0, 0], [3.0 - OFFSET, 2.0 - OFFSET, 0, 0]], np.float32
    )
    frames = frames_of(
        write_gif(env, Episode(state, np.zeros((1, 1, 2)), np.zeros(1)), tmp_path / "maze.gif")
    )
    # a fifth of a unit to the left and upwards is where D4RL has the cells; of the outer walls 0.3
    # is seen, so 3.6 in all
    bounds = (0.0, 0.0, 3.6, 3.6)
    centre = lambda row, column: (0.3 + column - 0.5, 3.6 - (0.3 + row - 0.5))
    for row, column in ((1, 2), (1, 3), (2, 3), (3, 3)):
        assert is_close(pixel(frames[0], *centre(row, column), bounds), WHITE), (row, column)
    assert is_close(pixel(frames[0], *centre(2, 2), bounds), DARK) and is_close(
        frames[0][10, 10], DARK
    )
    left = np.array([0.075, 0.0])  # beside the number on a disc of radius 0.1
    assert is_close(pixel(frames[0], *(centre(3, 1) - left), bounds), BLUE) and is_close(
        pixel(frames[1], *(centre(3, 2) - left), bounds), BLUE
    )
    x, y = centre(1, 1)
    # the goal is at (1, 1) itself, and pays within 0.5
    assert is_close(pixel(frames[0], x + 0.2, y - 0.2 - 0.49, bounds), BLUE)


def test_an_environment_without_a_picture_gives_no_gif(tmp_path: Path):
    env = make_matrix("matrix/none", np.eye(2))
    assert episode_gif(env, random_policy(env.spec), 0, tmp_path / "none.gif") is None and not list(
        tmp_path.iterdir()
    )
