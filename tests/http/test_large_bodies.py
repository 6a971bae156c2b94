"""A large body: the web process holds it once, or its answer, and never both."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from benchmarks.large_body import extra, requests_of
from benchmarks.running import Running, serving

POINTS = 2_000_000
REQUESTS = requests_of(POINTS)


@pytest.fixture(scope="module")
def running() -> Iterator[Running]:
    with serving(1.0) as found:
        yield found


@pytest.mark.parametrize("name", REQUESTS)
def test_the_web_process_holds_little_more_than_the_body(running: Running, name: str) -> None:
    status, bodies = extra(running, REQUESTS[name])
    assert status == 200
    assert 0.3 < bodies < 1.3  # much less would mean that it was not seen
