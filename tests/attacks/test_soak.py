"""Half a minute at full load: nothing but labels and refusals, and memory that stays. Longer: benchmarks.soak."""

from __future__ import annotations

import pytest

from benchmarks.running import serving
from benchmarks.soak import soak

SECONDS = 30.0
SETTLED_MB = 25.0
"""What the memory may waver by in so short a time; the slope of ten minutes is the benchmark's."""


@pytest.mark.slow
def test_full_load_leaves_no_memory_behind() -> None:
    with serving(5.0) as running:
        outcome, memory = soak(running, SECONDS, clients=8, real=False)
        assert running.health()["status"] == "ready"
        assert running.health()["processes"]["worker_starts"] == 1
    assert set(outcome.statuses) <= {200, 400}, outcome.statuses
    assert outcome.statuses[200] > outcome.statuses[400] > 0
    middle, end = len(memory.rss) // 2, len(memory.rss)
    assert max(memory.rss[(middle + end) // 2 :]) - max(memory.rss[: middle + 1]) < SETTLED_MB * 1e6
