"""The pytrees that everything passes, and the three contracts: learner, stage, sampler.

Letters: E episodes, T steps, N agents, O observation, S state, A actions (number of them, or
dimensions of one), B batch, R runs. Agents are an axis, never a dictionary; heterogeneous sizes are
padded, with the true sizes in `EnvSpec`.
"""

from __future__ import annotations

import dataclasses
import importlib
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

if TYPE_CHECKING:
    from pathlib import Path

    import jax
    import numpy as np

    Array = jax.Array
    Key = jax.Array
Params = Any
State = Any
Carry = Any
# A distribution over actions has sample(seed=, sample_shape=), log_prob(actions) and mode(); one
# over indices also has logits and probs. `jaxoff/distributions.py` makes them.
Distribution = Any


def __getattr__(name: str) -> Any:
    """`Array` and `Key`: JAX is imported when one of them is first used (PEP 562)."""
    if name not in ("Array", "Key"):
        raise AttributeError(f"module 'jaxoff.types' has no attribute '{name}'")
    import jax

    return jax.Array


class ReturnScale(NamedTuple):
    """Two reference returns, for normalised scores: 0 at `low`, 100 at `high`."""

    low: float
    high: float
    source: str  # what the two returns are and where they come from


@dataclasses.dataclass(frozen=True)
class EnvSpec:
    """What a learner may know about an environment; static and hashable.

    `payoff` is the reward of a joint action where that is known exactly (stateless games); a
    learner may use it as its critic, as Tilbury et al. (2024) do.
    """

    name: str
    num_agents: int
    obs_size: int
    state_size: int
    action_size: int
    discrete: bool
    horizon: int
    obs_sizes: tuple[int, ...] = ()  # true sizes per agent, where they are padded
    action_sizes: tuple[int, ...] = ()
    agent_types: tuple[int, ...] = ()  # equal numbers: same kind of agent
    action_bound: float = 1.0  # continuous actions lie in [-bound, bound]
    return_scale: ReturnScale | None = None
    payoff: Callable[[Array], Array] | None = dataclasses.field(default=None, compare=False)
    # steps of the longest episode in the dataset that a learner is made for; 0 without a dataset
    longest: int = 0
    # the name of each number in agent_types, such as the unit, where kinds have names
    type_names: tuple[str, ...] = dataclasses.field(default=(), compare=False)

    @property
    def max_steps(self) -> int:
        """Largest number of steps of an episode: the environment's time limit, or more where the
        data have longer episodes.
        """
        return max(self.horizon, self.longest)

    @property
    def action_shape(self) -> tuple[int, ...]:
        """Shape of one joint action: [N] of indices, or [N, A] of reals."""
        return (self.num_agents,) if self.discrete else (self.num_agents, self.action_size)


# Logit or value of an unavailable action: no output of a net is below it.
# Differences of such numbers are finite, sums are not, so losses read them through `taken` and
# `available_logsumexp` (jaxoff/losses).
UNAVAILABLE = -(2.0**128 - 2.0**104)  # the least float32


class TimeStep(NamedTuple):
    """Observations, state and reward after a reset or a step. Leading axes are free.

    `terminated` means that the value beyond is zero; `truncated` that the time limit ended the
    episode.
    """

    obs: Array  # [..., N, O]
    state: Array  # [..., S]
    avail: Array  # [..., N, A] float, 1 where an action is available (all ones if continuous)
    reward: Array  # [...] team reward of the step just made; 0 after a reset
    terminated: Array  # [...] bool
    truncated: Array  # [...] bool
    last_actions: Array  # [..., N] int, -1 after a reset; or [..., N, A] float, 0 after a reset
    # [..., N] where agents have rewards of their own; `reward` is then their mean
    agent_reward: Array | None = None


class Episodes(NamedTuple):
    """Episodes padded to the longest.

    Slot t of a [T+1] field is observed before step t; slot L after the last step.

    `filled` is 1 for the L real steps of an episode and 0 after them.
    """

    obs: np.ndarray  # [E, T+1, N, O]
    state: np.ndarray  # [E, T+1, S]
    avail: np.ndarray  # [E, T+1, N, A]
    actions: np.ndarray  # [E, T, N] int or [E, T, N, A] float
    reward: np.ndarray  # [E, T]
    terminated: np.ndarray  # [E, T] bool
    truncated: np.ndarray  # [E, T] bool
    filled: np.ndarray  # [E, T] bool
    behaviour_level: np.ndarray  # [E, N] int, for plots only; -1 where unknown
    # [E, T, N] where agents have rewards of their own; `reward` is then their mean
    agent_reward: np.ndarray | None = None

    @classmethod
    def from_steps(
        cls,
        obs: Any,
        actions: Any,
        reward: Any,
        done: Any = None,
        *,
        terminated: Any = None,
        truncated: Any = None,
        state: Any = None,
        avail: Any = None,
        next_obs: Any = None,
        next_state: Any = None,
        next_avail: Any = None,
        num_actions: int | None = None,
        horizon: int | None = None,
    ) -> Episodes:
        """Episodes from flat arrays of M consecutive steps, cut where episodes end.

        Agents are the second axis, or a dictionary of arrays by agent, which are padded to the
        largest; arrays without that axis are of a single agent. obs [M, N, O]. actions: choices
        [M, N] of integers, or reals [M, N, A] of floats; whole floats [M, N, 1] are choices where
        avail or num_actions is given. reward: [M] of the team, or [M, N], whose mean is
        the team's. Flags 0 or 1, of the team or of each agent: an episode ends where all agents are
        done, and terminates where all are terminated. done: an end is terminal, but one after
        `horizon` steps is the time limit's, where that is given. terminated, truncated: say so
        themselves. The last step always ends an episode, and is truncated if no flag is set.

        state [M, S]: by default all observations side by side. avail [M, N, A]: choices that are
        available, by default all. num_actions: their number, by default that of avail, or the
        largest choice and one more. next_obs, next_state, next_avail: after each step; without
        them, what follows the last step of an episode is what was before it.

        Raises InvalidEpisodes naming the field.
        """
        arrays = dict(locals())
        del arrays["cls"]
        return _own_data().from_steps(arrays)

    @classmethod
    def from_minari(cls, source: Any) -> Episodes:
        """Episodes of one agent from a Minari dataset.

        source: a dataset of the package `minari`, the name of one, or a folder with
        data/main_data.hdf5, which is read without that package. Parts of an observation are put
        side by side, in the order of their names. Raises InvalidEpisodes, FileNotFoundError, or
        MissingProgram where the package is needed and not installed.
        """
        return _own_data().from_minari(source)

    @classmethod
    def from_vault(cls, path: str | Path) -> Episodes:
        """Episodes of a flashbax Vault, jaxoff's own or another program's: NAME.vlt/UID.

        Raises InvalidDataset or InvalidEpisodes naming the file or array.
        """
        return importlib.import_module("jaxoff.data.disk").load(path)[0]


def _own_data() -> Any:
    # The types stand below the readers, which are imported when they are called.
    return importlib.import_module("jaxoff.data.own")


class Transition(NamedTuple):
    """A batch of steps: leading axes [B] for single steps, [B, T] for windows and episodes.

    `valid` is 0 on padding, and every mean over a batch is a mean over valid steps. `steps_before`
    counts the real steps before this one in its episode; `episode` is the number of the episode.
    """

    obs: Array  # [..., N, O]
    state: Array  # [..., S]
    avail: Array  # [..., N, A]
    actions: Array  # [..., N] int or [..., N, A] float
    reward: Array  # [...]
    terminated: Array  # [...] float 0/1
    truncated: Array  # [...] float 0/1
    valid: Array  # [...] float 0/1
    steps_before: Array  # [...] int
    episode: Array  # [...] int
    next_obs: Array  # [..., N, O]
    next_state: Array  # [..., S]
    next_avail: Array  # [..., N, A]
    # [..., N] where agents have rewards of their own; `reward` is then their mean
    agent_reward: Array | None = None
    # [...] int, the agent whose trajectory it is, where a sampler draws single agents' trajectories
    agent: Array | None = None
    weight: Array | None = None  # [..., N] of agents' steps in a loss, where a sampler weighs them
    # [..., N] int, -1 at the first step of an episode; or [..., N, A] float, 0 there
    last_actions: Array | None = None


class Policy(NamedTuple):
    """A joint policy with decentralised execution.

    initial(batch_shape) -> carry: memory at the start of an episode.
    distribution(carry, timestep) -> (carry, dist): dist is over actions, indices [..., N] or reals
    [..., N, A]. Leading axes of timestep equal batch_shape.
    """

    initial: Callable[[tuple[int, ...]], Carry]
    distribution: Callable[[Carry, TimeStep], tuple[Carry, Distribution]]


class Out(NamedTuple):
    """Output of an update: scalars to log, and one number per batch item for a sampler that uses
    it.
    """

    metrics: dict[str, Array]
    signal: Array | None = None


class Learner(NamedTuple):
    """A method, as a pair of functions and a view of its state.

    init(key) -> state; update(state, batch, key) -> (state, Out), one gradient step;
    policy(state) -> Policy, which is evaluated; target_policy(state), that of the target network
    where there is one.
    """

    init: Callable[[Key], State]
    update: Callable[[State, Transition, Key], tuple[State, Out]]
    policy: Callable[[State], Policy]
    target_policy: Callable[[State], Policy] | None = None


class Feedback(NamedTuple):
    """What a sampler receives after an update."""

    items: Array  # [B] the items of the batch
    signal: Array | None  # [B] the update's Out.signal
    policy: Policy  # after the update: the target policy where the learner has one
    updates: Array  # [] updates made, this one included
    key: Key
    online: Policy | None = None  # after the update: the policy that is trained


class Sampler(NamedTuple):
    """The choice of the dataset items that make a batch; independent of the method.

    init(dataset) -> state; draw(state, dataset, key) -> items [B] int, or whatever its gather
    takes; gather(dataset, items) -> batch; feedback(state, dataset, Feedback) -> state, or None for
    a sampler whose state never changes: the draws of a whole chunk are then made in one call.
    """

    init: Callable[[Any], Any]
    draw: Callable[[Any, Any, Key], Array]
    gather: Callable[[Any, Array], Transition]
    feedback: Callable[[Any, Any, Feedback], Any] | None = None


class Stage(NamedTuple):
    """A part of training with its own learner. A method that pre-trains is a tuple of stages.

    prepare(previous, dataset, key) -> state: the learner's initial state, where `previous` is the
    final state of the stage before. None stands for learner.init(key).
    sampler(state) -> Sampler: the stage's own, which may use what `prepare` computed; None stands
    for the sampler that the user chose. reports: number of times that a stage before the last logs
    its metrics.
    """

    name: str
    learner: Learner
    steps: int
    prepare: Callable[[State, Any, Key], State] | None = None
    sampler: Callable[[State], Sampler] | None = None
    reports: int = 10


class Env(Protocol):
    """An environment on stacked arrays. No hidden auto-reset: the rollout decides."""

    spec: EnvSpec

    def reset(self, key: Key) -> tuple[State, TimeStep]:
        """Start an episode."""
        ...

    def step(self, key: Key, state: State, actions: Array) -> tuple[State, TimeStep]:
        """Make one joint step; actions [N] int or [N, A] float."""
        ...
