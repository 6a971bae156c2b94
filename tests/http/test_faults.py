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
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import psutil
import pytest
import requests

from tests.http import clouds
from tests.http.conftest import Service, start, wait_ready, wait_until

SCENE = clouds.parcel_scene(5000)
StartService = Callable[..., Service]


@pytest.fixture(scope="module")
def mortal(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """A service whose processes are killed, all but the first; whoever asks it waits until it is ready."""
    running = start(tmp_path_factory.mktemp("mortal"))
    yield running
    assert running.stop() == 0


@pytest.fixture(scope="module")
def strict(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """A service whose readers may take little time and memory."""
    limits = {"READER_CPU_S": "1.5", "READER_MEMORY_BYTES": str(400 << 20)}
    running = start(tmp_path_factory.mktemp("strict"), **limits)
    wait_ready(running)
    yield running
    running.stop()


@pytest.fixture(scope="module")
def hasty(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """A service with a short deadline."""
    running = start(tmp_path_factory.mktemp("hasty"), DEADLINE_S="2")
    wait_ready(running)
    yield running
    running.stop()


def test_while_loading_the_service_says_so(mortal: Service) -> None:
    wait_until(lambda: _answers(mortal))
    answer = mortal.get("/health")
    if answer.status_code == 503:
        assert answer.json()["status"] == "loading"
        assert answer.json()["reason"]
        refused = mortal.post("/v1/segment", clouds.as_npz(SCENE))
        assert refused.status_code in (200, 503)
    wait_ready(mortal)


def test_a_killed_worker_is_replaced(mortal: Service) -> None:
    wait_ready(mortal)
    before = mortal.processes()
    with concurrent.futures.ThreadPoolExecutor(8) as clients:
        answers = [clients.submit(mortal.post, "/v1/segment", clouds.as_npz(SCENE)) for _ in range(24)]
        time.sleep(0.3)
        os.kill(before["worker_pid"], signal.SIGKILL)
        # The request that the worker held is run again on the next one; the others wait.
        assert {future.result().status_code for future in answers} == {200}
    after = mortal.processes()
    assert after["worker_pid"] != before["worker_pid"]
    assert after["worker_starts"] == before["worker_starts"] + 1


def test_killed_readers_are_replaced(mortal: Service) -> None:
    wait_ready(mortal)
    for pid in readers(mortal):
        os.kill(pid, signal.SIGKILL)
    assert mortal.post("/v1/segment", clouds.as_npz(SCENE)).status_code == 200


def test_a_dead_engine_is_replaced(mortal: Service) -> None:
    wait_ready(mortal)
    before = mortal.processes()["engine_pid"]
    children = psutil.Process(before).children(recursive=True)
    os.kill(before, signal.SIGKILL)
    psutil.wait_procs(children, 60)
    assert not any(child.is_running() and child.status() != psutil.STATUS_ZOMBIE for child in children)
    answer = mortal.post("/v1/segment", clouds.as_npz(SCENE))
    assert answer.status_code in (200, 503)
    if answer.status_code == 503:
        assert int(answer.headers["Retry-After"]) >= 1
    wait_until(lambda: mortal.post("/v1/segment", clouds.as_npz(SCENE)).status_code == 200)
    assert mortal.processes()["engine_pid"] != before


def test_a_reader_that_dies_of_a_file_is_a_422(mortal: Service) -> None:
    wait_ready(mortal)
    text = b"\n".join(b"%d 0 0" % n for n in range(3_000_000))  # seconds of work for the reader
    before = {pid: psutil.Process(pid).cpu_times().user for pid in readers(mortal)}

    def busy() -> list[int]:
        return [pid for pid, user in before.items() if psutil.Process(pid).cpu_times().user > user + 0.4]

    with concurrent.futures.ThreadPoolExecutor(1) as client:
        waiting = client.submit(mortal.post, "/v1/segment?format=text", text)
        wait_until(lambda: bool(busy()))
        os.kill(busy()[0], signal.SIGKILL)
        answer = waiting.result()
    assert answer.status_code == 422
    assert "SIGKILL" in answer.json()["detail"]
    assert mortal.post("/v1/segment", clouds.as_npz(SCENE)).status_code == 200


def readers(service: Service) -> list[int]:
    """Return the ids of both readers, once they are there: an engine starts them, and a request what was lost since."""

    def found() -> list[int]:
        pids: list[int] = service.processes()["readers"]["pids"]
        return pids

    wait_until(lambda: len(found()) == 2)
    return found()


def test_a_file_that_takes_too_much_time_is_a_422(strict: Service) -> None:
    text = b"\n".join(b"%d 0 0" % n for n in range(6_000_000))
    answer = strict.post("/v1/segment?format=text", text)
    assert answer.status_code == 422, answer.text[:300]
    assert "CPU time" in answer.json()["detail"]


def test_a_file_that_takes_too_much_memory_is_a_422(strict: Service) -> None:
    answer = strict.post("/v1/segment", clouds.as_npz(np.zeros((12_000_000, 3), np.float32)))
    assert answer.status_code == 422, answer.text[:300]
    assert "memory" in answer.json()["detail"]
    assert strict.post("/v1/segment", clouds.as_npz(SCENE)).status_code == 200


def test_the_deadline_holds(hasty: Service) -> None:
    readers(hasty)
    body = clouds.as_npz(clouds.parcel_scene(3_000_000) * [20, 20, 1])
    started = time.monotonic()
    answer = hasty.post("/v1/segment", body)
    assert answer.status_code == 504, answer.text[:300]
    assert time.monotonic() - started < 10
    wait_until(lambda: hasty.post("/v1/segment", clouds.as_npz(SCENE)).status_code == 200)


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
    _gone, alive = psutil.wait_procs(children, 60)
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
    wait_until(lambda: engine.num_fds() <= before + 8)


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


def test_a_body_that_stops_ends_at_the_deadline(hasty: Service) -> None:
    with half_sent(hasty) as connection:
        started = time.monotonic()
        status, body = answer_of(connection)
    assert status == 504, body
    assert time.monotonic() - started < 5


def test_a_body_that_dribbles_ends_at_the_deadline(hasty: Service) -> None:
    host, port = hasty.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=30) as connection:
        connection.sendall(b"POST /v1/segment HTTP/1.1\r\nHost: x\r\nContent-Length: 240000\r\n\r\n")
        started = time.monotonic()
        connection.setblocking(False)
        answered = False
        while not answered and time.monotonic() < started + 20:
            try:
                connection.send(b"p")
                answered = bool(connection.recv(1, socket.MSG_PEEK))
            except BlockingIOError:
                time.sleep(0.1)
        connection.setblocking(True)
        status, body = answer_of(connection)
    assert status == 504, body
    assert time.monotonic() - started < 6


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
