"""Connections that are kept: a thread goes on with its own, but not at the cost of others."""

from __future__ import annotations

import http.client
import socket
import threading
import time
from collections.abc import Iterator

import pytest

from benchmarks.running import Running, serving

ASK = b"GET /v2/health/live HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"


@pytest.fixture(scope="module")
def running() -> Iterator[Running]:
    with serving(1.0, WEB_THREADS="2") as found:
        yield found


def test_more_busy_connections_than_threads_all_get_on(running: Running) -> None:
    counts = [0] * 6
    ended = time.monotonic() + 2

    def ask(number: int) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", running.port, timeout=10)
        while time.monotonic() < ended:
            connection.request("GET", "/v2/health/live")
            answer = connection.getresponse()
            answer.read()
            assert answer.status == 200
            counts[number] += 1
        connection.close()

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(len(counts))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert min(counts) > 5
    assert min(counts) > max(counts) / 10


def answers(connection: socket.socket, count: int) -> int:
    """Return how many answers came until there were so many, or the end."""
    seen = b""
    connection.settimeout(10)
    while seen.count(b"HTTP/1.1 200 OK") < count and (piece := connection.recv(65536)):
        seen += piece
    return seen.count(b"HTTP/1.1 200 OK")


@pytest.mark.parametrize("pause_s", [0.0, 0.001, 0.02])
def test_requests_of_one_connection_are_answered_however_they_come(running: Running, pause_s: float) -> None:
    with socket.create_connection(("127.0.0.1", running.port)) as connection:
        for _ in range(20):
            connection.sendall(ASK)
            time.sleep(pause_s)
        assert answers(connection, 20) == 20


def test_a_connection_that_ends_after_its_answer_is_let_go(running: Running) -> None:
    web = running.web()
    before = web.num_fds()
    for _ in range(30):
        with socket.create_connection(("127.0.0.1", running.port)) as connection:
            connection.sendall(ASK)
            assert answers(connection, 1) == 1
    until = time.monotonic() + 20
    while web.num_fds() > before + 2 and time.monotonic() < until:
        time.sleep(0.05)
    assert web.num_fds() <= before + 2
