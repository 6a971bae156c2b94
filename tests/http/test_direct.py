"""Bodies that come in pieces, with the next request close behind, and through another server than gunicorn."""

from __future__ import annotations

import contextlib
import http.client
import socket
import struct
import threading
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from gunicorn.http.body import Body, LengthReader
from gunicorn.http.unreader import SocketUnreader
from gunicorn.http.wsgi import FileWrapper
from hypothesis import given
from hypothesis import strategies as st
from werkzeug.exceptions import ClientDisconnected

from service.engine.pool import Pool
from service.web import direct, sending
from service.web.body import Upload
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
        with connection.makefile("rb") as answers:  # one for all three: it reads ahead
            for _ in range(3):
                statuses.append(int(answers.readline().split()[1]))
                answers.read(int(http.client.parse_headers(answers)["Content-Length"]))
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


@contextlib.contextmanager
def half_read(ahead: bytes, length: int) -> Any:
    """Yield a body of which gunicorn has read so much ahead, the client's end, and gunicorn's reader."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        unreader = SocketUnreader(ours)
        unreader.unread(ahead)
        stream = Body(LengthReader(unreader, length))
        body = direct.body(stream, ours, stall_s=2 * direct.WAIT_S)
        assert body is not None
        yield SimpleNamespace(body=body, stream=stream, unreader=unreader, client=theirs)


@given(st.binary(min_size=1, max_size=600), st.binary(max_size=200), st.integers(0, 800), st.booleans())
def test_a_body_is_read_to_its_end_and_no_further(content: bytes, after: bytes, ahead: int, whole: bool) -> None:
    sent = content + after
    # What comes after the body stays in the connection, unless it was read ahead with it.
    rest = sent[ahead : max(ahead, len(content))]
    with half_read(sent[:ahead], len(content)) as at:
        at.client.sendall(rest)
        if whole:
            memory = bytearray(len(content))
            at.body.read_into(memoryview(memory))
        else:
            memory = bytearray(b"".join(bytes(piece) for piece in at.body.pieces()))
        assert bytes(memory) == content
        assert at.unreader.take_buffered() == sent[len(content) : ahead]
        assert not at.stream.failed
        assert at.stream.read() == b""


def test_silence_within_a_body_has_an_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(direct, "_LIMITED", struct.pack("@ll", 0, 100_000))
    with half_read(b"", 3) as at:
        at.client.sendall(b"a")
        started = time.monotonic()
        with pytest.raises(TimeoutError):
            at.body.read_into(memoryview(bytearray(3)))
        assert 0.2 <= time.monotonic() - started < 5
        assert at.stream.failed


def test_a_client_that_dribbles_is_not_silent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(direct, "_LIMITED", struct.pack("@ll", 0, 200_000))
    with half_read(b"", 8) as at:

        def dribble() -> None:
            for byte in b"abcdefgh":
                time.sleep(0.15)
                at.client.send(bytes([byte]))

        thread = threading.Thread(target=dribble)
        thread.start()
        memory = bytearray(8)
        at.body.read_into(memoryview(memory))
        thread.join()
        assert bytes(memory) == b"abcdefgh"


def test_a_body_that_ends_early_is_said_to() -> None:
    with half_read(b"ab", 5) as at:
        at.client.sendall(b"c")
        at.client.close()
        with pytest.raises(ClientDisconnected):
            at.body.read_into(memoryview(bytearray(5)))
        assert at.stream.failed


def test_memory_of_a_request_that_failed_is_not_used_again() -> None:
    piece = Pool().take(100)
    assert piece is not None
    with pytest.raises(KeyError), Upload(piece.descriptor, 10, None, None, piece=piece):
        raise KeyError
    assert piece.spoiled and not len(piece.memory)


@contextlib.contextmanager
def answering(method: str = "POST") -> Any:
    """Yield gunicorn's response as we send it, and the client's end."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        asked = SimpleNamespace(method=method, version=(1, 1), should_close=lambda: False)
        yield SimpleNamespace(
            response=sending.Sent(asked, ours, SimpleNamespace(is_ssl=False, sendfile=None)), client=theirs
        )


@pytest.mark.parametrize(("method", "headers", "pieces"), [
    ("POST", [("Content-Length", "10")], [b"01234", b"56789"]),
    ("POST", [("Content-Length", "0")], [b""]),
    ("POST", [("Content-Length", "0")], []),
    ("POST", [], [b"01234", b"", b"56789"]),
    ("HEAD", [("Content-Length", "10")], [b"01234"]),
])  # fmt: skip
def test_an_answer_arrives_as_it_was_written(method: str, headers: list[tuple[str, str]], pieces: list[bytes]) -> None:
    with answering(method) as at:
        at.response.start_response("200 OK", headers)
        for piece in pieces:
            at.response.write(piece)
        at.response.close()
        found = http.client.HTTPResponse(at.client, method=method)
        found.begin()
        assert found.read() == (b"" if method == "HEAD" else b"".join(pieces))
        at.client.setblocking(False)
        with pytest.raises(BlockingIOError):
            at.client.recv(1)


def test_the_head_leaves_with_the_first_piece() -> None:
    with answering() as at:
        at.response.start_response("200 OK", [("Content-Length", "6")])
        at.response.write(b"abc")
        assert at.client.recv(4096).endswith(b"\r\n\r\nabc")
        at.response.write(b"def")
        assert at.client.recv(4096) == b"def"


def test_a_file_comes_after_its_head(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"content")
    with answering() as at, (tmp_path / "file").open("rb") as file:
        at.response.start_response("200 OK", [("Content-Length", "7")])
        at.response.write_file(FileWrapper(file))
        at.response.close()
        time.sleep(0.05)
        assert at.client.recv(4096).endswith(b"\r\n\r\ncontent")


def test_a_client_that_takes_no_answer_is_let_go(monkeypatch: pytest.MonkeyPatch) -> None:
    with answering() as at:
        at.response.sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, struct.pack("@ll", 0, 100_000))
        at.response.start_response("200 OK", [("Content-Length", str(8 << 20))])
        with pytest.raises(TimeoutError, match="does not take"):
            at.response.write(b"x" * (8 << 20))
    monkeypatch.setattr(sending, "SEND_S", 0.0)
    with answering() as at:
        at.response.sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, struct.pack("@ll", 0, 100_000))
        at.response.start_response("200 OK", [("Content-Length", str(8 << 20))])
        with pytest.raises(TimeoutError, match="too slowly"):
            at.response.write(b"x" * (8 << 20))


def test_a_client_that_takes_no_file_is_let_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sending, "SEND_S", 0.1)
    (tmp_path / "file").write_bytes(b"x" * (8 << 20))
    with answering() as at, (tmp_path / "file").open("rb") as file:
        at.response.start_response("200 OK", [("Content-Length", str(8 << 20))])
        with pytest.raises(TimeoutError):
            at.response.write_file(FileWrapper(file))
