"""The card of a dataset: a README.md with a picture, and Croissant metadata in croissant.json.

`write` puts them into a dataset's folder, `files` gives them as text. What they tell comes from the
metadata and the arrays of the dataset alone.
"""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jaxoff.data import croissant, inspect
from jaxoff.data.families import BUILT_IN
from jaxoff.data.vault import flatten, shape_of
from jaxoff.errors import InvalidSetting
from jaxoff.files import write_text
from jaxoff.names import Task, UnknownName
from jaxoff.types import EnvSpec, Episodes

README, CROISSANT, PICTURE = "README.md", "croissant.json", "card.png"
LICENSE = "apache-2.0"  # of jaxoff's recipes and pools, which make a dataset again
MEANINGS = {  # of the arrays of a Vault; M steps of all episodes, one after the other
    "observations": "what each agent observes before a step",
    "actions": "the action of each agent",
    "rewards": "the reward of each agent; the team's reward is their mean",
    "terminals": "1 where a step ends the episode and the value beyond is zero",
    "truncations": "1 where a time limit ends the episode",
    "infos.state": "the global state before a step",
    "infos.legals": "1 for each action that is available to each agent",
}
_WORDS = {  # what is not said by the name of a statistic
    "joint_saco": "distinct pairs of state and joint action, as a share of all steps",
    "unique_episodes": "episodes that are not copies of an earlier one, as a share",
    "share_terminated": "episodes that ended by the rules, as a share",
    "share_truncated": "episodes that the time limit ended, as a share",
    "device_mb": "size on a device, in MB",
    "return_std": "return, standard deviation",
    "transitions": "steps",
}
_TAGS = ("reinforcement-learning", "offline-reinforcement-learning", "multi-agent", "jaxoff")


@dataclasses.dataclass(frozen=True)
class About:
    """What a card tells of a dataset, beside its metadata.

    found: the numbers of `inspect.describe`. license: an SPDX name in small letters, "" where it is
    not known. address: the dataset's page in the web, "" where it has none.
    """

    spec: EnvSpec
    metadata: Mapping[str, Any]
    found: Mapping[str, Any]
    license: str = ""
    address: str = ""

    @property
    def task(self) -> Task | None:
        """The task that it is the dataset of; None if it is made of other data."""
        try:
            return Task.parse(str(self.metadata.get("recipe", "")))
        except UnknownName:
            return None

    @property
    def title(self) -> str:
        """The task that it is the dataset of, or else its environment."""
        return str(self.task or self.metadata.get("env", self.spec.name))

    @property
    def command(self) -> str:
        """What makes it again; "" where nothing does."""
        return str(self.metadata.get("command", "")) if self.has_recipe else ""

    @property
    def has_recipe(self) -> bool:
        """Whether jaxoff has played it, and plays it again from its seed."""
        return self.task is not None and not self.task.source

    @property
    def arrays(self) -> list[dict[str, str]]:
        """Name, shape, dtype, meaning and SHA-256 of each array of the main vault."""
        shapes = flatten(self.metadata["structure_shape"])
        dtypes = flatten(self.metadata["structure_dtype"])
        hashes = self.metadata.get("sha256", {})
        return [
            {
                "name": name,
                "shape": ", ".join(map(str, shape_of(shape))),
                "dtype": str(dtypes[name]),
                "meaning": MEANINGS.get(name, ""),
                "sha256": hashes.get(name, ""),
            }
            for name, shape in shapes.items()
        ]

    @property
    def summary(self) -> str:
        """What the dataset is, in one paragraph."""
        found, spec = self.found, self.spec
        vector = f"a vector of {spec.action_size} real numbers"
        kind = f"one of {spec.action_size} choices" if spec.discrete else vector
        most = found["length_max"]
        longer = f" in evaluations, and {most} in these data" if most > spec.horizon else ""
        return (
            f"{found['episodes']:,} episodes with {found['transitions']:,} steps of a team of "
            f"{spec.num_agents} agent{'s' * (spec.num_agents != 1)} in the environment "
            f"{spec.name}, for offline multi-agent reinforcement learning. An action of an agent "
            f"is {kind}. The time limit is {spec.horizon} step{'s' * (spec.horizon != 1)}{longer}. "
            f"The return of an episode is {found['return_mean']:.4g} on average, between "
            f"{found['return_min']:.4g} and {found['return_max']:.4g}."
        )

    @property
    def origin(self) -> str:
        """How the dataset was made, in one paragraph."""
        seed = self.metadata.get("seed", 0)
        if self.task is not None and self.task.source:
            return (
                f"The episodes are those of the public dataset {self.task}, as jaxoff reads them "
                "from its authors' files."
            )
        if self.task is not None:
            pool = self.metadata.get("pool")
            who = (
                f"the policies of the pool {pool['name']} (SHA-256 {pool['sha256'][:16]}...)"
                if pool
                else "the behaviour that the recipe defines"
            )
            return (
                f"The episodes were played in simulation by {who}, as the recipe {self.task} "
                f"composes them, with random seed {seed}."
            )
        if "made_from" in self.metadata:
            how = self.metadata.get("made_by", {}).get("command", "combine")
            parts = ", ".join(str(part.get("name")) for part in self.metadata["made_from"])
            return f"`jaxoff data {how}` made it of these datasets: {parts}."
        return "The origin of the episodes is not recorded."

    @property
    def versions(self) -> str:
        """The programs that wrote it, in one line."""
        made = self.metadata.get("made_with", {})
        return ", ".join(f"{name} {version}" for name, version in made.items()) or "unknown"


def about(
    episodes: Episodes,
    spec: EnvSpec,
    metadata: Mapping[str, Any],
    won: Any = None,
    license: str = "",
    address: str = "",
) -> About:
    """What a card tells; won: as for `inspect.describe`."""
    told = About(spec, metadata, inspect.describe(episodes, spec, won), license, address)
    task, known = told.task, {family.name for family in BUILT_IN}
    ours = task is not None and not task.source and task.family in known
    return dataclasses.replace(told, license=license or (LICENSE if ours else ""))


def write(folder: Path, told: About, episodes: Episodes) -> None:
    """Write README.md, croissant.json and card.png into the folder of a dataset."""
    inspect.plot(episodes, told.spec, folder / PICTURE, kinds=("png",))
    for name, text in texts(folder, told).items():
        write_text(folder / name, text)


def texts(folder: Path, told: About) -> dict[str, str]:
    """Name -> content of the card's two text files; folder: of the dataset."""
    described = croissant.describe(told, (folder / "metadata.json").read_bytes())
    return {
        README: _readme(told),
        CROISSANT: json.dumps(described, indent=1, ensure_ascii=False) + "\n",
    }


def _readme(told: About) -> str:
    """The card in Markdown."""
    made = [told.origin]
    if told.command:
        made += ["", f"    {told.command}", "", "makes it again."]
    rows = [f"| {name} | {value} |" for name, value in _numbers(told.found)]
    arrays = [
        f"| `{a['name']}` | {a['shape']} | {a['dtype']} | {a['meaning']} |" for a in told.arrays
    ]
    used = [croissant.biases(told), croissant.limitations(told), croissant.personal(told)]
    return "\n".join(
        [
            *front_matter(told.license, pretty_name=told.title, viewer=False),
            f"# {told.title}",
            "",
            told.summary,
            *("", "## How it was made", "", *made, "", f"Written by: {told.versions}."),
            *("", "## What is in it", "", "| statistic | value |", "|---|---|", *rows),
            *("", f"![Returns, lengths and actions]({PICTURE})"),
            *("", "## Files", "", croissant.FILES, ""),
            *("| array | shape | dtype | meaning |", "|---|---|---|---|", *arrays),
            *("", "## How to use it", "", "    import jaxoff", ""),
            '    results = jaxoff.train(jaxoff.TrainSpec("bc", "PATH/TO/THIS/FOLDER"))',
            *("", "or, on the command line, `jaxoff train bc PATH/TO/THIS/FOLDER`."),
            *("", "## What to keep in mind", "", *(f"- {text}" for text in used)),
            *("", f"`{CROISSANT}` has the same for programs, in the Croissant format.", ""),
        ]
    )


def front_matter(license: str, **fields: str | bool) -> list[str]:
    """The lines before the title of a card, in YAML, which Hugging Face reads.

    Raises InvalidSetting for a license that is no SPDX name.
    """
    if license and not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9.+-]*", license):
        raise InvalidSetting(
            f"field 'license': expected an SPDX name, such as cc-by-4.0, found {license!r}"
        )
    lines = [f"{name}: {json.dumps(value)}" for name, value in fields.items()]
    known = [f"license: {license}"] if license else []
    return ["---", *lines, *known, "tags:", *(f"- {tag}" for tag in _TAGS), "---"]


def _numbers(found: Mapping[str, Any]) -> list[tuple[str, str]]:
    """The statistics that are one number each, for a table."""
    return [
        (
            _WORDS.get(name, name.replace("_", " ")),
            f"{value:,}" if isinstance(value, int) else f"{value:.4g}",
        )
        for name, value in found.items()
        if isinstance(value, int | float)
    ]
