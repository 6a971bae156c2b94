"""Clients that hang up, that are in a hurry, and a service that ends while they wait."""

from __future__ import annotations

import concurrent.futures
import contextlib
import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import requests

from service.engine.client import RECENT_S, EngineClient
from tests.engine.faulty_worker import END, LABEL, WORK, cloud, expected
from tests.http import clouds
from tests.http.conftest import ROOT, Service, wait_ready, wait_until
from tests.ports import free_port

CODE = (
    "import sys; from service.serve import serve; from service.settings import settings; "
    "sys.exit(serve(settings(), {!r}))"
)
Start = Callable[..., Service]


@contextlib.contextmanager
def serving(folder: Path, **environment: str) -> Iterator[Service]:
    """Run a service on the stub worker."""
    port, log = free_port(), folder / "service.log"
    own = {"PORT": str(port), "STATE_DIR": str(folder / "state"), "DEVICE": "cpu", "API_KEYS": "none"}
    command = [sys.executable, "-c", CODE.format("tests.engine.faulty_worker")]
    with log.open("wb") as out:
        process = subprocess.Popen(command, cwd=ROOT, stdout=out, stderr=out, env={**os.environ, **own, **environment})
    service = Service(f"http://127.0.0.1:{port}", process, log, folder / "state")
    try:
        wait_ready(service)
        yield service
    finally:
        if process.poll() is None:
            service.stop()


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Start a service with settings of one's own."""
    with contextlib.ExitStack() as running:
        yield lambda **environment: running.enter_context(serving(tmp_path, **environment))


@pytest.fixture(scope="module")
def stub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """A service for all tests that leave it running."""
    with serving(tmp_path_factory.mktemp("stub")) as running:
        yield running


def post(service: Service, coord: np.ndarray, **headers: str) -> requests.Response:
    return service.post("/v1/segment", clouds.as_npz(coord), headers=headers)


def right(service: Service, coord: np.ndarray) -> None:
    answer = post(service, coord)
    assert answer.status_code == 200, answer.text[:300]
    assert answer.json()["labels"] == expected(coord).tolist()


def status(service: Service) -> dict[str, Any]:
    """Return the engine's state, as the engine's own client sees it."""
    (path,) = service.state_dir.glob("*.sock")
    client = EngineClient(path)
    try:
        return client.status()
    finally:
        client.close()


def counts(service: Service) -> dict[str, Any]:
    found: dict[str, Any] = status(service)["counts"]
    return found


def wait_busy(service: Service, requests: int = 1) -> None:
    """Wait until the worker has so many requests."""
    wait_until(lambda: bool(status(service)["workers"][0]["in_flight"]["requests"] == requests))


def test_a_request_has_its_own_deadline(stub: Service) -> None:
    service = stub
    with concurrent.futures.ThreadPoolExecutor(1) as threads:
        slow = threads.submit(right, service, cloud(WORK, 2.0))
        wait_busy(service)
        started = time.monotonic()
        answer = post(service, cloud(LABEL), **{"X-Deadline-Seconds": "0.5"})
        assert answer.status_code == 504, answer.text[:300]
        assert time.monotonic() - started < 1.5
        slow.result()
    assert post(service, cloud(LABEL), **{"X-Deadline-Seconds": "1e9"}).status_code == 200
    for wrong in ("soon", "-1", "0", "nan", "inf"):
        answer = post(service, cloud(LABEL), **{"X-Deadline-Seconds": wrong})
        assert answer.status_code == 400
        assert "X-Deadline-Seconds" in answer.json()["detail"]


def test_a_full_web_process_says_so_at_once(start: Start) -> None:
    service = start(WEB_THREADS="4")  # three for clouds, one to say no
    port = int(service.url.rsplit(":", 1)[1])
    with concurrent.futures.ThreadPoolExecutor(3) as threads:
        running = [threads.submit(right, service, cloud(WORK, 3.0, seed=seed)) for seed in range(3)]
        wait_busy(service, 3)
        for path in ("/v1/segment", "/v2/models/stub/infer"):
            # Its body is larger than what a socket holds, and it keeps no connection.
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
            started = time.monotonic()
            connection.request("POST", path, bytes(20 << 20), {"Connection": "close"})
            answer = connection.getresponse()
            assert answer.status == 503
            assert int(answer.headers["Retry-After"]) >= 1
            assert "3 requests are being answered" in json.loads(answer.read())["detail"]
            assert time.monotonic() - started < 1
            connection.close()
        assert service.get("/health").status_code == 200
        assert not any(one.done() for one in running)
        for one in running:
            one.result()
    right(service, cloud(LABEL))


def test_a_deadline_covers_the_wait_for_a_thread(start: Start) -> None:
    service = start(WEB_THREADS="1")
    with concurrent.futures.ThreadPoolExecutor(1) as threads:
        slow = threads.submit(right, service, cloud(WORK, 2.0))
        wait_busy(service)
        answer = post(service, cloud(LABEL), **{"X-Deadline-Seconds": "0.5"})
        slow.result()
    assert answer.status_code == 504, answer.text[:300]


def test_a_request_whose_client_hung_up_never_runs(stub: Service) -> None:
    service, before = stub, counts(stub)
    body = clouds.as_npz(cloud(END))  # it would end the worker
    host, port = service.url.removeprefix("http://").split(":")
    with concurrent.futures.ThreadPoolExecutor(1) as threads:
        slow = threads.submit(right, service, cloud(WORK, 3.0, points=4000))
        wait_busy(service)
        for _ in range(3):
            with socket.create_connection((host, int(port)), timeout=30) as connection:
                head = f"POST /v1/segment HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n"
                connection.sendall(head.encode() + body)
                time.sleep(0.2)
        wait_until(lambda: counts(service).get("cancelled", 0) == before.get("cancelled", 0) + 3)
        slow.result()
    right(service, cloud(LABEL))
    assert counts(service).get("lost") == before.get("lost")


def test_the_end_finishes_what_runs_and_refuses_what_comes(start: Start) -> None:
    service = start()
    with concurrent.futures.ThreadPoolExecutor(1) as threads:
        running = threads.submit(right, service, cloud(WORK, 3.0))
        wait_busy(service)
        os.kill(service.process.pid, signal.SIGTERM)
        wait_until(lambda: service.get("/health").json()["status"] == "stopping")
        time.sleep(2 * RECENT_S)  # until the web does not go by what the engine said before
        refused = post(service, cloud(LABEL))
        assert refused.status_code == 503
        assert "Retry-After" in refused.headers
        running.result()
    assert service.process.wait(20) == 0
    assert not list(service.state_dir.glob("*.sock"))


def test_the_end_comes_within_the_grace_period(start: Start) -> None:
    service = start(SHUTDOWN_GRACE_S="1")
    with concurrent.futures.ThreadPoolExecutor(1) as threads:
        cut_off = threads.submit(post, service, cloud(WORK, 60.0))
        wait_busy(service)
        started = time.monotonic()
        assert service.stop() == 0
        assert time.monotonic() - started < 10
        with contextlib.suppress(requests.ConnectionError):
            assert cut_off.result().status_code >= 500


def test_a_cloud_that_ends_the_worker_is_a_500(stub: Service) -> None:
    service, before = stub, stub.processes()["worker_starts"]
    for _ in range(2):
        answer = post(service, cloud(END))
        assert answer.status_code == 500
        assert answer.json()["type"].endswith("fatal-cloud")
    assert service.processes()["worker_starts"] == before + 2
    right(service, cloud(LABEL))
