"""Generated scans of a depth camera whose boxes are known: how far off the measurement is, and whether it knows."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from benchmarks.measuring import Result, by_plain_way, by_service, true_objects
from training import known

SEEDS = range(24)


@pytest.fixture(scope="module")
def scans() -> list[known.Known]:
    """Scans that nothing was fitted to."""
    return [known.scan(seed) for seed in SEEDS]


@pytest.fixture(scope="module")
def results(scans: list[known.Known]) -> list[Result]:
    """What is measured of their boxes of which two faces or more were seen."""
    found = [result for scan in scans for result in by_service(scan, true_objects(scan))]
    return [result for result in found if result.faces >= 2 and result.error is not None]


def errors(results: list[Result]) -> NDArray[np.float64]:
    """Return how far off the edges are (3 n,), metres."""
    return np.abs(np.concatenate([result.error for result in results if result.error is not None]))


def test_errors(results: list[Result]) -> None:
    off = errors(results)
    assert len(off) >= 75
    assert np.median(off) < 0.004
    assert np.percentile(off, 95) < 0.015


def test_nine_of_ten_intervals_hold_the_truth(results: list[Result]) -> None:
    held = np.concatenate([np.abs(r.error) <= r.half for r in results if r.error is not None and r.half is not None])
    assert 0.85 <= held.mean() <= 0.95


def test_it_is_better_than_the_plain_way(scans: list[known.Known], results: list[Result]) -> None:
    plain = [result for scan in scans for result in by_plain_way(scan, true_objects(scan))]
    plain = [result for result in plain if result.faces >= 2 and result.error is not None]
    assert np.median(errors(results)) < 0.5 * np.median(errors(plain))
    assert np.percentile(errors(results), 95) < 0.5 * np.percentile(errors(plain), 95)
