"""What watches how long clients take for their bodies: it ends the late ones, and keeps nothing of the others."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
import weakref

import pytest

from service.web.patience import Patience


@pytest.fixture
def patience() -> Patience:
    return Patience()


def read(patience: Patience, deadline: float, took: dict[float, float]) -> None:
    """Read from a client that sends nothing, and note when that ended."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.settimeout(20)
        with patience.until(deadline, ours):
            assert ours.recv(1) == b""
            took[deadline] = time.monotonic()


def test_connections_end_at_their_own_deadlines_in_whatever_order_they_begin(patience: Patience) -> None:
    took: dict[float, float] = {}
    now = time.monotonic()
    deadlines = [now + wait for wait in (1.2, 0.4, 0.8, 0.2, 1.0)]
    threads = [threading.Thread(target=read, args=(patience, deadline, took)) for deadline in deadlines]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert sorted(took) == sorted(deadlines)
    assert sorted(took, key=took.__getitem__) == sorted(deadlines)
    assert all(ended >= deadline for deadline, ended in took.items())
    assert len(patience) == 0


def test_a_deadline_in_the_past_ends_the_reading_at_once(patience: Patience) -> None:
    took: dict[float, float] = {}
    started = time.monotonic()
    read(patience, started - 1.0, took)
    assert time.monotonic() - started < 5


def test_a_connection_whose_block_ended_in_time_is_left_alone(patience: Patience) -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        with patience.until(time.monotonic() + 0.1, ours):
            pass
        with patience.until(time.monotonic() + 10, ours):
            time.sleep(0.3)
            theirs.sendall(b"x")
            assert ours.recv(1) == b"x"


def test_nothing_is_kept_of_a_thousand_requests_that_were_in_time(patience: Patience) -> None:
    kept: list[weakref.ref[socket.socket]] = []
    # One that goes on all the while, with the first deadline: what comes after must not wait for it.
    with contextlib.ExitStack() as ends:
        ours, _theirs = (ends.enter_context(end) for end in socket.socketpair())
        ends.enter_context(patience.until(time.monotonic() + 60, ours))
        for _ in range(1000):
            connection = socket.socket()
            with connection, patience.until(time.monotonic() + 120, connection):
                kept.append(weakref.ref(connection))
            del connection
        assert len(patience) == 1
        assert [one for one in kept if one() is not None] == []
