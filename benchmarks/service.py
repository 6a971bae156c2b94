"""The service from outside: start-up, time from POST to answer, memory, many clients at once.

    python -m benchmarks.service [--clients 20] [--requests 5] [--repeats 15]

It starts a service of its own on the bundled model and sends it samples/parcels.ply. There is no peer that answers the
same question over HTTP; each figure stands beside the bound it has to keep.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import psutil
from rich.console import Console
from rich.table import Table

from benchmarks.machine import machine

ROOT = Path(__file__).resolve().parents[1]
SAMPLE = ROOT / "samples" / "parcels.ply"


@dataclass
class Memory:
    """Proportional set size of a process and all its children, sampled until the end of the block."""

    process: psutil.Process
    peak_bytes: int = 0
    _ended: threading.Event = field(default_factory=threading.Event)

    def now(self) -> int:
        total = 0
        for member in [self.process, *self.process.children(recursive=True)]:
            with contextlib.suppress(psutil.Error):
                total += member.memory_full_info().pss
        return total

    def __enter__(self) -> Memory:
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()
        return self

    def _watch(self) -> None:
        while not self._ended.wait(0.1):
            self.peak_bytes = max(self.peak_bytes, self.now())

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()


@contextlib.contextmanager
def service() -> Iterator[tuple[str, psutil.Process, float]]:
    """Start the service; yield its URL, its parent process and the seconds until it was ready."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with tempfile.TemporaryDirectory() as folder, (Path(folder) / "log").open("wb") as log:
        environment = {**os.environ, "PORT": str(port), "STATE_DIR": folder}
        started = time.perf_counter()
        command = [sys.executable, "-m", "service.cli", "serve"]
        process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=log, stderr=log)
        url = f"http://127.0.0.1:{port}"
        try:
            while not ready(url):
                if process.poll() is not None:
                    raise SystemExit((Path(folder) / "log").read_text())
                time.sleep(0.02)
            yield url, psutil.Process(process.pid), time.perf_counter() - started
        finally:
            process.terminate()
            process.wait()


def ready(url: str) -> bool:
    """Return whether the service answers /health with 200."""
    try:
        with urllib.request.urlopen(f"{url}/health", timeout=5) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


def post(url: str, body: bytes, query: str = "") -> float:
    """POST the body and return the seconds until the whole answer was there; raises on any status but 200."""
    started = time.perf_counter()
    with urllib.request.urlopen(f"{url}/v1/segment{query}", body, timeout=300) as answer:
        answer.read()
    return time.perf_counter() - started


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clients", type=int, default=20)
    parser.add_argument("--requests", type=int, default=5, help="requests of each client")
    parser.add_argument("--repeats", type=int, default=15, help="requests of which the median is printed")
    arguments = parser.parse_args()
    body = SAMPLE.read_bytes()
    points = int(body.split(b"element vertex ", 1)[1].split(b"\n", 1)[0])
    table = Table(title=f"{machine()}, {points} points")
    for column in ("figure", "measured", "bound"):
        table.add_column(column, justify="left" if column == "figure" else "right")

    starts = []
    for _ in range(2):
        with service() as (_url, _process, seconds):
            starts.append(seconds)
    with service() as (url, process, seconds), Memory(process) as memory:
        starts.append(seconds)
        cold = post(url, body)
        warm = [post(url, body) for _ in range(arguments.repeats)]
        files = [post(url, body, "?output=same") for _ in range(arguments.repeats)]
        total = arguments.clients * arguments.requests
        rounds = []
        times = []
        started = time.perf_counter()
        with ThreadPoolExecutor(arguments.clients) as clients:
            for _ in range(arguments.requests):
                times += clients.map(lambda _: post(url, body), range(arguments.clients))
                rounds.append(memory.now())
        seconds = time.perf_counter() - started
    rows = [
        ("start-up until ready, median of 3", f"{statistics.median(starts):.2f} s", "15 s"),
        ("first POST to answer (JSON)", f"{cold:.3f} s", ""),
        ("POST to answer (JSON), warm, median", f"{statistics.median(warm):.3f} s", "2 s"),
        ("POST to answer (labelled PLY), warm, median", f"{statistics.median(files):.3f} s", "2 s"),
        (f"{arguments.clients} clients: answered with 200", f"{len(times)} of {total}", "all"),
        (f"{arguments.clients} clients: requests/s", f"{total / seconds:.2f}", ""),
        (f"{arguments.clients} clients: slowest answer", f"{max(times):.2f} s", ""),
        ("memory of all processes, peak", f"{memory.peak_bytes / 1e6:.0f} MB", "1500 MB"),
        (
            f"memory, last round of {arguments.clients} clients less the first",
            f"{(rounds[-1] - rounds[0]) / 1e6:+.0f} MB",
            "flat",
        ),
    ]
    for row in rows:
        table.add_row(*row)
    Console(width=110).print(table)


if __name__ == "__main__":
    main()
