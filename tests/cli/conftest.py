"""`pointserve demo` as users start it: one service for the tests of the command line."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.http.clouds import as_ply, parcel_scene
from tests.http.conftest import PATIENCE_S
from tests.ports import free_port

ROOT = Path(__file__).resolve().parents[2]
POINTSERVE = [sys.executable, "-m", "service.cli"]
POINTS = 20_000


@dataclass(frozen=True)
class Demo:
    """A demo that has done its job and stays.

    Attributes:
        url: of its service.
        folder: where it was started; its results are in `output`.
        said: what it printed.
        process: itself.
    """

    url: str
    folder: Path
    said: str
    process: subprocess.Popen[str]


def pointserve(*arguments: object, folder: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Run a command to its end."""
    command = [*POINTSERVE, *map(str, arguments)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "140"}
    return subprocess.run(
        command, cwd=folder or ROOT, env=environment, capture_output=True, text=True, timeout=PATIENCE_S
    )


@pytest.fixture(scope="session")
def sample(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A table with a box on it, as PLY."""
    path = tmp_path_factory.mktemp("clouds") / "table scan.ply"
    path.write_bytes(as_ply(parcel_scene(POINTS)))
    return path


@pytest.fixture(scope="package")
def demo(sample: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Demo]:
    """A running demo; at the end Ctrl-C is pressed in its terminal, and everything must end quietly."""
    folder, port = tmp_path_factory.mktemp("demo"), free_port()
    command = [*POINTSERVE, "demo", "--port", str(port), "--sample", str(sample)]
    process = subprocess.Popen(
        command,
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT), "STATE_DIR": str(folder / "state")},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    assert process.stdout is not None
    said = ""
    for line in process.stdout:
        said += line
        if "curl" in line:
            break
    else:
        pytest.fail(f"the demo ended with status {process.wait()}:\n{said}")
    yield Demo(f"http://127.0.0.1:{port}", folder, said, process)
    os.killpg(process.pid, signal.SIGINT)
    rest = process.stdout.read()
    assert process.wait(PATIENCE_S) == 0, rest
    assert rest == ""
    with socket.socket() as probe:
        assert probe.connect_ex(("127.0.0.1", port)) != 0, "something still listens on the port"
