"""Ways to train a behaviour policy: their settings fit, and their page tells what was measured."""

from __future__ import annotations

import jax
import numpy as np
import pytest
from jaxoff.experiments.bench import teaching
from jaxoff.experiments.bench.teaching import Point

from jaxoff import registry
from jaxoff.config import resolve_config
from jaxoff.data.worlds import check_pooled
from jaxoff.names import Task


@pytest.mark.parametrize("way", teaching.WAYS)
def test_every_way_makes_a_learner_and_all_train_for_the_same_number_of_steps(way):
    env, module = check_pooled(teaching.SCENARIO).env(), registry.online_learner("mappo")
    task = Task.parse(f"{teaching.SCENARIO}/pool")
    config = resolve_config(module, task, teaching.BASE | teaching.WAYS[way].settings)
    module.make(config, env.spec, env.script)
    assert config.iterations * config.num_envs * config.segment == 400 * 128 * 64
    assert (float(config.clone) > 0) == ("no script" not in way)
    assert teaching.WAYS[way].weak_enemies == ("weak enemies" in way)


def test_weak_enemies_start_with_less_health_and_allies_do_not():
    game = check_pooled(teaching.SCENARIO).env().game
    weak = teaching._WeakEnemies(game)
    full, less = (np.asarray(x.start(jax.random.key(0)).state.unit_health) for x in (game, weak))
    np.testing.assert_allclose(less[:5], full[:5])
    np.testing.assert_allclose(less[5:], 0.8 * full[5:])
    assert weak.num_enemies == 6


def test_the_page_tells_when_a_share_of_the_battles_was_first_won_and_reads_its_own_table(tmp_path):
    wins = (0.0, 0.3, 0.55, 0.5)
    points = [Point("slow", 100 * k, k / 2, share, "1 core", "abc") for k, share in enumerate(wins)]
    points += [Point("never, at all", 100 * k, k / 2, 0.1, "1 core", "abc") for k in range(2)]
    made = teaching.write(points, tmp_path)
    assert teaching._read(tmp_path / "teaching.csv") == points
    assert [path.suffix for path in made] == [".csv", ".md", ".png", ".svg"]
    page = (tmp_path / "teaching.md").read_text()
    assert "1 core; seed 0; command" in page
    assert "| slow | 300 | 1.5 | 0.50 | 0.55 | 100 (0.5 min) | 200 (1.0 min) | abc |" in page
    assert "| never, at all | 100 | 0.5 | 0.10 | 0.10 | no | no | abc |" in page
    assert page.endswith("Not trained yet: " + "; ".join(teaching.WAYS) + ".\n")


def test_a_training_is_kept_until_the_table_has_it_and_is_not_made_again(tmp_path, monkeypatch):
    trained: list[str] = []

    def once(way, kept):
        trained.append(way)
        kept.touch()
        return [Point(way, 1, 1.0, 0.5, "1 core", "abc")]

    def full(points, out):
        raise OSError("no space left")

    monkeypatch.setattr(teaching, "trained", once)
    with monkeypatch.context() as patch:
        patch.setattr(teaching, "write", full)
        with pytest.raises(OSError, match="no space"):
            teaching.run(tmp_path, ["memory"])
    assert (tmp_path / ".teaching-memory.unfinished.npz").exists()
    for ways in (["memory"], ["memory", "two layers"]):
        teaching.run(tmp_path, ways)
    assert trained == ["memory", "memory", "two layers"]
    assert not list(tmp_path.glob("*.npz")) and not list(tmp_path.glob(".*.npz"))
