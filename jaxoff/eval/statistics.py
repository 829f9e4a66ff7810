"""Statistics over seeds and tasks: means, interquartile means, bootstrap intervals, Welch marks.

`Tasks` is a sequence with one array of per-seed values per task, [..., n_t], where counts of seeds
may differ. Statistics reduce the last axis, and leading axes are free: the bootstrap resamples
along one.
Bootstrap and aggregates follow Agarwal et al. (2021, "Deep RL at the edge of the statistical
precipice").
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from jaxoff.types import ReturnScale

Tasks = Sequence[np.ndarray | Sequence[float]]
Statistic = Callable[[Sequence[np.ndarray]], Any]

RESAMPLES = 2000
LEVEL = 0.95
SIGNIFICANCE = 0.05


def was_played(run: Mapping[str, Any]) -> bool:
    """Whether episodes were played for the final numbers of a run, also where the environment paid
    returns that are not finite.
    """
    length = run.get("length_mean")
    return length is not None and bool(np.isfinite(length))


def finite(values: ArrayLike) -> np.ndarray:
    """The finite values [n]; a failed run is NaN, and no statistic includes it."""
    flat = np.asarray(values, np.float64).reshape(-1)
    return flat[np.isfinite(flat)]


def mean(values: ArrayLike) -> float:
    """Mean over the runs that did not fail; NaN where all failed.

    Equal values give that value exactly.
    """
    kept = finite(values)
    if kept.size == 0:
        return float("nan")
    return float(kept[0]) if np.ptp(kept) == 0 else float(kept.mean())


def std(values: ArrayLike) -> float:
    """Sample standard deviation (ddof 1) over the runs that did not fail; NaN for fewer than
    two.
    """
    kept = finite(values)
    if kept.size < 2:
        return float("nan")
    return 0.0 if np.ptp(kept) == 0 else float(kept.std(ddof=1))


def iqm(tasks: Tasks) -> Any:
    """Interquartile mean of all runs of all tasks: floor(n / 4) values are dropped at each end."""
    from scipy import stats  # takes a third of a second, and training needs none of it

    pooled = np.concatenate([np.asarray(values, np.float64) for values in tasks], axis=-1)
    return stats.trim_mean(pooled, 0.25, axis=-1)


def mean_of_task_means(tasks: Tasks) -> Any:
    """Mean over tasks of the mean over seeds."""
    return np.mean([np.mean(values, axis=-1) for values in tasks], axis=0)


def median_of_task_means(tasks: Tasks) -> Any:
    """Median over tasks of the mean over seeds, which is what rliable calls the median."""
    return np.median([np.mean(values, axis=-1) for values in tasks], axis=0)


def median_of_runs(tasks: Tasks) -> Any:
    """Median over all runs of all tasks."""
    return np.median(
        np.concatenate([np.asarray(values, np.float64) for values in tasks], axis=-1), axis=-1
    )


def bootstrap(
    tasks: Tasks,
    statistic: Statistic,
    resamples: int = RESAMPLES,
    level: float = LEVEL,
    seed: int = 0,
) -> tuple[Any, Any]:
    """Percentile interval of a statistic, from resampling seeds within each task (stratified).

    tasks: failed (NaN) runs are dropped first. statistic: any function here on `Tasks`, or one that
    reduces the last axis of its arrays [resamples, n_t]. Returns (low, high), NaN where a task has
    no run.
    """
    kept = [finite(values) for values in tasks]
    if not kept or any(values.size == 0 for values in kept):
        return float("nan"), float("nan")
    draw = np.random.default_rng(seed)
    samples = statistic(
        [values[draw.integers(0, values.size, (resamples, values.size))] for values in kept]
    )
    low, high = np.quantile(samples, [(1 - level) / 2, (1 + level) / 2], axis=0)
    return low, high


def probability_of_improvement(ours: Tasks, theirs: Tasks) -> float:
    """Mean over tasks of P(our run > their run), a tie counting one half."""
    if len(ours) != len(theirs):
        raise ValueError(
            f"probability_of_improvement: expected equally many tasks, found {len(ours)} "
            f"and {len(theirs)}"
        )
    each = []
    for a, b in zip(ours, theirs, strict=True):
        gap = finite(a)[:, None] - finite(b)[None, :]
        each.append(float(np.mean((gap > 0) + 0.5 * (gap == 0))) if gap.size else float("nan"))
    return float(np.mean(each))


def profile(
    tasks: Tasks, thresholds: ArrayLike, resamples: int = RESAMPLES
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Performance profile: mean over tasks of the share of runs above each threshold [K].

    Returns (share, low, high), each [K], with the bootstrap interval of the share.
    """
    tau = np.asarray(thresholds, np.float64)
    kept = [finite(values) for values in tasks]

    def share(groups: Sequence[np.ndarray]) -> np.ndarray:
        return np.mean([(values[..., None] > tau).mean(-2) for values in groups], axis=0)

    low, high = bootstrap(kept, share, resamples)
    return share(kept), low, high


def expected_best(values: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation of the largest of k of the values [G], for k = 1 ... G: [G] each.

    The k values are drawn without replacement, every subset being equally likely, so that the
    i-th smallest value is the largest of C(i - 1, k - 1) of the C(G, k) subsets (Tang et al.,
    2020, "Showing your work doesn't always work", after Dodge et al., 2019).
    """
    ranked = np.sort(np.asarray(values, np.float64))
    # share[k - 1, i - 1] follows from the one before it: C(i-1, k-1) = C(i-2, k-1) (i-1) / (i-k)
    size = ranked.size
    share = np.zeros((size, size))
    for k in range(1, size + 1):
        share[k - 1, size - 1] = k / size
        for i in range(size - 1, k - 1, -1):
            share[k - 1, i - 1] = share[k - 1, i] * (i + 1 - k) / i
    mean = share @ ranked
    centred = ranked - mean[:, None]
    return mean, np.sqrt((share * centred**2).sum(1))


def bin_edges(values: ArrayLike, bins: int) -> tuple[np.ndarray, int]:
    """Edges [bins + 1] of a histogram, and how many values lie beyond them.

    They span all values, unless a few of them are so far away that the others would share one or
    two bars: where the central 98 % take less than a quarter of the range, edges span these alone,
    with a tenth of their range on either side.
    """
    kept = finite(values)
    if kept.size == 0 or np.ptp(kept) == 0:
        middle = float(kept[0]) if kept.size else 0.0
        return np.linspace(middle - 0.5, middle + 0.5, bins + 1), 0
    low, high = np.quantile(kept, [0.01, 0.99])
    span = high - low
    low, high = max(kept.min(), low - span / 10), min(kept.max(), high + span / 10)
    if not 0 < span < np.ptp(kept) / 4:
        low, high = kept.min(), kept.max()
    return np.linspace(low, high, bins + 1), int(((kept < low) | (kept > high)).sum())


def welch(a: ArrayLike, b: ArrayLike) -> float:
    """Two-sided p-value of Welch's t-test (unequal variances, Welch-Satterthwaite degrees of
    freedom).

    a, b: values of the two groups, failed runs dropped. Two groups without variance give 1 where
    their means are equal and 0 where they are not. NaN where a group has fewer than two values.
    """
    a, b = finite(a), finite(b)
    if min(a.size, b.size) < 2:
        return float("nan")
    part_a, part_b = std(a) ** 2 / a.size, std(b) ** 2 / b.size
    gap = mean(a) - mean(b)
    if part_a + part_b == 0:
        return 1.0 if gap == 0 else 0.0
    from scipy import stats

    freedom = (part_a + part_b) ** 2 / (part_a**2 / (a.size - 1) + part_b**2 / (b.size - 1))
    return float(2 * stats.t.sf(abs(gap) / np.sqrt(part_a + part_b), freedom))


def marks(table: Mapping[str, ArrayLike], higher: bool = True) -> dict[str, str]:
    """Marks for one row of a table: "best", "*" for no significant difference from it, or "".

    table: method -> values per seed. The best mean is marked "best", or the first of equal means;
    "*" marks methods that Welch's test does not tell from it. Where either group has fewer than two
    values there is nothing to test, and no "*".
    """
    means = {name: mean(values) for name, values in table.items()}
    known = {
        name: value if higher else -value for name, value in means.items() if np.isfinite(value)
    }
    if not known:
        return dict.fromkeys(table, "")
    best = max(known, key=known.__getitem__)
    out = {}
    for name, values in table.items():
        same = name in known and welch(values, table[best]) >= SIGNIFICANCE
        out[name] = "best" if name == best else "*" if same else ""
    return out


def normalised(returns: ArrayLike, scale: ReturnScale) -> np.ndarray:
    """Returns on the scale where `scale.low` is 0 and `scale.high` is 100."""
    width = scale.high - scale.low
    if not width > 0:
        raise ValueError(
            f"return scale: field 'high': expected more than low = {scale.low}, found {scale.high}"
        )
    return 100.0 * (np.asarray(returns, np.float64) - scale.low) / width


def out_of_data(joint_policy: np.ndarray, actions: np.ndarray) -> np.ndarray:
    """Probability of joint actions that never occur in the data of a stateless game.

    joint_policy: [R, A, ..., A], an axis of A per agent. actions: [M, N] int. Returns [R].
    """
    seen = np.zeros(joint_policy.shape[1:], bool)
    seen[tuple(actions.T)] = True
    return joint_policy[:, ~seen].sum(1)
