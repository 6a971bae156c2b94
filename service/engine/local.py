"""An engine of one's own, for programs that need no HTTP: the command line and the tests."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from service.engine.client import EngineClient
from service.errors import NotReady
from service.settings import Settings, environment


@contextmanager
def running(settings: Settings, start_s: float = 300.0, *worker: str) -> Iterator[EngineClient]:
    """Start an engine, wait until its models are loaded, and end it at the end of the block.

    Args:
        settings: models, device, limits; its state folder is replaced by a temporary one.
        start_s: seconds after which to give up.
        worker: the module that a device's worker runs, where it is not the service's own.

    Raises:
        NotReady: the engine or its models do not start; the sentence says why.
    """
    with tempfile.TemporaryDirectory(prefix="pointserve-") as folder:
        own = settings.model_copy(update={"state_dir": Path(folder)})
        process = subprocess.Popen(
            [sys.executable, "-m", "service.engine.server", *worker],
            stdin=subprocess.DEVNULL,
            env=environment(own),
            start_new_session=True,  # Ctrl-C is for the program that started the engine, which then ends it
        )
        try:
            client = EngineClient(own.socket_path)
            wait_until_ready(client, process, time.monotonic() + start_s)
            yield client
        finally:
            process.terminate()
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def wait_until_ready(client: EngineClient, process: subprocess.Popen[bytes], deadline: float) -> None:
    """Return once the engine's models are loaded.

    Raises:
        NotReady: they do not load, the process ended, or the deadline (`time.monotonic()`) passed.
    """
    while True:
        if process.poll() is not None:
            raise NotReady(f"the engine ended with status {process.returncode} while it started")
        try:
            status = client.status()
        except NotReady as error:
            status = {"state": "loading", "reason": error.detail}
        if status["state"] == "ready":
            return
        if status["state"] == "failed" or time.monotonic() > deadline:
            raise NotReady(status["reason"])
        time.sleep(0.05)
