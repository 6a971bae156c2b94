"""More clients than threads, each with half a request: the service answers others again within seconds."""

from __future__ import annotations

import contextlib
import socket
import time
from collections.abc import Callable

import pytest
import requests

from service.web import threads
from tests.http import clouds
from tests.http.conftest import Service, wait_ready

THREADS = 6
HALVES = (b"GET /health HTTP/1.1\r\nHost: x\r\nX-Never: ends", b"GET /heal")


@pytest.mark.slow
def test_halves_of_headers_hold_no_thread_for_long(start_service: Callable[..., Service]) -> None:
    service = start_service(WEB_THREADS=str(THREADS))
    wait_ready(service)
    host, port = service.url.removeprefix("http://").split(":")
    with contextlib.ExitStack() as held:
        # Of either kind as many as there are threads: each kind alone would take them all.
        for half in HALVES * THREADS:
            held.enter_context(socket.create_connection((host, int(port)), timeout=5)).sendall(half)
        started = time.monotonic()
        answer = requests.post(f"{service.url}/v1/segment", clouds.as_npz(clouds.parcel_scene(500)), timeout=90)
        assert answer.status_code == 200
        # Two rounds of them are before it in the queue.
        assert time.monotonic() - started < 3 * threads.HEADER_S + 10
    assert "exception" not in service.log.read_text()
