"""The files of a trained job that are uploaded, so that others can load its policies."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from jaxoff.data import card, hub
from jaxoff.errors import InvalidSetting
from jaxoff.files import plain
from jaxoff.training.restore import Restored, restore
from jaxoff.training.results import read_config, read_final

# Names, and beginnings of names, of what is uploaded from the folder of a job.
_KEPT = ("config.json", "final.", "metrics.jsonl", "evaluations.json", "curves.", "play-")
_CHECKPOINT = "checkpoint/"
_METRICS = ("return_mean", "return_std", "score", "win_rate", "exact_value")


def policy_files(folder: str | Path, repository: str, license: str = "") -> hub.Files:
    """The files that restore the policies of a finished job, its numbers, and a card.

    The paths of the dataset and of public data in config.json are left out. license: an SPDX name.
    Raises what `restore` does, and InvalidSetting for a job that has not ended.
    """
    folder = Path(folder)
    hub.address(repository, "model")
    found = restore(folder)
    if not found.finished:
        raise InvalidSetting(f"{folder}: expected a job that has ended, found one that has not")
    config = read_config(folder)
    if "folder" in config:  # a dataset folder, whose name is that of its last parts
        parts = Path(config["folder"]).parts
        config["folder"] = "/".join((".", *parts[-2 if Path(parts[-2]).suffix == ".vlt" else -1 :]))
    config |= {"data_dir": None}
    files: dict[str, Path | bytes] = {
        name: path
        for name, path in hub.files_in(folder)
        if name.startswith(_CHECKPOINT) or ("/" not in name and name.startswith(_KEPT))
    }
    files["config.json"] = (json.dumps(plain(config), indent=1) + "\n").encode()
    files["README.md"] = _readme(folder, found, config, repository, license).encode()
    return files


def _readme(
    folder: Path, found: Restored, config: dict[str, Any], repository: str, license: str
) -> str:
    """The card of the policies, in Markdown."""
    spec, env = found.job.spec, found.spec
    runs = read_final(folder)[0]["runs"]
    swept = list(dict.fromkeys(name for run in runs for name in run.get("config", {})))
    known = [name for name in _METRICS if any(run.get(name) is not None for run in runs)]
    heads = ["run", "seed", *swept, *known]
    rows = [
        [run["run"], run["seed"], *(run["config"][name] for name in swept)]
        + ([run.get(name) for name in known] if run.get("failed_at") is None else ["failed"])
        for run in runs
    ]
    actions = "sampled actions" if spec.sampled else "the modes of the policies"
    title = f"{spec.label} on {spec.task_name}"
    return "\n".join(
        [
            *card.front_matter(license, library_name="jaxoff"),
            f"# {title}",
            "",
            f"Policies of {env.num_agents} agents that act by what each of them observes, trained "
            f"by the method `{spec.method}` on the dataset {spec.task_name} for offline "
            "multi-agent reinforcement learning. There is a policy for each run.",
            *("", "## Results", ""),
            f"The last evaluation of training, in {spec.eval_episodes} episodes per run with "
            f"{actions}:"
            if known
            else "The policies were not evaluated in training.",
            "",
            f"| {' | '.join(name.replace('_', ' ') for name in heads)} |",
            "|---" * len(heads) + "|",
            *(f"| {' | '.join(map(_cell, row))} |" for row in rows),
            *("", "## How to use them", "", "    import jaxoff"),
            "    from huggingface_hub import snapshot_download",
            "",
            f'    folder = snapshot_download("{repository}", local_dir="policy")',
            "    env, policy, spec = jaxoff.load_policy(folder, run=0)",
            *(f"    {line}" for line in _use(found)),
            *("", "## How they were trained", ""),
            f"    {config['command']}",
            "",
            f"With jaxoff, commit {config['git_commit']}, on {config['hardware']}. `config.json` "
            "has every setting.",
            "",
        ]
    )


def _use(found: Restored) -> list[str]:
    """Code that uses a policy which is loaded."""
    if hasattr(found.env, "step"):
        return ['print(jaxoff.evaluate(env, policy, episodes=100)["return_mean"])']
    return [
        "carry = policy.initial(())",
        "carry, actions = policy.distribution(carry, seen)  # seen: a jaxoff.types.TimeStep",
    ]


def _cell(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else "" if value is None else str(value)
