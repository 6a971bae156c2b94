"""A service to measure: its engine and web as `pointserve serve` starts them, on the stand-in or on real models."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
from rich.console import Console
from rich.table import Table

from benchmarks.machine import machine

ROOT = Path(__file__).resolve().parents[1]
START_S = 120.0
ROLES = {
    "service.engine.server": "engine",  # before the workers': its command names theirs
    "service.engine.reader": "readers",
    "service.engine.worker": "worker",
    "benchmarks.stub": "worker",
    "gunicorn": "web",
    "service.cli": "parent",
}


@dataclass
class Running:
    """A service that runs.

    Attributes:
        port: where it answers.
        parents: the processes that were started; all others are their children.
        log: what they say.
    """

    port: int
    parents: list[subprocess.Popen[bytes]] = field(default_factory=list)
    log: Path = Path()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def health(self) -> dict[str, Any]:
        """Return what /health?verbose says; {} while nothing answers or it is not ready."""
        try:
            with urllib.request.urlopen(f"{self.url}/health?verbose", timeout=10) as answer:
                found: dict[str, Any] = json.loads(answer.read())
                return found
        except (OSError, urllib.error.HTTPError):
            return {}

    def wait_ready(self, patience_s: float = START_S) -> None:
        """Return once the service is ready; raises SystemExit with its log where it does not become so."""
        until = time.monotonic() + patience_s
        while self.health().get("status") != "ready":
            if time.monotonic() > until or any(parent.poll() is not None for parent in self.parents):
                raise SystemExit("the service does not start:\n" + self.log.read_text()[-3000:])
            time.sleep(0.02)

    def members(self) -> list[psutil.Process]:
        """Return all processes of the service."""
        found: list[psutil.Process] = []
        for parent in self.parents:
            with contextlib.suppress(psutil.Error):
                process = psutil.Process(parent.pid)
                found += [process, *process.children(recursive=True)]
        return found

    def web(self) -> psutil.Process:
        """Return gunicorn's worker process."""
        (found,) = [one for one in self.members() if "gunicorn" in " ".join(one.cmdline()) and not one.children()]
        return found

    def memory(self) -> dict[str, tuple[int, int]]:
        """Return the resident memory (RSS) of all processes in bytes, by what they do, and what of it is anonymous.

        Pages that several of them map count for each. The proportional set size, in which they count once, is no
        measure of growth: other programs' use of the same libraries makes it smaller, and larger when they end. Even
        RSS falls where the kernel drops pages of files that nobody reads; it cannot drop anonymous ones.
        """
        found: dict[str, tuple[int, int]] = {}
        for member in self.members():
            with contextlib.suppress(psutil.Error):
                role, usage = _role(member.cmdline()), member.memory_info()
                rss, anonymous = found.get(role, (0, 0))
                found[role] = rss + usage.rss, anonymous + usage.rss - usage.shared
        return found

    def memory_bytes(self) -> int:
        """Return the resident memory (RSS) of all processes."""
        return sum(rss for rss, _anonymous in self.memory().values())


def _role(command: Sequence[str]) -> str:
    text = " ".join(command)
    return next((role for module, role in ROLES.items() if module in text), "others")


@contextlib.contextmanager
def serving(stub_ms: float | None = None, **environment: str) -> Iterator[Running]:
    """Start a service and wait until it is ready.

    Args:
        stub_ms: cost of the stand-in's device for 100,000 points; None: the real models.
        environment: settings.
    """
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with tempfile.TemporaryDirectory(prefix="pointserve-") as folder:
        own = {"PORT": str(port), "STATE_DIR": folder, "API_KEYS": "none", "LOG_LEVEL": "warning", **environment}
        running = Running(port, log=Path(folder) / "log")
        with running.log.open("wb") as log:
            try:
                for command, more in _commands(stub_ms):
                    both = {**os.environ, **own, **more}
                    running.parents.append(
                        subprocess.Popen(command, cwd=ROOT, env=both, stdout=log, stderr=log, start_new_session=True)
                    )
                running.wait_ready()
                yield running
            finally:
                for parent in reversed(running.parents):
                    parent.terminate()
                for parent in reversed(running.parents):
                    with contextlib.suppress(subprocess.TimeoutExpired):
                        parent.wait(30)
                    parent.kill()


def _commands(stub_ms: float | None) -> Iterator[tuple[list[str], dict[str, str]]]:
    python = [sys.executable, "-m"]
    if stub_ms is None:
        yield [*python, "service.cli", "serve"], {}
        return
    # What service/serve.py starts, with another worker.
    lean = {"OPENBLAS_NUM_THREADS": "1", "MALLOC_ARENA_MAX": "2", "PYTHONUNBUFFERED": "1"}
    yield [*python, "service.engine.server", "benchmarks.stub"], {**lean, "STUB_MS": str(stub_ms), "MODELS": "stub"}
    conf = str(ROOT / "service" / "web" / "gunicorn_conf.py")
    yield [*python, "gunicorn", "-c", conf, "service.wsgi:app"], {**lean, "MODELS": "stub"}


def show(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a table; its title names the machine."""
    table = Table(title=f"{title}\n{machine()}")
    for index, column in enumerate(columns):
        table.add_column(column, justify="left" if index == 0 else "right")
    for row in rows:
        table.add_row(*row)
    Console(width=120).print(table)
