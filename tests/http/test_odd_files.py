"""Every odd file of other readers' test suites: labelled or refused, in time, and nothing but a reader ever dies."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import pytest

from tests.http.conftest import Service


@pytest.mark.slow
def test_all_odd_files(service: Service, shared: Path) -> None:
    before = service.processes()
    files = sorted(path for path in (shared / "data" / "odd").rglob("*") if path.is_file())
    assert len(files) > 200
    ended = threading.Event()
    sick: list[object] = []

    def watch() -> None:
        while not ended.wait(0.1):
            answer = service.get("/health")
            if answer.status_code != 200:
                sick.append(answer.text)

    watcher = threading.Thread(target=watch)
    watcher.start()
    strange: list[str] = []
    for path in files:
        started = time.monotonic()
        headers = {"Content-Disposition": f"attachment; filename={path.name}"}
        answer = service.post("/v1/segment?output=npz", path.read_bytes(), headers=headers)
        seconds = time.monotonic() - started
        if answer.status_code not in (200, 400, 413, 415, 422) or seconds > 30:
            strange.append(f"{path.name}: {answer.status_code} after {seconds:.1f} s: {answer.text[:200]!r}")
    ended.set()
    watcher.join()
    assert not strange
    assert not sick
    after = service.processes()
    assert (after["worker_pid"], after["worker_starts"]) == (before["worker_pid"], before["worker_starts"])
    assert after["engine_pid"] == before["engine_pid"]
