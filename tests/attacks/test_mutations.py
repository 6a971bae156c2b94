"""A slice of the mutation run; the whole of it is `python -m tests.attacks`."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.attacks import mutations
from tests.attacks.conftest import LIMITS, check_whole
from tests.http.conftest import Service

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.slow
def test_changed_files_are_answered_in_time_and_end_no_process(fortress: Service) -> None:
    shared = ROOT.parent / "shared"
    files = mutations.sources(shared if (shared / "data" / "odd").is_dir() else None, largest=100_000)
    before = fortress.processes()
    changed = list(mutations.bodies(files, 150, seed=1))[len(files) :]
    run = mutations.send(fortress.url, iter(changed), float(LIMITS["DEADLINE_S"]), clients=2)
    assert not run.strange
    assert run.late == 0
    assert run.statuses[200] > 0 and run.statuses[400] > 0
    check_whole(fortress, before)
