"""The other commands of `pointserve`, through the running service and without one."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from plyfile import PlyData

from service import __version__
from tests.cli.conftest import POINTS, Demo, pointserve
from tests.http.clouds import as_ply, parcel_scene
from tests.ports import free_port


def labels(path: Path) -> np.ndarray:
    return np.asarray(PlyData.read(path)["vertex"]["label"])


def test_version() -> None:
    assert pointserve("--version").stdout == f"pointserve {__version__}\n"


def test_help_lists_the_commands() -> None:
    said = pointserve("--help").stdout
    for command in ("serve", "demo", "segment", "measure", "models", "render"):
        assert command in said


def test_models(demo: Demo) -> None:
    for arguments in ([], ["--url", demo.url]):
        said = pointserve("models", *arguments).stdout
        for word in ("parcels", "SpUNet-v1m1", "background", "box"):
            assert word in said


def test_segment_here_and_remotely_agree(demo: Demo, sample: Path, tmp_path: Path) -> None:
    here = pointserve("segment", sample, "-o", tmp_path / "here")
    assert here.returncode == 0, here.stderr
    there = pointserve("segment", sample, "-o", tmp_path / "there", "--url", demo.url)
    assert there.returncode == 0, there.stderr
    for result in (here, there):
        assert f"{POINTS:,} points" in result.stderr
        assert "points/s" in result.stderr
    name = "table scan_labelled.ply"
    assert len(labels(tmp_path / "here" / name)) == POINTS
    np.testing.assert_array_equal(labels(tmp_path / "here" / name), labels(tmp_path / "there" / name))
    assert [path.name for path in (tmp_path / "here").iterdir()] == [name]


def test_a_bad_file_among_good_ones(demo: Demo, sample: Path, tmp_path: Path) -> None:
    bad = tmp_path / "bad.ply"
    bad.write_bytes(as_ply(parcel_scene(100))[:-7])
    second = tmp_path / "second.ply"
    second.write_bytes(as_ply(parcel_scene(5000, seed=1)))
    result = pointserve("segment", sample, bad, second, "-o", tmp_path / "out", "--url", demo.url)
    assert result.returncode == 1
    sentence = [line for line in result.stderr.splitlines() if line.startswith(f"{bad}:")]
    assert len(sentence) == 1
    names = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert names == ["second_labelled.ply", "table scan_labelled.ply"]


def test_segment_to_json_with_scores(demo: Demo, sample: Path, tmp_path: Path) -> None:
    result = pointserve("segment", sample, "-o", tmp_path, "--output", "json", "--scores", "--url", demo.url)
    assert result.returncode == 0, result.stderr
    answer = json.loads((tmp_path / "table scan_labelled.json").read_text())
    assert len(answer["labels"]) == len(answer["scores"]) == POINTS


@pytest.mark.parametrize("url", ["ftp://here", "http://"])
def test_not_a_url(sample: Path, tmp_path: Path, url: str) -> None:
    result = pointserve("segment", sample, "-o", tmp_path, "--url", url)
    assert result.returncode == 1
    assert "is not the URL of a service" in result.stderr


def test_nobody_answers(sample: Path, tmp_path: Path) -> None:
    url = f"http://127.0.0.1:{free_port()}"
    for arguments in (["segment", sample, "-o", tmp_path], ["models"]):
        result = pointserve(*arguments, "--url", url)
        assert result.returncode == 1
        assert f"no answer from the service at {url}" in result.stderr
        assert "Traceback" not in result.stderr


def test_something_else_answers(tmp_path: Path) -> None:
    """A web server that is no PointServe."""
    import http.server
    import threading

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), http.server.BaseHTTPRequestHandler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    result = pointserve("models", "--url", f"http://127.0.0.1:{server.server_port}")
    server.shutdown()
    assert result.returncode == 1
    assert result.stderr == "pointserve: the service answered 501 Not Implemented\n"


@pytest.mark.parametrize("color", [None, "label", "height"])
def test_render(demo: Demo, tmp_path: Path, color: str | None) -> None:
    arguments = ["--color", color] if color else []
    labelled = demo.folder / "output" / "table scan_labelled.ply"
    result = pointserve("render", labelled, "-o", tmp_path / "a.png", "--model", "parcels", *arguments)
    assert result.returncode == 0, result.stderr
    with Image.open(tmp_path / "a.png") as picture:
        assert picture.format == "PNG"
        assert picture.size == (1200, 800)


def test_render_beside_the_file(sample: Path, tmp_path: Path) -> None:
    cloud = tmp_path / "cloud.ply"
    cloud.write_bytes(sample.read_bytes())
    assert pointserve("render", cloud).stdout == f"{tmp_path / 'cloud.png'}\n"
    assert (tmp_path / "cloud.png").is_file()


@pytest.mark.parametrize(
    ("content", "arguments", "sentence"),
    [
        (b"", [], "is empty"),
        (as_ply(parcel_scene(50)), ["--color", "label"], "no labels to colour by"),
        (as_ply(parcel_scene(50)), ["--color", "rgb"], "no colours"),
        (as_ply(np.full((3, 3), np.nan)), [], "no valid points"),
        (as_ply(parcel_scene(50)), ["--model", "pallets"], "pallets"),
    ],
)
def test_render_cannot(tmp_path: Path, content: bytes, arguments: list[str], sentence: str) -> None:
    cloud = tmp_path / "cloud.ply"
    cloud.write_bytes(content)
    result = pointserve("render", cloud, *arguments)
    assert result.returncode == 1
    assert sentence in result.stderr
    assert len(result.stderr.splitlines()) == 1


def test_bad_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DEADLINE_S", "soon")
    result = pointserve("serve")
    assert result.returncode == 2
    assert "DEADLINE_S" in result.stderr
    assert "Traceback" not in result.stderr
