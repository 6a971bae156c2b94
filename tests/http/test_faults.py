"""Processes that die, and what a client sees of it."""

from __future__ import annotations

import concurrent.futures
import http.client
import os
import signal
import socket
import struct
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import psutil
import pytest
import requests

from tests.http import clouds
from tests.http.conftest import Service, wait_ready, wait_until

SCENE = clouds.parcel_scene(5000)
StartService = Callable[..., Service]


def test_a_killed_worker_is_replaced(start_service: StartService) -> None:
    service = start_service()
    wait_ready(service)
    before = service.processes()["worker_pid"]
    with concurrent.futures.ThreadPoolExecutor(8) as clients:
        answers = [clients.submit(service.post, "/v1/segment", clouds.as_npz(SCENE)) for _ in range(24)]
        time.sleep(0.3)
        os.kill(before, signal.SIGKILL)
        # The request that the worker held is run again on the next one; the others wait.
        assert {future.result().status_code for future in answers} == {200}
    after = service.processes()
    assert after["worker_pid"] != before
    assert after["worker_starts"] == 2
    assert service.stop() == 0


def test_killed_readers_are_replaced(start_service: StartService) -> None:
    service = start_service()
    wait_ready(service)
    wait_until(lambda: len(service.processes()["readers"]["pids"]) == 2)
    for pid in service.processes()["readers"]["pids"]:
        os.kill(pid, signal.SIGKILL)
    assert service.post("/v1/segment", clouds.as_npz(SCENE)).status_code == 200


def test_a_reader_that_dies_of_a_file_is_a_422(start_service: StartService) -> None:
    service = start_service(READERS="1", READER_CPU_S="300")
    wait_ready(service)
    text = b"\n".join(b"%d 0 0" % n for n in range(3_000_000))  # seconds of work for the reader
    with concurrent.futures.ThreadPoolExecutor(1) as client:
        waiting = client.submit(service.post, "/v1/segment?format=text", text)
        (pid,) = service.processes()["readers"]["pids"]
        wait_until(lambda: psutil.Process(pid).cpu_times().user > 0.6, 60)
        os.kill(pid, signal.SIGKILL)
        answer = waiting.result()
    assert answer.status_code == 422
    assert "SIGKILL" in answer.json()["detail"]
    assert service.post("/v1/segment", clouds.as_npz(SCENE)).status_code == 200


def test_a_file_that_takes_too_much_time_is_a_422(start_service: StartService) -> None:
    service = start_service(READER_CPU_S="0.5")
    wait_ready(service)
    text = b"\n".join(b"%d 0 0" % n for n in range(6_000_000))
    answer = service.post("/v1/segment?format=text", text)
    assert answer.status_code == 422, answer.text[:300]
    assert "CPU time" in answer.json()["detail"]


def test_a_file_that_takes_too_much_memory_is_a_422(start_service: StartService) -> None:
    service = start_service(READER_MEMORY_BYTES=str(400 << 20))
    wait_ready(service)
    answer = service.post("/v1/segment", clouds.as_npz(np.zeros((12_000_000, 3), np.float32)))
    assert answer.status_code == 422, answer.text[:300]
    assert "memory" in answer.json()["detail"]
    assert service.post("/v1/segment", clouds.as_npz(SCENE)).status_code == 200


def test_the_deadline_holds(start_service: StartService) -> None:
    service = start_service(DEADLINE_S="0.5")
    wait_ready(service)
    wait_until(lambda: len(service.processes()["readers"]["pids"]) == 2)
    body = clouds.as_npz(clouds.parcel_scene(3_000_000) * [20, 20, 1])
    started = time.monotonic()
    answer = service.post("/v1/segment", body)
    assert answer.status_code == 504, answer.text[:300]
    assert time.monotonic() - started < 10
    wait_until(lambda: service.post("/v1/segment", clouds.as_npz(SCENE)).status_code == 200)


def test_a_dead_engine_is_replaced(start_service: StartService) -> None:
    service = start_service()
    wait_ready(service)
    before = service.processes()["engine_pid"]
    children = psutil.Process(before).children(recursive=True)
    os.kill(before, signal.SIGKILL)
    psutil.wait_procs(children, 20)
    assert not any(child.is_running() and child.status() != psutil.STATUS_ZOMBIE for child in children)
    answer = service.post("/v1/segment", clouds.as_npz(SCENE))
    assert answer.status_code in (200, 503)
    if answer.status_code == 503:
        assert int(answer.headers["Retry-After"]) >= 1
    wait_until(lambda: service.post("/v1/segment", clouds.as_npz(SCENE)).status_code == 200)
    assert service.processes()["engine_pid"] != before


def test_while_loading_the_service_says_so(start_service: StartService) -> None:
    service = start_service()
    wait_until(lambda: _answers(service))
    answer = service.get("/health")
    if answer.status_code == 503:
        assert answer.json()["status"] == "loading"
        assert answer.json()["reason"]
        refused = service.post("/v1/segment", clouds.as_npz(SCENE))
        assert refused.status_code in (200, 503)
    wait_ready(service)


def test_models_that_do_not_exist_are_named(start_service: StartService) -> None:
    service = start_service(MODELS="no-such-model")
    wait_until(lambda: _answers(service) and "no-such-model" in service.get("/health").text)
    body = service.get("/health").json()
    assert body["status"] == "failed"
    assert "no-such-model" in body["reason"]
    refused = service.post("/v1/segment", clouds.as_npz(SCENE))
    assert refused.status_code == 503
    assert "no-such-model" in refused.json()["detail"]


def test_sigterm_finishes_what_runs(start_service: StartService) -> None:
    service = start_service()
    wait_ready(service)
    with concurrent.futures.ThreadPoolExecutor(1) as client:
        running = client.submit(service.post, "/v1/segment", clouds.as_npz(clouds.parcel_scene(300_000)))
        time.sleep(0.15)
        assert service.stop() == 0
        assert running.result().status_code == 200
    assert not list(service.state_dir.glob("*.sock"))


def test_no_process_outlives_a_killed_parent(start_service: StartService) -> None:
    service = start_service()
    wait_ready(service)
    children = psutil.Process(service.process.pid).children(recursive=True)
    assert len(children) >= 5
    service.process.kill()
    service.process.wait()
    _gone, alive = psutil.wait_procs(children, 20)
    assert not alive


def test_a_busy_port_is_one_sentence(start_service: StartService, tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        service = start_service(PORT=str(taken.getsockname()[1]))
        assert service.process.wait(60) == 1
    said = [line for line in service.log.read_text().splitlines() if line.strip()]
    assert len(said) == 1
    assert "--port" in said[0]


def test_clients_that_vanish_leave_nothing(service: Service) -> None:
    engine = psutil.Process(service.processes()["engine_pid"])

    def vanish() -> None:
        with half_sent(service) as connection:
            linger = struct.pack("ii", 1, 0)  # a reset, not an orderly end
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)

    service.post("/v1/segment", clouds.as_npz(SCENE))
    before = engine.num_fds()
    threads = [threading.Thread(target=vanish) for _ in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert service.post("/v1/segment", clouds.as_npz(SCENE)).status_code == 200
    wait_until(lambda: engine.num_fds() <= before + 8, 10)


def half_sent(service: Service) -> socket.socket:
    """Return a connection on which half of a request's body was sent."""
    host, port = service.url.removeprefix("http://").split(":")
    connection = socket.create_connection((host, int(port)), timeout=30)
    body = clouds.as_npz(SCENE)
    head = f"POST /v1/segment HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n".encode()
    connection.sendall(head + body[: len(body) // 2])
    return connection


def answer_of(connection: socket.socket) -> tuple[int, str]:
    """Return status and body of the answer that comes on a connection."""
    answer = http.client.HTTPResponse(connection)
    answer.begin()
    return answer.status, answer.read().decode()


def test_a_body_that_stops_ends_at_the_deadline(start_service: StartService) -> None:
    service = start_service(DEADLINE_S="2")
    wait_ready(service)
    with half_sent(service) as connection:
        started = time.monotonic()
        status, body = answer_of(connection)
    assert status == 504, body
    assert time.monotonic() - started < 5


def test_a_body_that_ends_early_is_a_400(service: Service) -> None:
    with half_sent(service) as connection:
        connection.shutdown(socket.SHUT_WR)
        status, body = answer_of(connection)
    assert status == 400, body
    assert "ended before" in body


def _answers(service: Service) -> bool:
    try:
        service.get("/health")
    except OSError:
        return False
    return True


@pytest.mark.slow
def test_twenty_clients_at_once(service: Service) -> None:
    body = clouds.as_npz(clouds.parcel_scene(50_000))
    with concurrent.futures.ThreadPoolExecutor(20) as clients:
        answers = list(clients.map(lambda _: service.post("/v1/segment", body), range(40)))
    assert {answer.status_code for answer in answers} == {200}
    assert len({str(answer.json()["labels"]) for answer in answers}) == 1


@pytest.mark.parametrize("chunked", [False, True])
def test_a_form_that_ends_early_is_a_400(service: Service, chunked: bool) -> None:
    prepared = requests.Request("POST", service.url, files={"file": ("a.ply", clouds.as_ply(SCENE))}).prepare()
    body = prepared.body[: len(prepared.body) * 2 // 3]
    framing = "Transfer-Encoding: chunked" if chunked else f"Content-Length: {len(prepared.body)}"
    head = (
        f"POST /v1/segment HTTP/1.1\r\nHost: x\r\nContent-Type: {prepared.headers['Content-Type']}\r\n{framing}\r\n\r\n"
    )
    host, port = service.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=30) as connection:
        connection.sendall(head.encode() + (b"%x\r\n" % len(prepared.body) if chunked else b"") + body)
        connection.shutdown(socket.SHUT_WR)
        status, body = answer_of(connection)
    assert status == 400, body
    assert "ended before" in body
