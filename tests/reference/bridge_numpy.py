"""Bridge, one agent and one rule at a time, in plain Python and NumPy: a check of the vectorised
one.
"""

from __future__ import annotations

import numpy as np

ROWS = ["..##..", "......", "..##.."]
GOAL = [(2, 5), (0, 0)]
MOVE = {0: (0, 0), 1: (-1, 0), 2: (1, 0), 3: (0, 1), 4: (0, -1)}


def _is_free(cell: tuple[int, int]) -> bool:
    row, col = cell
    return 0 <= row < 3 and 0 <= col < 6 and ROWS[row][col] == "."


def move(
    cells: list[tuple[int, int]], done: list[bool], actions: list[int]
) -> list[tuple[int, int]]:
    """Where the two agents stand after one joint step."""
    act, target, settled = [], [], [None, None]
    for i in range(2):
        a = 0 if done[i] else actions[i]
        goal_cell = (cells[i][0] + MOVE[a][0], cells[i][1] + MOVE[a][1])
        if not _is_free(goal_cell):
            a, goal_cell = 0, cells[i]
            settled[i] = cells[i]
        act.append(a)
        target.append(goal_cell)
    for i in range(2):
        if settled[i] is None:
            _resolve(i, cells, done, act, target, settled)
    return settled


def _resolve(i: int, cells: list, done: list, act: list, target: list, settled: list) -> None:
    j = 1 - i
    if done[i] or target[i] == GOAL[i]:
        settled[i] = target[i]
    elif act[i] == 0:
        settled[i] = cells[i]
    elif done[j]:
        settled[i] = target[i]
    elif settled[j] is not None:
        settled[i] = cells[i] if target[i] == settled[j] else target[i]
    elif act[j] == 0 and target[i] == cells[j]:
        settled[i] = cells[i]
    elif target[j] == target[i]:
        settled[j], settled[i] = cells[j], target[i]
    elif target[i] == cells[j] and target[j] == cells[i]:
        settled[i], settled[j] = cells[i], cells[j]
    else:
        settled[i] = target[i]


def step(
    cells: list, done: list[bool], time: int, horizon: int, actions: list[int]
) -> tuple[list, list[bool], np.float32, bool]:
    """(cells, done, team reward, all done) after the step made at `time`."""
    after = move(cells, done, actions)
    cost, now = [], []
    for i in range(2):
        distance = np.sqrt((GOAL[i][0] - after[i][0]) ** 2 + (GOAL[i][1] - after[i][1]) ** 2)
        cost.append(np.float32(0.0 if done[i] else -0.1 * distance))
        now.append(done[i] or time + 1 == horizon or after[i] == GOAL[i])
    over = now[0] and now[1]
    return after, now, np.float32(0.0) if over else np.mean(np.array(cost, np.float32)), over
