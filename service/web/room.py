"""How many clouds a web process takes at a time: the next one is refused at once, not left to wait for a thread."""

from __future__ import annotations

import threading
import time

from apiflask import APIFlask
from flask import current_app, g, request
from werkzeug.wsgi import get_input_stream

from service.errors import Overloaded
from service.settings import Settings
from service.web.body import drain
from service.web.threads import afterwards

LABELLING = {"segment.segment", "measure.measure", "summary.classify", "summary.embed", "v2.infer"}
DRAIN_S = 5.0


class Room:
    """Places for requests that label a cloud. Safe to use from many threads.

    One thread in eight stays free for refusals, health and metrics. With every place taken, a request's time in here
    is the time in which all of them are answered: that is when a refused one may come again.

    Args:
        threads: how many requests the process can handle.
    """

    def __init__(self, threads: int) -> None:
        self.places = max(1, threads - max(1, threads // 8))
        self._taken = 0
        self._usual_s = 1.0
        self._lock = threading.Lock()

    def enter(self) -> None:
        """Take a place.

        Raises:
            Overloaded: there is none.
        """
        with self._lock:
            if self._taken >= self.places:
                full = f"{self._taken} requests are being answered and the limit is {self.places}"
                raise Overloaded(full, retry_after_s=max(1.0, round(self._usual_s)))
            self._taken += 1

    def leave(self, seconds: float) -> None:
        """Give a place back, after so many seconds."""
        with self._lock:
            self._taken -= 1
            self._usual_s += 0.1 * (seconds - self._usual_s)


def install(app: APIFlask, settings: Settings) -> None:
    """Give the requests of an app that label clouds as many places as its threads allow."""
    app.extensions["room"] = Room(settings.web_threads)
    app.before_request(_enter)
    app.teardown_request(_leave)


def _enter() -> None:
    if request.endpoint not in LABELLING:
        return
    room: Room = current_app.extensions["room"]
    settings: Settings = current_app.extensions["settings"]
    try:
        room.enter()
    except Overloaded:
        drain(request, get_input_stream(request.environ), settings.max_body_bytes, DRAIN_S)
        raise
    g.entered = time.monotonic()


def _leave(_error: BaseException | None) -> None:
    entered = g.pop("entered", None)
    if entered is None:
        return
    room: Room = current_app.extensions["room"]

    def leave() -> None:
        room.leave(time.monotonic() - entered)

    # The thread is not free before the client has taken the answer. (call_on_close is not called for every answer.)
    if not afterwards(leave):
        leave()
