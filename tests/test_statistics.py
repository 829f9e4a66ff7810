"""Statistics against numbers worked out by hand and SciPy."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from jaxoff.eval import statistics
from jaxoff.types import ReturnScale

NAN = float("nan")


def test_mean_and_std_leave_failed_runs_out():
    # of 1, 3 (the NaN failed): mean 2, squares (1 + 1) / (2 - 1) = 2
    assert statistics.mean([1.0, NAN, 3.0]) == 2.0
    assert statistics.std([1.0, NAN, 3.0]) == pytest.approx(2**0.5)


def test_std_of_one_value_is_unknown():
    assert np.isnan(statistics.std([1.0]))


def test_equal_values_have_exactly_no_deviation():
    # 0.1 + 0.1 + 0.1 is not 0.3 in floating point, so the plain formula gives 1.7e-17
    assert statistics.std([0.1] * 3) == 0.0
    assert statistics.mean([0.1] * 3) == 0.1


def test_iqm_of_ten_drops_two_at_each_end():
    # floor(0.25 * 10) = 2: of 0, 1, 4, ..., 81 what is left is 4 + 9 + 16 + 25 + 36 + 49 = 139,
    # over 6
    assert statistics.iqm([np.arange(10.0) ** 2]) == pytest.approx(139 / 6)


def test_iqm_of_three_is_their_mean():
    # floor(0.75) = 0 at each end
    assert statistics.iqm([[1.0, 2.0, 9.0]]) == 4.0


def test_the_two_medians_differ():
    # task means 1, 3 and 20, their median is 3; all runs 0, 0, 3, 5, 1, 39 have the median (1 + 3)
    # / 2
    tasks = [[0.0, 0.0, 3.0], [5.0, 1.0], [1.0, 39.0]]
    assert statistics.median_of_task_means(tasks) == 3.0
    assert statistics.median_of_runs([[0.0, 0.0, 3.0], [5.0, 1.0, 39.0]]) == 2.0


def test_aggregates_are_over_tasks_as_in_agarwal_et_al():
    # IQM: the trimmed mean of all runs of all tasks together; mean and median: over the means of
    # tasks
    scores = np.random.default_rng(0).normal(size=(7, 3))  # runs x tasks
    tasks = list(scores.T)
    assert statistics.iqm(tasks) == pytest.approx(stats.trim_mean(scores, 0.25, axis=None))
    assert statistics.mean_of_task_means(tasks) == pytest.approx(scores.mean())
    assert statistics.median_of_task_means(tasks) == pytest.approx(np.median(scores.mean(0)))


def test_bootstrap_is_repeatable_and_brackets_the_estimate():
    tasks = [np.random.default_rng(1).normal(size=8)]
    low, high = statistics.bootstrap(tasks, statistics.iqm, seed=3)
    assert (low, high) == statistics.bootstrap(tasks, statistics.iqm, seed=3)
    assert low < statistics.iqm(tasks) < high


def test_bootstrap_agrees_with_scipy():
    values = np.random.default_rng(2).exponential(size=20)
    theirs = stats.bootstrap(
        (values,), np.mean, n_resamples=20_000, method="percentile", rng=np.random.default_rng(0)
    ).confidence_interval
    ours = statistics.bootstrap([values], statistics.mean_of_task_means, 20_000)
    # two Monte Carlo estimates of the same quantiles: the error of each is below a hundredth of the
    # width's scale
    np.testing.assert_allclose(ours, theirs, atol=0.03)


def test_bootstrap_resamples_within_tasks_only():
    # each task has no spread, so no resample within tasks differs; a resample across tasks would
    low, high = statistics.bootstrap(
        [[0.0, 0.0], [10.0, 10.0, 10.0]], statistics.mean_of_task_means
    )
    assert (low, high) == (5.0, 5.0)


def test_bootstrap_of_a_task_without_runs_is_unknown():
    assert np.isnan(statistics.bootstrap([[NAN, NAN], [1.0]], statistics.iqm)).all()


def test_probability_of_improvement_counts_ties_as_half():
    # task 1: (1 > 0), (1 = 1), (2 > 0), (2 > 1) = 3.5 of 4; task 2: 0 of 1; mean 0.4375
    assert statistics.probability_of_improvement(
        [[1.0, 2.0], [0.0]], [[0.0, 1.0], [5.0]]
    ) == pytest.approx(0.4375)


def test_probability_of_improvement_refuses_unequal_tasks():
    with pytest.raises(ValueError, match="found 1 and 2"):
        statistics.probability_of_improvement([[1.0]], [[1.0], [2.0]])


def test_profile_is_the_mean_over_tasks_of_shares():
    # above 0.5: 1 of 2 and 1 of 1, mean 0.75; above 2: none
    share, low, high = statistics.profile([[0.0, 1.0], [1.0]], [0.5, 2.0])
    np.testing.assert_allclose(share, [0.75, 0.0])
    assert (low <= share).all() and (share <= high).all()


def test_welch_by_hand():
    # means 2 and 5, variances 1 and 4, over 3: t = -3 / sqrt(5 / 3) = -2.3238
    # freedom (5 / 3)^2 / ((1 / 3)^2 / 2 + (4 / 3)^2 / 2) = 2.7778 / 0.9444 = 2.9412
    p = statistics.welch([1.0, 2.0, 3.0], [3.0, 5.0, 7.0])
    assert p == pytest.approx(2 * stats.t.cdf(-3 / np.sqrt(5 / 3), 50 / 17), rel=1e-12)


@pytest.mark.parametrize("sizes", [(5, 5), (5, 3), (2, 10)])
def test_welch_equals_scipy(sizes: tuple[int, int]):
    draw = np.random.default_rng(4)
    a, b = draw.normal(0, 1, sizes[0]), draw.normal(0.5, 3, sizes[1])
    assert statistics.welch(a, b) == pytest.approx(
        stats.ttest_ind(a, b, equal_var=False).pvalue, rel=1e-10
    )


def test_welch_with_one_constant_group_equals_scipy():
    a, b = [1.0, 1.0, 1.0, 1.0, 1.0], [1.0, 2.0, 3.0, 2.0, 1.0]
    assert statistics.welch(a, b) == pytest.approx(
        stats.ttest_ind(a, b, equal_var=False).pvalue, rel=1e-10
    )


def test_two_constant_groups_differ_only_by_their_means():
    assert statistics.welch([0.1] * 3, [0.1] * 5) == 1.0
    assert statistics.welch([0.1] * 5, [0.2] * 5) == 0.0


def test_welch_of_a_single_value_is_unknown():
    assert np.isnan(statistics.welch([1.0], [1.0, 2.0]))


def test_marks_name_the_best_and_what_is_not_different():
    table = {
        "bc": [0.0, 0.1, 0.0, 0.1, 0.0],
        "near": [0.9, 1.0, 1.1, 1.0, 0.9],
        "ours": [1.0, 1.1, 0.9, 1.0, 1.1],
        "failed": [NAN] * 5,
    }
    assert statistics.marks(table) == {"bc": "", "near": "*", "ours": "best", "failed": ""}


def test_marks_of_constant_rows_follow_both_zero_variance_rules():
    assert statistics.marks({"a": [1.0] * 5, "b": [1.0] * 5, "c": [0.9] * 5}) == {
        "a": "best",
        "b": "*",
        "c": "",
    }


def test_marks_where_less_is_better():
    assert statistics.marks({"a": [1.0, 1.1], "b": [9.0, 9.1]}, higher=False)["a"] == "best"


def test_normalised_score_by_hand():
    # (-4 - -6) / (-2 - -6) = 0.5
    np.testing.assert_allclose(
        statistics.normalised([-6.0, -4.0, -2.0], ReturnScale(-6.0, -2.0, "by hand")),
        [0.0, 50.0, 100.0],
    )


def test_a_scale_without_width_is_refused():
    with pytest.raises(ValueError, match=r"field 'high': expected more than low = 1.0, found 1.0"):
        statistics.normalised([1.0], ReturnScale(1.0, 1.0, "flat"))
