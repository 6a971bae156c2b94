"""A running service, started as users start it, on a port of its own."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import requests

from tests.ports import free_port

ROOT = Path(__file__).resolve().parents[2]
PATIENCE_S = 300.0
"""After that something hangs: what takes seconds may take minutes where others work too."""


@dataclass
class Service:
    """A service under test."""

    url: str
    process: subprocess.Popen[bytes]
    log: Path
    state_dir: Path

    def get(self, path: str, **options: Any) -> requests.Response:
        return requests.get(self.url + path, timeout=PATIENCE_S, **options)

    def post(self, path: str, data: Any = None, **options: Any) -> requests.Response:
        return requests.post(self.url + path, data=data, timeout=PATIENCE_S, **options)

    def processes(self) -> dict[str, Any]:
        return self.get("/health?verbose").json()["processes"]

    def stop(self) -> int:
        """Return the exit status; a service that does not end is killed, and that is an error."""
        self.process.terminate()
        try:
            return self.process.wait(PATIENCE_S)
        finally:
            self.process.kill()


def start(folder: Path, **environment: str) -> Service:
    """Start `pointserve serve` and wait until it answers, ready or not."""
    port = free_port()
    log = folder / "service.log"
    own = {"PORT": str(port), "STATE_DIR": str(folder / "state"), "LOG_LEVEL": "info", **environment}
    command = [sys.executable, "-m", "service.cli", "serve"]
    with log.open("wb") as out:
        process = subprocess.Popen(command, cwd=ROOT, stderr=out, stdout=out, env={**os.environ, **own})
    return Service(f"http://127.0.0.1:{port}", process, log, folder / "state")


def wait_until(condition: Callable[[], bool], patience_s: float = PATIENCE_S) -> None:
    until = time.monotonic() + patience_s
    while not condition():
        assert time.monotonic() < until, "it never happened"
        time.sleep(0.05)


def wait_ready(service: Service, patience_s: float = PATIENCE_S) -> None:
    def ready() -> bool:
        assert service.process.poll() is None, service.log.read_text()
        try:
            return service.get("/health").status_code == 200
        except requests.ConnectionError:
            return False

    try:
        wait_until(ready, patience_s)
    except BaseException:
        service.stop()  # a fixture that fails before it yields has no end that would
        raise


@pytest.fixture(scope="package")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """One service for all tests that leave it as they found it; small limits, so that they are easy to reach."""
    running = start(
        tmp_path_factory.mktemp("service"),
        MAX_BODY_BYTES=str(64 << 20),
        MAX_POINTS="1000000",
        READER_MEMORY_BYTES=str(1 << 30),
        READER_CPU_S="20",
    )
    wait_ready(running)
    yield running
    assert running.process.poll() is None, "a test ended the service:\n" + running.log.read_text()
    running.stop()


@pytest.fixture
def start_service(tmp_path: Path) -> Iterator[Callable[..., Service]]:
    """Start services with settings of one's own; they end with the test."""
    started: list[Service] = []

    def begin(**environment: str) -> Service:
        folder = tmp_path / str(len(started))
        folder.mkdir()
        started.append(start(folder, **environment))
        return started[-1]

    yield begin
    for running in started:
        if running.process.poll() is None:
            running.stop()
