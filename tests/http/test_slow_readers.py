"""Clients that take their answers slowly or not at all, or that stay when they have them."""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import requests
from apiflask import APIBlueprint, APIFlask

from benchmarks.running import Running, serving
from service.errors import Overloaded
from service.settings import Settings
from service.web import body, room, sending, threads

STAYING = 40
BUFFER_BYTES = 1 << 16


@pytest.fixture(scope="module")
def running() -> Iterator[Running]:
    with serving(1.0) as found:
        yield found


@pytest.mark.parametrize("ask", [
    b"GET /v2/health/live HTTP/1.0\r\n\r\n",
    b"GET /v2/health/live HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
])  # fmt: skip
def test_clients_that_stay_after_their_answer_hold_up_nobody(running: Running, ask: bytes) -> None:
    web, before = running.web().pid, running.web().num_fds()
    with contextlib.ExitStack() as held:
        staying = [
            held.enter_context(socket.create_connection(("127.0.0.1", running.port), 30)) for _ in range(STAYING)
        ]
        for connection in staying:
            connection.sendall(ask)
        for connection in staying:
            assert b" 200 OK" in connection.recv(65536)
        started = time.monotonic()
        assert requests.get(f"{running.url}/v2/health/live", timeout=120).status_code == 200
        assert time.monotonic() - started < 3
        for connection in staying:
            assert connection.recv(65536) == b""
        until = time.monotonic() + 10
        while running.web().num_fds() > before + 2 and time.monotonic() < until:
            time.sleep(0.05)
        assert running.web().num_fds() <= before + 2
        assert running.web().pid == web


class Worker:
    """What gunicorn's worker has of interest: connections come in, its threads handle them, it hears how that ended.

    Args:
        answer: what a thread does with a connection; it returns whether the connection is kept.
    """

    def __init__(self, answer: Callable[[Any], bool]) -> None:
        self.alive, self.handle, self.enqueue_req = True, answer, lambda conn: None
        threads.time_waits(self)

    def serve(self, connection: socket.socket) -> SimpleNamespace:
        """Return a new connection once it was handled, with how that ended."""
        conn = SimpleNamespace(sock=connection, initialized=False, is_http2=False)
        self.enqueue_req(conn)

        def run() -> None:
            try:
                conn.kept = self.handle(conn)
            except BaseException as error:
                conn.error = error

        thread = threading.Thread(target=run, daemon=True)
        thread.start()
        thread.join(10)
        assert not thread.is_alive(), "the thread is held"
        return conn


@contextlib.contextmanager
def connected() -> Iterator[tuple[socket.socket, socket.socket]]:
    """Yield a server's end and a client's, whose kernel buffers are small."""
    with socket.create_server(("127.0.0.1", 0)) as listener, socket.socket() as theirs:
        theirs.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, BUFFER_BYTES)
        theirs.connect(listener.getsockname())
        ours, _address = listener.accept()
        ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, BUFFER_BYTES)
        with ours:
            yield ours, theirs


def send(connection: socket.socket, content: bytes) -> None:
    """Send an answer as gunicorn does."""
    asked = SimpleNamespace(method="GET", version=(1, 1), should_close=lambda: False)
    response = sending.Sent(asked, connection, SimpleNamespace(is_ssl=False, sendfile=None))
    response.start_response("200 OK", [("Content-Length", str(len(content)))])
    response.write(content)
    response.close()


def limit_of(connection: socket.socket) -> float:
    """Return the limit on calls that send, in seconds; 0 is none."""
    seconds, microseconds = struct.unpack("@ll", connection.getsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, 16))
    return float(seconds + microseconds / 1e6)


def test_a_client_that_never_takes_its_answer_holds_no_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threads, "TAKE_S", 0.2)

    def answer(conn: Any) -> bool:
        send(conn.sock, bytes(8 << 20))
        return True

    with connected() as (ours, _theirs):
        assert isinstance(Worker(answer).serve(ours).error, TimeoutError)


def test_a_cloud_may_be_taken_more_slowly_and_the_next_answer_may_not() -> None:
    seen: list[float] = []

    def answer(conn: Any) -> bool:
        seen.append(limit_of(conn.sock))
        request: Any = SimpleNamespace(environ={"gunicorn.socket": conn.sock})
        with body._bounded(request, time.monotonic() + 10):
            pass
        seen.append(limit_of(conn.sock))
        return True

    with connected() as (ours, theirs):
        worker = Worker(answer)
        worker.alive = False  # it does not wait for the connection's next request
        conn = worker.serve(ours)
        assert conn.kept
        assert seen == [threads.TAKE_S, body.SEND_S]
        assert limit_of(conn.sock) == threads.TAKE_S
        conn.sock.close()
        theirs.close()


def test_a_thread_closes_what_is_not_kept_and_closing_again_is_no_error() -> None:
    with connected() as (ours, theirs):
        started = time.monotonic()
        conn = Worker(lambda conn: False).serve(ours)
        assert time.monotonic() - started < threads.LINGER_S + 1
        assert conn.kept is False
        assert conn.sock.fileno() == -1
        assert theirs.recv(1) == b""
        conn.sock.setblocking(True)  # as gunicorn does before it closes
        conn.sock.close()


def test_a_large_answer_may_take_long_where_it_is_taken_steadily(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sending, "SEND_S", 0.5)
    content = bytes(range(256)) * (12 << 12)  # 12 MB
    taken = bytearray()
    with connected() as (ours, theirs):

        def take() -> None:
            while piece := theirs.recv(BUFFER_BYTES):
                taken.extend(piece)
                time.sleep(len(piece) / (8 << 20))  # 8 MB a second

        client = threading.Thread(target=take)
        client.start()
        threads.limit_sending(ours, 0.3)
        started = time.monotonic()
        try:
            send(ours, content)
        finally:
            took = time.monotonic() - started
            ours.close()
            client.join()
    assert taken.endswith(content)
    assert took > 2 * sending.SEND_S


def labelling() -> tuple[APIFlask, room.Room]:
    """Return an app with one route, which labels, and the room for one such request at a time."""
    app, blueprint = APIFlask(__name__), APIBlueprint("segment", __name__)
    app.extensions["settings"] = settings = Settings(web_threads=1)
    room.install(app, settings)

    @blueprint.get("/")
    def segment() -> str:
        return "labels"

    app.register_blueprint(blueprint)
    found: room.Room = app.extensions["room"]
    return app, found


def test_a_place_is_given_back_when_the_answer_is_sent() -> None:
    app, places = labelling()
    statuses: list[int] = []

    def answer(conn: Any) -> bool:
        statuses.append(app.test_client().get("/").status_code)
        with pytest.raises(Overloaded):  # the answer is still to be sent
            places.enter()
        return False

    for _ in range(2):
        with connected() as (ours, theirs):
            theirs.shutdown(socket.SHUT_WR)
            assert Worker(answer).serve(ours).kept is False
    assert statuses == [200, 200]
    places.enter()


def test_a_place_is_given_back_where_the_server_is_another() -> None:
    app, places = labelling()
    for _ in range(2):
        assert app.test_client().get("/").status_code == 200
    places.enter()
