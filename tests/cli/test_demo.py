"""What `pointserve demo`, and with it ./run_local.sh, shows and leaves."""

from __future__ import annotations

import re
import shutil
import socket
import subprocess
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from plyfile import PlyData

from tests.cli.conftest import POINTS, ROOT, Demo, pointserve
from tests.ports import free_port


def test_it_prints_classes_counts_and_time(demo: Demo) -> None:
    counts = {name: int(n.replace(",", "")) for name, n in re.findall(r"■ (\w+) +([\d,]+)", demo.said)}
    assert set(counts) <= {"ignored", "background", "box"}
    assert sum(counts.values()) == POINTS
    assert re.search(r"labelled by parcels in \d+\.\d+ s", demo.said)


def test_the_labelled_cloud(demo: Demo) -> None:
    vertex = PlyData.read(demo.folder / "output" / "table scan_labelled.ply")["vertex"]
    assert len(vertex) == POINTS
    assert set(np.unique(vertex["label"])) <= {-1, 0, 1}


def test_the_picture(demo: Demo) -> None:
    with Image.open(demo.folder / "output" / "table scan_labelled.png") as picture:
        assert picture.size == (1200, 800)
        pixels = np.asarray(picture.convert("RGB"))
    assert 0.05 < np.mean(np.any(pixels != 255, axis=2)) < 0.9


def test_the_printed_curl_line_works(demo: Demo) -> None:
    if shutil.which("curl") is None:
        pytest.skip("curl is not installed")
    line = next(line for line in demo.said.splitlines() if "curl" in line).strip()
    result = subprocess.run(line, shell=True, cwd=demo.folder, capture_output=True, text=True, timeout=60)
    assert result.returncode == 0, result.stderr
    assert len(PlyData.read(demo.folder / "labelled.ply")["vertex"]) == POINTS


@pytest.mark.parametrize("command", ["demo", "serve"])
def test_busy_port(command: str) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        result = pointserve(command, "--port", port)
    assert result.returncode == 1
    assert f"127.0.0.1:{port}" in result.stderr
    assert len(result.stderr.splitlines()) == 1


def test_unknown_model(sample: Path, tmp_path: Path) -> None:
    result = pointserve(
        "demo", "--port", free_port(), "--model", "pallets", "--sample", sample, "-o", tmp_path, "--once"
    )
    assert result.returncode == 1
    assert "pallets" in result.stderr
    assert "Traceback" not in result.stderr


def test_run_local_once() -> None:
    """The one command of the README, where its environment has been set up."""
    if not list((ROOT / ".venv").glob(".installed")):
        pytest.skip("run ./run_local.sh --setup first")
    # It builds what has changed in libs/ since it was set up.
    command = [ROOT / "run_local.sh", "--once", "--port", str(free_port())]
    result = subprocess.run(command, capture_output=True, text=True, timeout=900)
    assert result.returncode == 0, result.stdout + result.stderr
    assert "box" in result.stdout
    for name in ("parcels_labelled.ply", "parcels_labelled.png"):
        assert (ROOT / "output" / name).stat().st_size > 10_000
