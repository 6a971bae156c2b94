"""Load on an HTTP server: requests made beforehand, sent as they are over connections that are kept."""

from __future__ import annotations

import json
import random
import socket
import statistics
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import accumulate, count
from typing import Any

import numpy as np

TIMEOUT_S = 180.0


@dataclass(frozen=True)
class Answer:
    """What came back: status (0: nothing did), Retry-After, and the body's size."""

    status: int
    retry_after: bool = False
    size: int = 0


def post(path: str, body: bytes, content_type: str, **headers: str) -> bytes:
    """Return a whole request as it goes over the wire; `_` in a header's name stands for `-`."""
    lines = [f"POST {path} HTTP/1.1", "Host: 127.0.0.1", f"Content-Type: {content_type}"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    return "\r\n".join([*lines, f"Content-Length: {len(body)}", "", ""]).encode() + body


def infer(coord: np.ndarray, model: str) -> bytes:
    """Return a request of the Open Inference Protocol: binary coordinates (N, 3) float32 in, binary labels out."""
    head: dict[str, Any] = {
        "inputs": [
            {
                "name": "coord",
                "shape": list(coord.shape),
                "datatype": "FP32",
                "parameters": {"binary_data_size": coord.size * 4},
            }
        ],
        "outputs": [{"name": "label", "parameters": {"binary_data": True}}],
    }
    text = json.dumps(head).encode()
    return post(
        f"/v2/models/{model}/infer",
        text + coord.astype("<f4").tobytes(),
        "application/octet-stream",
        Inference_Header_Content_Length=str(len(text)),
    )


class Connection:
    """One client. A connection that the server closes is opened again."""

    def __init__(self, port: int, timeout_s: float = TIMEOUT_S) -> None:
        self._port, self._timeout_s = port, timeout_s
        self._socket: socket.socket | None = None
        self._buffer = bytearray(1 << 20)

    def ask(self, request: bytes) -> Answer:
        """Send a request and read the whole answer; status 0 where there is none."""
        for attempt in range(2):
            kept = self._socket is not None
            try:
                if self._socket is None:
                    self._socket = socket.create_connection(("127.0.0.1", self._port), timeout=self._timeout_s)
                    self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                self._socket.sendall(request)
                return self._read(self._socket)
            except OSError:
                self.close()
                if not kept or attempt:  # a connection that was kept may have been closed since: that is no failure
                    break
        return Answer(0)

    def _read(self, sock: socket.socket) -> Answer:
        size, end, view = 0, -1, memoryview(self._buffer)
        while end < 0:
            got = sock.recv_into(view[size : size + 65536])
            if not got:
                raise ConnectionError("closed")
            size += got
            end = self._buffer.find(b"\r\n\r\n", 0, size)
        lines = bytes(view[:end]).decode("latin1").split("\r\n")
        headers = {key.lower(): value.strip() for key, _, value in (line.partition(":") for line in lines[1:])}
        length = int(headers["content-length"])
        left = length - (size - end - 4)
        while left > 0:
            got = sock.recv_into(view[: min(left, len(view))])
            if not got:
                raise ConnectionError("closed")
            left -= got
        if headers.get("connection", "").lower() == "close":
            self.close()
        return Answer(int(lines[0].split()[1]), "retry-after" in headers, length)

    def close(self) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None


@dataclass
class Outcome:
    """What a load came to: seconds of each answer, statuses, and how long all of it took."""

    seconds: list[float] = field(default_factory=list)
    statuses: Counter[int] = field(default_factory=Counter)
    without_retry_after: int = 0
    took_s: float = 0.0

    def add(self, answer: Answer, seconds: float) -> None:
        self.statuses[answer.status] += 1
        if answer.status == 200:
            self.seconds.append(seconds)
        elif answer.status == 503 and not answer.retry_after:
            self.without_retry_after += 1

    @property
    def rate(self) -> float:
        """Answers with labels a second."""
        return self.statuses[200] / self.took_s

    @property
    def wrong(self) -> int:
        """Answers that are neither labels nor a 503 that says when to come again."""
        others = sum(number for status, number in self.statuses.items() if status not in (200, 503))
        return others + self.without_retry_after

    def percentile(self, share: float) -> float:
        """Return the seconds below which this share of the answers was there."""
        ordered = sorted(self.seconds)
        return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else float("nan")


def one_by_one(port: int, request: bytes, repeats: int) -> list[float]:
    """Return the seconds of each of so many requests of one client; raises on any status but 200."""
    connection = Connection(port)
    times = []
    for _ in range(repeats):
        started = time.perf_counter()
        answer = connection.ask(request)
        times.append(time.perf_counter() - started)
        if answer.status != 200:
            raise SystemExit(f"the service answered {answer.status}")
    connection.close()
    return times


def closed_loop(
    port: int,
    requests: Sequence[bytes],
    clients: int,
    seconds: float,
    *,
    outcome: Outcome | None = None,
    ended: threading.Event | None = None,
) -> Outcome:
    """Have each client send the next of the requests, over and over, as soon as its last one is answered.

    Args:
        port: of the server, on this machine.
        requests: whole requests, as `post` and `infer` make them.
        clients: how many connections, each with a thread.
        seconds: after which no request is begun.
        outcome: what answers are added to, for who wants to look on.
        ended: ends the load early.
    """
    until = time.perf_counter() + seconds
    ended = ended or threading.Event()

    def work(numbers: Iterator[int], tell: Callable[[Answer, float], None]) -> None:
        connection = Connection(port)
        while (started := time.perf_counter()) < until and not ended.is_set():
            answer = connection.ask(requests[next(numbers) % len(requests)])
            tell(answer, time.perf_counter() - started)
            if answer.status == 0:
                time.sleep(0.01)
        connection.close()

    return _together(work, clients, outcome or Outcome())


def open_loop(
    port: int, requests: Sequence[bytes], clients: int, seconds: float, rate: float, *, poisson: bool = False
) -> Outcome:
    """Send requests at set times, however slow the answers are; their seconds count from the set time.

    Args:
        port, requests, clients, seconds: as in `closed_loop`; with all clients busy a request goes out late.
        rate: requests a second.
        poisson: whether the times are random, else they are evenly spaced.
    """
    due = set_times(rate, seconds, poisson)
    total = len(due)
    started = time.perf_counter()

    def work(numbers: Iterator[int], tell: Callable[[Answer, float], None]) -> None:
        connection = Connection(port)
        while (number := next(numbers)) < total:
            at = started + due[number]
            if (early := at - time.perf_counter()) > 0:
                time.sleep(early)
            answer = connection.ask(requests[number % len(requests)])
            tell(answer, time.perf_counter() - at)
        connection.close()

    return _together(work, clients, Outcome())


def set_times(rate: float, seconds: float, poisson: bool) -> list[float]:
    """Return the seconds at which an open loop sends; the same again for the same arguments."""
    total, gaps = max(1, int(rate * seconds)), random.Random(0)
    if not poisson:
        return [index / rate for index in range(total)]
    return list(accumulate(gaps.expovariate(rate) for _ in range(total)))


def _together(
    work: Callable[[Iterator[int], Callable[[Answer, float], None]], None], clients: int, outcome: Outcome
) -> Outcome:
    lock, numbers = threading.Lock(), _Numbers()

    def tell(answer: Answer, seconds: float) -> None:
        with lock:
            outcome.add(answer, seconds)

    threads = [threading.Thread(target=work, args=(numbers, tell)) for _ in range(clients)]
    started = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    outcome.took_s = time.perf_counter() - started
    return outcome


class _Numbers:
    """0, 1, 2, ... for many threads."""

    def __init__(self) -> None:
        self._count, self._lock = count(), threading.Lock()

    def __iter__(self) -> _Numbers:
        return self

    def __next__(self) -> int:
        with self._lock:
            return next(self._count)


def median_ms(seconds: list[float]) -> float:
    """Return the median in milliseconds."""
    return statistics.median(seconds) * 1e3
