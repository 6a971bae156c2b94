"""Each hostile body over HTTP: an answer with a reason, in time, and a service that is as it was before."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from tests.attacks.conftest import check_whole
from tests.attacks.corpus import ATTACKS
from tests.http import clouds
from tests.http.conftest import Service

SLOWEST_S = 20.0
"""An attack costs a reader at most this; the limits on its CPU time are above it."""


@pytest.fixture(scope="module", autouse=True)
def _whole_at_the_end(fortress: Service) -> Iterator[None]:
    before = fortress.processes()
    yield
    check_whole(fortress, before)


@pytest.mark.parametrize("name", ATTACKS)
def test_attacks(fortress: Service, name: str) -> None:
    attack = ATTACKS[name]
    started = time.monotonic()
    answer = fortress.post(f"/v1/segment?{attack.query}", attack.body())
    assert time.monotonic() - started < SLOWEST_S
    assert answer.status_code in attack.statuses, answer.text[:500]
    if answer.status_code != 200:
        body = answer.json()
        assert body["error"] == body["detail"] != ""
        assert len(body["detail"]) < 1200
        for word in attack.words:
            assert word in body["detail"]
        assert "Traceback" not in body["detail"]
        assert "killed" not in body["detail"], "a reader should refuse it before its limits end it"


def test_a_good_cloud_is_labelled_after_all(fortress: Service) -> None:
    answer = fortress.post("/v1/segment", clouds.as_npz(clouds.parcel_scene(5000)))
    assert answer.status_code == 200
    assert len(answer.json()["labels"]) == 5000
