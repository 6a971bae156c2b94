"""Bodies that come in pieces, with the next request close behind, and through another server than gunicorn."""

from __future__ import annotations

import http.client
import socket
import time

from service.web import direct
from tests.http import clouds
from tests.http.conftest import Service

BODY = clouds.as_npz(clouds.parcel_scene(30_000))


def request_of(body: bytes) -> bytes:
    return f"POST /v1/segment HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body


def answer_of(connection: socket.socket) -> http.client.HTTPResponse:
    answer = http.client.HTTPResponse(connection)
    answer.begin()
    return answer


def connect(service: Service) -> socket.socket:
    host, port = service.url.removeprefix("http://").split(":")
    return socket.create_connection((host, int(port)), timeout=60)


def test_requests_that_follow_at_once_are_told_apart(service: Service) -> None:
    short = clouds.as_npz(clouds.parcel_scene(50))
    with connect(service) as connection:
        connection.sendall(request_of(short) + request_of(short[:100]) + request_of(short))
        statuses = []
        for _ in range(3):
            answer = answer_of(connection)
            answer.read()
            statuses.append(answer.status)
    assert statuses == [200, 400, 200]


def test_a_body_in_small_pieces_is_the_same_body(service: Service) -> None:
    whole = service.post("/v1/segment", BODY).json()["labels"]
    data = request_of(BODY)
    with connect(service) as connection:
        for start in range(0, len(data), 100_000):
            connection.sendall(data[start : start + 100_000])
            time.sleep(0.01)
        answer = answer_of(connection)
        assert answer.status == 200
        assert b'"labels":[' + ",".join(map(str, whole)).encode() in answer.read()


def test_another_server_s_stream_is_left_alone() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        assert direct.body(object(), ours, 1.0) is None
