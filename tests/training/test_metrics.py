"""The figures of evaluation, against their definitions over sets."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from training.metrics import NOT_COUNTED, Found, Score, compare, score

PAIRS = st.lists(st.tuples(st.integers(-1, 2), st.integers(-1, 2)), min_size=1, max_size=60)


@given(PAIRS)
def test_scores_are_what_sets_say(pairs: list[tuple[int, int]]) -> None:
    label, truth = np.array(pairs).T
    counted = {i for i, (_, true) in enumerate(pairs) if true >= 0}
    called = {i for i in counted if pairs[i][0] == 1}
    there = {i for i in counted if pairs[i][1] == 1}
    got = score(label, truth)
    assert got.iou == (len(called & there) / len(called | there) if called | there else 1.0)
    assert got.precision == (len(called & there) / len(called) if called else 1.0)
    assert got.recall == (len(called & there) / len(there) if there else 1.0)


def test_scores_add_up() -> None:
    assert Score(1, 2, 3) + Score(10, 20, 30) == Score(11, 22, 33)


def test_arrays_of_different_lengths_are_refused() -> None:
    with pytest.raises(ValueError, match="cannot be compared"):
        score(np.zeros(3, dtype=np.int64), np.zeros(4, dtype=np.int64))


def test_objects_that_are_found_exactly_are_all_right() -> None:
    truth = np.repeat([-1, 3, 7], 200)
    found = np.repeat([-1, 0, 1], 200)
    got = compare(found, {0: 0.9, 1: 0.8}, truth)
    assert got.truth == 2 and got.hit == (1.0, 1.0) and got.best == (1.0, 1.0)
    assert got.average_precision() == got.recall() == got.precision() == 1


def test_one_object_over_two_true_ones_is_right_for_the_larger_alone() -> None:
    truth = np.repeat([3, 7], (300, 150))
    got = compare(np.zeros(450, np.int64), {0: 0.5}, truth)
    assert got.hit == (300 / 450,) and sorted(got.best) == [150 / 450, 300 / 450]
    assert got.recall() == got.average_precision() == 0.5 and got.precision() == 1


def test_points_that_nobody_knows_count_neither_way() -> None:
    truth = np.repeat([3, NOT_COUNTED], (200, 400))
    found = np.repeat([0, 0, 1], (200, 150, 250))
    got = compare(found, {0: 0.5, 1: 0.9}, truth)
    assert got.hit == (1.0,) and got.average_precision() == 1


def test_true_objects_of_few_points_count_neither_way() -> None:
    truth = np.repeat([3, 4, -1], (200, 50, 100))
    got = compare(np.repeat([0, 1, -1], (200, 50, 100)), {0: 0.5, 1: 0.9}, truth)
    assert got.truth == 1 and got.hit == (1.0,)


def test_average_precision_is_the_area_under_falling_precision() -> None:
    """Sure to unsure: right, wrong, right, wrong; four true objects. Precision 1 up to recall 1/4, then 2/3 to 2/4."""
    got = Found((0.9, 0.8, 0.7, 0.6), (0.8, 0.1, 0.6, 0.0), 4, (0.8, 0.6, 0.1, 0.0))
    assert got.average_precision() == pytest.approx(1 / 4 + 2 / 3 / 4)
    assert got.average_precision(0.7) == pytest.approx(1 / 4)
    assert (got + got).truth == 8 and (got + got).average_precision() == pytest.approx(1 / 4 + 2 / 3 / 4)
    assert Found((), (), 0, ()).average_precision() == 1


def test_objects_of_different_lengths_are_refused() -> None:
    with pytest.raises(ValueError, match="cannot be compared"):
        compare(np.zeros(3, dtype=np.int64), {0: 1.0}, np.zeros(4, dtype=np.int64))


def test_average_precision_below_a_half_is_refused() -> None:
    with pytest.raises(ValueError, match="may be met twice"):
        Found((), (), 1, (0.0,)).average_precision(0.25)
