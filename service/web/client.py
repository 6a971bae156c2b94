"""The client behind a request: how long it wants to wait, and whether it still does."""

from __future__ import annotations

import math
import socket
import time
from collections.abc import Callable

from flask import Request

from service.engine.client import has_hung_up
from service.errors import MalformedRequest
from service.web.threads import waited_s

DEADLINE_HEADER = "X-Deadline-Seconds"


def deadline(request: Request, longest_s: float) -> float:
    """Return the `time.monotonic()` by which the request is to be answered; its time begins before it has a thread.

    Args:
        request: its header X-Deadline-Seconds says after how many seconds nobody waits any more.
        longest_s: what no request may exceed, and what holds without the header.

    Raises:
        MalformedRequest: the header is no positive number.
    """
    arrived = time.monotonic() - waited_s()
    given = request.headers.get(DEADLINE_HEADER)
    if given is None:
        return arrived + longest_s
    try:
        seconds = float(given)
    except ValueError:
        seconds = math.nan
    if not 0 < seconds < math.inf:
        raise MalformedRequest(f"{DEADLINE_HEADER} is {given[:20]!r}; it must be a number of seconds above 0")
    return arrived + min(seconds, longest_s)


def gone(request: Request) -> Callable[[], bool]:
    """Return what tells whether the client has closed its connection."""
    connection = request.environ.get("gunicorn.socket")
    if not isinstance(connection, socket.socket):
        return lambda: False
    return lambda: has_hung_up(connection)
