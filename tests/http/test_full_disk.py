"""A disk that is full: the service lives on, and is whole again when there is room."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
import requests

from tests.http import clouds
from tests.http.conftest import start, wait_ready, wait_until

SCENE = clouds.as_npz(clouds.parcel_scene(3000))
SIZE = "3m"


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A small file system of its own."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={SIZE}", "none", str(folder)]
    try:
        made = subprocess.run(mount, capture_output=True, text=True)
    except FileNotFoundError:
        pytest.skip("there is no mount here")
    if made.returncode:
        pytest.skip(f"only root mounts file systems: {made.stderr.strip()}")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def fill(path: Path) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT)
    try:
        while True:
            os.write(descriptor, bytes(4096))
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
    finally:
        os.close(descriptor)


def open_memory(pid: int) -> int:
    """Return how many pieces of shared memory a process holds open."""
    links = [str(entry) for entry in Path(f"/proc/{pid}/fd").iterdir()]
    return sum("memfd:pointserve" in os.readlink(link) for link in links if os.path.islink(link))


def test_a_full_disk(disk: Path) -> None:
    # The log stands on the same disk.
    service = start(disk, API_KEYS="none", RATE_LIMIT="1000/minute", TMPDIR=str(disk))
    try:
        wait_ready(service)
        fill(disk / "rest")
        before = service.processes()
        assert service.post("/v1/segment", SCENE).status_code == 200
        assert service.post("/v1/segment?output=ply", SCENE).content.startswith(b"ply")
        assert service.post("/v1/segment?format=e57", bytes(100)).status_code == 400
        assert 'pointserve_model_clouds_total{model="parcels",outcome="labelled"} 2.0' in service.get("/metrics").text
        assert service.processes() == before
        # A web process that starts now has no room for its counts.
        os.kill(before["web_pid"], signal.SIGKILL)
        wait_until(lambda: psutil.pid_exists(before["web_pid"]) is False, 30)

        def answers() -> bool:
            try:
                return requests.post(service.url + "/v1/segment", SCENE, timeout=10).status_code == 200
            except (requests.ConnectionError, requests.Timeout):
                return False

        wait_until(answers, 60)
        assert service.get("/metrics").status_code == 200
        after = service.processes()
        assert {**after, "web_pid": 0} == {**before, "web_pid": 0}
        assert all(open_memory(after[name]) == 0 for name in ("web_pid", "engine_pid", "worker_pid"))
        (disk / "rest").unlink()
        assert service.post("/v1/segment", SCENE).status_code == 200
    finally:
        ended = service.stop()
        assert ended == 0, service.log.read_text()[-3000:]
