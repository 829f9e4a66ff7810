"""OMAR's particle worlds, one body and one rule at a time, in plain Python and double precision: a
check of the vectorised ones.

A body is a dictionary; a body with `accel` has its action multiplied by it twice, one without by 5,
once.
"""

from __future__ import annotations

import math

import numpy as np


def bodies(world: str, count: int = 3) -> list[dict]:
    """The bodies of "spread" (of `count` agents), "tag" or "world", those that move first."""
    if world == "spread":
        agents = [{"size": 0.15, "collide": True, "moves": True} for _ in range(count)]
        return agents + [{"size": 0.05, "collide": False, "moves": False} for _ in range(count)]
    predators = [
        {"size": 0.075, "collide": True, "moves": True, "accel": 3.0, "top": 1.0} for _ in range(3)
    ]
    prey = {
        "size": 0.05 if world == "tag" else 0.045,
        "collide": True,
        "moves": True,
        "accel": 4.0,
        "top": 1.3,
    }
    if world == "tag":
        rest = [{"size": 0.2, "collide": True, "moves": False} for _ in range(2)]
    else:
        rest = [{"size": 0.2, "collide": True, "moves": False}]
        rest += [{"size": 0.03, "collide": False, "moves": False} for _ in range(2)]
        rest += [{"size": 0.3, "collide": False, "moves": False} for _ in range(2)]
    return [*predators, prey, *rest]


def distance(a: np.ndarray, b: np.ndarray) -> float:
    return math.sqrt(sum((x - y) ** 2 for x, y in zip(a, b, strict=True)))


def softplus(x: float) -> float:
    return x + math.log1p(math.exp(-x)) if x > 0 else math.log1p(math.exp(x))


def step(
    kinds: list[dict], positions: np.ndarray, velocities: np.ndarray, actions: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """(positions, velocities) after one step."""
    force = []
    for body, action in zip(kinds, actions, strict=False):
        u = np.asarray(action, float) * body.get("accel", 5.0)
        force.append(u * body.get("accel", 1.0))
    for a in range(len(kinds)):
        for b in range(a + 1, len(kinds)):
            if not (kinds[a]["collide"] and kinds[b]["collide"]):
                continue
            delta = positions[a] - positions[b]
            far = distance(positions[a], positions[b])
            depth = 1e-3 * softplus(-(far - kinds[a]["size"] - kinds[b]["size"]) / 1e-3)
            push = 100.0 * delta / far * depth if far > 0 else 0.0 * delta
            if kinds[a]["moves"]:
                force[a] = force[a] + push
            if kinds[b]["moves"]:
                force[b] = force[b] - push
    positions, velocities = np.array(positions, float), np.array(velocities, float)
    for i in range(len(velocities)):
        velocities[i] = velocities[i] * (1 - 0.25) + force[i] * 0.1
        speed = math.sqrt(float((velocities[i] ** 2).sum()))
        if speed > kinds[i].get("top", math.inf):
            velocities[i] = velocities[i] / speed * kinds[i]["top"]
        positions[i] = positions[i] + velocities[i] * 0.1
    return positions, velocities


def touching(kinds: list[dict], positions: np.ndarray, a: int, b: int) -> bool:
    return distance(positions[a], positions[b]) < kinds[a]["size"] + kinds[b]["size"]


def spread_rewards(kinds: list[dict], positions: np.ndarray) -> list[float]:
    """Reward of each agent."""
    count = len(kinds) // 2
    common = 0.0
    for landmark in range(count, 2 * count):
        nearest = min(distance(positions[j], positions[landmark]) for j in range(count))
        common += min(1 / nearest, 10) if nearest > 0 else 10
    return [
        common - 5 * sum(touching(kinds, positions, i, j) for j in range(count) if j != i)
        for i in range(count)
    ]


def chase_rewards(world: str, kinds: list[dict], positions: np.ndarray) -> tuple[float, float]:
    """(reward of each predator, reward of the prey)."""
    pay = 10 if world == "tag" else 5
    team = prey = 0.0
    for i in range(3):
        far, hit = distance(positions[i], positions[3]), touching(kinds, positions, i, 3)
        team += pay * hit - 0.1 * far
        prey += 0.1 * far - pay * hit
    for x in abs(positions[3]):
        bound = 0.0 if x < 0.9 else (x - 0.9) * 10 if x < 1.0 else min(math.exp(2 * x - 2), 10)
        prey -= bound if world == "tag" else 2 * bound
    if world == "world":
        prey += 2 * sum(touching(kinds, positions, 3, food) for food in (5, 6))
        prey += 0.05 * min(distance(positions[3], positions[food]) for food in (5, 6))
    return team, prey


def observation(
    world: str, kinds: list[dict], positions: np.ndarray, velocities: np.ndarray, i: int
) -> np.ndarray:
    """What body i sees."""
    movers = sum(body["moves"] for body in kinds)
    seen = [velocities[i], positions[i]]
    seen += [positions[k] - positions[i] for k in range(movers, len(kinds))]
    seen += [positions[j] - positions[i] for j in range(movers) if j != i]
    if world == "spread":
        seen += [np.zeros(2) for j in range(movers) if j != i]
    elif i != 3:
        seen += [velocities[3]]
    if world == "world":
        seen += [
            np.array([1.0 if touching(kinds, positions, i, forest) else -1.0]) for forest in (7, 8)
        ]
    return np.concatenate(seen)


def prey_action(params: dict, obs: np.ndarray) -> np.ndarray:
    """The prey network's action."""
    p = {name: np.asarray(value, float) for name, value in params.items()}
    x = p["scale"] * (obs - p["mean"]) / np.sqrt(p["var"] + 1e-5) + p["shift"]
    for i in (1, 2):
        x = np.maximum(x @ p[f"w{i}"] + p[f"b{i}"], 0)
    return np.tanh(x @ p["w3"] + p["b3"])
