"""`pointserve serve`: the parent of the engine and of gunicorn. It starts both, restarts the engine, and ends both."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import structlog

from service import keys
from service.engine.client import EngineClient
from service.engine.ending import End
from service.errors import ServiceError
from service.logs import configure
from service.settings import Settings, environment

RESTART_S = (0.0, 1.0, 5.0, 15.0)
STEADY_S = 60.0
IDLE_LOOKS = 3
GUNICORN_CONF = Path(__file__).parent / "web" / "gunicorn_conf.py"
log = structlog.get_logger()


def check_address(settings: Settings) -> str | None:
    """Return why the service cannot listen at its address, in a sentence, or None when it can."""
    family = socket.AF_INET6 if ":" in settings.address else socket.AF_INET
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((settings.address, settings.port))
        except OSError as error:
            return (
                f"cannot listen on {settings.address}:{settings.port} ({error.strerror}); "
                "another program may use the port: choose one with --port"
            )
    return None


def _stop(process: subprocess.Popen[bytes], patience_s: float) -> None:
    if process.poll() is None:
        process.terminate()
    try:
        process.wait(patience_s)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


class _Service:
    """The two child processes."""

    def __init__(self, settings: Settings, worker: Sequence[str]) -> None:
        self._settings, self._worker = settings, worker
        self._engine = self._start_engine()
        command = [sys.executable, "-m", "gunicorn", "-c", str(GUNICORN_CONF), "service.wsgi:app"]
        self._web = subprocess.Popen(command, env=environment(settings, keys=True), start_new_session=True)

    def _start_engine(self) -> subprocess.Popen[bytes]:
        self._engine_started = time.monotonic()
        command = [sys.executable, "-m", "service.engine.server", *self._worker]
        # A session of its own: a terminal's Ctrl-C reaches the parent alone, which ends the others in order.
        return subprocess.Popen(command, env=environment(self._settings), start_new_session=True)

    def watch(self, end: End) -> int:
        """Replace the engine whenever it ends; return 0 at the signal, and 1 when the web server ends."""
        failures = 0
        while self._web.poll() is None:
            if self._engine.poll() is not None:
                log.error("engine ended", status=self._engine.returncode)
                steady = time.monotonic() - self._engine_started > STEADY_S
                failures = 0 if steady else min(failures + 1, len(RESTART_S) - 1)
                if end.comes(RESTART_S[failures]):
                    return 0
                self._engine = self._start_engine()
            if end.comes(0.2):
                return 0
        log.error("web server ended", status=self._web.returncode)
        return 1

    def stop(self) -> None:
        """Let in no new request, finish those that run, then end; after the grace period whatever still runs.

        While something runs, new requests are answered 503; then the port is closed. The web goes first: for what it
        has begun it needs the engine.
        """
        until = time.monotonic() + self._settings.shutdown_grace_s
        if self._engine.poll() is None:
            self._engine.send_signal(signal.SIGUSR1)
        idle = 0
        # A request's steps are not all the engine's: it must be seen idle more than once.
        while idle < IDLE_LOOKS and time.monotonic() < until:
            idle = 0 if self._is_busy() else idle + 1
            time.sleep(0.1)
        _stop(self._web, max(1.0, until - time.monotonic()))
        _stop(self._engine, 5)

    def _is_busy(self) -> bool:
        client = EngineClient(self._settings.socket_path)
        try:
            return bool(client.status(1.0)["running"])
        except ServiceError:
            return False
        finally:
            client.close()


def serve(settings: Settings, *worker: str) -> int:
    """Run the service until SIGTERM or SIGINT ends it, or the web server dies.

    Args:
        settings: what the children get as their environment.
        worker: the module that a device's worker runs, where it is not the service's own.

    Returns:
        Exit status: 0 after a signal, 1 when the service cannot run.
    """
    configure("parent", settings.log_level)
    reason = check_address(settings)
    if reason is not None:
        print(f"pointserve: {reason}", file=sys.stderr)
        return 1
    try:
        settings, made = keys.ensure(settings)
    except ServiceError as error:
        print(f"pointserve: {error.detail}", file=sys.stderr)
        return 1
    if made is not None:
        print(made.announcement(settings), file=sys.stderr)
    end = End()
    service = _Service(settings, worker)
    try:
        log.info("serving", address=settings.address, port=settings.port, models=settings.models)
        return service.watch(end)
    finally:
        service.stop()
