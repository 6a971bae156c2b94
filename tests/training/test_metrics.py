"""The figures of evaluation, against their definitions over sets."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from training.metrics import Score, score

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
