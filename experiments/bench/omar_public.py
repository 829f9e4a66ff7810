"""Times the authors' released OMAR (Pan et al., 2022) from a checkout of their repository, of which
nothing is here.

Their learner and their replay buffer, at their settings for particle games: for each agent a batch
is drawn from the buffer and the learner updated with it, then the slow nets, as their training loop
does. What they take from a GPU by name is taken from the CPU, and a name that newer versions of
torch lack is given back. Like `omar_torch.py` it needs torch and nothing else of the project:
`python omar_public.py REPOSITORY DATA.npz`, and prints what it found as JSON.
"""

from __future__ import annotations

import argparse
import json
import sys
from typing import Any

import numpy as np
import omar_torch  # beside this file, which is run as a script
import torch

BATCH = 1024


def on_cpu() -> None:
    """Let code that names CUDA and old torch run on a CPU."""
    torch.cuda.FloatTensor = torch.FloatTensor  # type: ignore[misc, assignment]
    torch.Tensor.cuda = lambda self, *_, **__: self  # type: ignore[method-assign, assignment]
    if not hasattr(torch.nn.utils, "clip_grad_norm"):
        torch.nn.utils.clip_grad_norm = torch.nn.utils.clip_grad_norm_
    torch.distributions.Distribution.set_default_validate_args(False)  # a spread of 0 was let pass
    clamp = torch.Tensor.clamp  # of a permuted tensor it was contiguous
    torch.Tensor.clamp = lambda self, *bounds: clamp(self, *bounds).contiguous()  # type: ignore[method-assign, assignment]


def build(data: dict[str, np.ndarray], cql: float, mimic: float) -> tuple[Any, Any]:
    """Their learner and their buffer, filled."""
    from algorithms.maddpg import MATD3
    from utils.buffer import ReplayBuffer

    rows, agents, obs = data["obs"].shape
    actions = data["actions"].shape[-1]
    sizes = {"num_in_pol": obs, "num_out_pol": actions, "num_in_critic": obs + actions}
    terms = {
        "cql": True,
        "cql_alpha": cql,
        "num_sampled_actions": 10,
        "omar": True,
        "omar_coe": mimic,
    }
    search = {
        "omar_mu": 0.0,
        "omar_sigma": 2.0,
        "omar_num_samples": 10,
        "omar_num_elites": 10,
        "omar_iters": 3,
    }
    learner = MATD3(
        [sizes] * agents,
        ["td3"] * agents,
        agent_max_actions=[1.0] * agents,
        batch_size=BATCH,
        env_id="simple_spread",
        **terms,
        **search,
    )
    learner.prep_training(device="cpu")
    buffer = ReplayBuffer(rows, agents, [obs] * agents, [actions] * agents)
    for i in range(agents):
        fields = {"obs": "obs", "actions": "ac", "reward": "rew", "next_obs": "next_obs"}
        for name, theirs in fields.items():
            getattr(buffer, f"{theirs}_buffs")[i][:] = data[name][:, i]
        buffer.done_buffs[i][:] = data["terminated"]
    buffer.filled_i = rows
    return learner, buffer


def one_round(learner: Any, buffer: Any) -> None:
    """As in their training loop."""
    for agent in range(learner.nagents):
        learner.update(buffer.sample(BATCH, to_gpu=False), agent)
    learner.update_all_targets()


def main() -> None:
    """Time rounds after a warm-up."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("repository", help="a checkout of the authors' repository")
    parser.add_argument("data", help=".npz as of omar_torch.py")
    parser.add_argument("--cql", type=float, required=True, help="weight of the conservative term")
    parser.add_argument("--mimic", type=float, required=True, help="weight of the search")
    parser.add_argument("--rounds", type=int, default=30, help="of a timing")
    parser.add_argument(
        "--repeats", type=int, default=3, help="timings, of which the fastest counts"
    )
    parser.add_argument(
        "--threads", type=int, default=1, help="of torch; 1 is the default of the authors' command"
    )
    chosen = parser.parse_args()
    on_cpu()
    torch.set_num_threads(chosen.threads)
    sys.path.insert(0, chosen.repository)
    torch.manual_seed(0)
    with np.load(chosen.data) as arrays:
        learner, buffer = build(dict(arrays), chosen.cql, chosen.mimic)
    one_round(learner, buffer)
    draw = lambda: [buffer.sample(BATCH, to_gpu=False) for _ in range(learner.nagents)]
    round_ = lambda: one_round(learner, buffer)
    times = omar_torch.timed(round_, draw, chosen.rounds, chosen.repeats)
    about = (
        f"torch {torch.__version__}, {torch.get_num_threads()} thread{'s'[: chosen.threads > 1]}"
    )
    print(json.dumps({"about": about, "rows": len(buffer)} | times))


if __name__ == "__main__":
    main()
