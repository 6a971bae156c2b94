"""`pointserve measure`: with an engine of its own, and through the running service."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import pytest
from PIL import Image
from plyfile import PlyData

from tests.cli.conftest import POINTS, Demo, pointserve


def test_here_and_remotely_agree(demo: Demo, sample: Path, tmp_path: Path) -> None:
    said = ("--json", "--viewpoint", "none")
    here = pointserve("measure", sample, "-o", tmp_path / "here.ply", *said)
    there = pointserve("measure", sample, "-o", tmp_path / "there.png", *said, "--url", demo.url)
    assert here.returncode == there.returncode == 0, here.stderr + there.stderr
    (one,), (other,) = json.loads(here.stdout), json.loads(there.stdout)
    assert one["file"] == str(sample) and one["boxes"] == other["boxes"]
    (box,) = (box for box in one["boxes"] if box["measured"])
    assert box["length_m"] == pytest.approx(0.3, abs=0.01)
    assert len(PlyData.read(tmp_path / "here.ply")["vertex"]) > POINTS
    assert Image.open(tmp_path / "there.png").size == (1200, 800)


def test_a_table_and_its_values(demo: Demo, sample: Path) -> None:
    said = pointserve("measure", sample, sample, "--url", demo.url).stdout
    assert said.count("1 box measured") == 2 and "length mm" in said and "standing" in said
    rows = list(csv.DictReader(io.StringIO(pointserve("measure", sample, "--csv", "--url", demo.url).stdout)))
    assert rows[0]["file"] == str(sample) and rows[0]["measured"] == "True"


def test_what_is_wrong_is_said(demo: Demo, sample: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken.ply"
    broken.write_bytes(b"ply\nformat ascii 1.0\n")
    result = pointserve("measure", broken, sample, "--url", demo.url)
    assert result.returncode == 1
    assert "broken.ply" in result.stderr and "1 box measured" in result.stdout


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("-o", "boxes.obj"), ".ply or .png"),
        (("--up", "0,0"), "--up"),
        (("--up", "nan,0,1"), "--up"),
        (("--viewpoint", "0,0"), "--viewpoint"),
        (("--json", "--csv"), "exclude each other"),
        (("--units", "inch"), "inch"),
    ],
)
def test_options_that_are_wrong(sample: Path, options: tuple[str, ...], said: str) -> None:
    result = pointserve("measure", sample, *options, "--url", "http://127.0.0.1:9")
    assert result.returncode != 0
    assert said in result.stderr


def test_one_drawing_cannot_hold_several_files(sample: Path) -> None:
    result = pointserve("measure", sample, sample, "-o", "boxes.png", "--url", "http://127.0.0.1:9")
    assert result.returncode == 1 and "{}" in result.stderr
