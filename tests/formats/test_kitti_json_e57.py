"""The formats that are only read: KITTI, JSON, E57."""

from __future__ import annotations

import builtins
import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pytest

from service.errors import MalformedFile, TooLarge, UnknownFormat, UnusableCloud
from tests.formats.clouds import check_form, read

SCAN = np.random.default_rng(0).uniform(-50, 50, (30, 4)).astype(np.float32)


def test_kitti() -> None:
    cloud = read(SCAN.tobytes(), "kitti")
    check_form(cloud)
    assert np.array_equal(cloud.coord, SCAN[:, :3])
    assert np.array_equal(cloud.intensity, SCAN[:, 3])  # type: ignore[arg-type]
    holes = SCAN.copy()
    holes[4, 1] = np.nan
    assert np.isnan(read(holes.tobytes(), "kitti").coord[4]).tolist() == [False, True, False]


@pytest.mark.parametrize(
    ("data", "error", "said"),
    [
        (SCAN.tobytes()[:-3], MalformedFile, "13 too many"),
        (np.zeros(25, np.float32).tobytes(), MalformedFile, "nuScenes"),
        (np.random.default_rng(0).bytes(1600), MalformedFile, "no KITTI scan"),
        (b"", UnusableCloud, "no points"),
    ],
)
def test_bad_kitti(data: bytes, error: type[Exception], said: str) -> None:
    with pytest.raises(error) as caught:
        read(data, "kitti")
    assert said in str(caught.value)
    with pytest.raises(TooLarge):
        read(SCAN.tobytes(), "kitti", max_points=29)


def test_json() -> None:
    body: dict[str, Any] = {
        "points": [[1, 2, 3], [4.5, None, 6], [7, 8, 1e6]],
        "colors": [[255, 0, 10], [1, 2, 3], [0, 0, 0]],
        "normals": [[0, 0, 1]] * 3,
        "intensity": [0.5, None, 3],
        "ring": [1, 2, 3],
        "pairs": [[1, 2], [3, 4], [5, 6]],
        "model": "parcels",
        "options": {"scores": True},
        "nothing": None,
    }
    cloud = read(json.dumps(body).encode(), "json")
    check_form(cloud)
    assert np.isnan(cloud.coord[1]).tolist() == [False, True, False]
    assert cloud.color is not None
    assert cloud.color[0].tolist() == [255, 0, 10]
    assert cloud.normal is not None
    assert cloud.intensity is not None
    assert {name: values.shape for name, values in cloud.attributes.items()} == {"ring": (3,), "pairs": (3, 2)}
    assert read(b'{"points": [[1, 2, 3]], "colors": null}', "json").color is None
    assert read(b'{"coord": [[1, 2, 3]], "colors": [[0.5, 1.0, 0]]}', "json").color.tolist() == [[128, 255, 0]]  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("text", "error", "said"),
    [
        ('{"points": [[1, 2, 3]', MalformedFile, "does not parse"),
        ('{"points": [[1, NaN, 3]]}', MalformedFile, "use null"),
        ("[[1, 2, 3]]", MalformedFile, "it is a list"),
        ('{"colors": []}', MalformedFile, 'no "points"; its members are: colors'),
        ('{"points": "1 2 3"}', MalformedFile, "it is a text"),
        ('{"points": []}', UnusableCloud, "empty"),
        ('{"points": [1, 2, 3]}', MalformedFile, '"points"[0] must be a list of 3 numbers; it is 1'),
        ('{"points": [[1, 2, 3], [4, 5]]}', MalformedFile, '"points"[1] must be'),
        ('{"points": [[1, 2, 3], [4, 5, "6"]]}', MalformedFile, '"points"[1] must be'),
        ('{"points": [["1", "2", "3"]]}', MalformedFile, '"points"[0] must be'),
        ('{"points": [[1, 2, 3, 4]]}', MalformedFile, '"points"[0] must be'),
        ('{"points": [[1, 2, [3]]]}', MalformedFile, '"points"[0] must be'),
        ('{"points": [[1, 2, 3]], "colors": [[1, 2, 3], [4, 5, 6]]}', MalformedFile, '"colors" has 2 entries'),
        ('{"points": [[1, 2, 3]], "colors": [[1, 2]]}', MalformedFile, '"colors"[0] must be a list of 3'),
        ('{"points": [[1, 2, 3]], "normals": 5}', MalformedFile, '"normals" must be a list'),
        ('{"points": [[1, 2, 3]], "intensity": [[1]]}', MalformedFile, '"intensity"[0] must be a number'),
        ('{"points": [[1, 2, 3]], "ring": [1, 2]}', MalformedFile, '"ring" has 2 entries'),
        ('{"points": [[1, 2, 3], [1, 2, 3]], "ring": [1, "b"]}', MalformedFile, '"ring"[1] must be a number'),
        ('{"points": [[1, 2, 3], [1, 2, 3]], "ring": [[1, 2], [3]]}', MalformedFile, '"ring"[1] must be a list of 2'),
    ],
)
def test_bad_json(text: str, error: type[Exception], said: str) -> None:
    with pytest.raises(error) as caught:
        read(text.encode(), "json")
    assert said in str(caught.value)


def test_too_large_json() -> None:
    with pytest.raises(TooLarge, match="holds 3 points"):
        read(b'{"points": [[1,2,3],[1,2,3],[1,2,3]]}', "json", max_points=2)
    with pytest.raises(TooLarge, match="values"):
        read(b'{"points": [' + b"[1,2,3]," * 1000 + b"[1,2,3]]}", "json", max_points=2)


def test_json_that_memory_does_not_hold(monkeypatch: pytest.MonkeyPatch) -> None:
    def loads(data: memoryview) -> None:
        raise orjson.JSONDecodeError("Not enough memory to allocate buffer for parsing", "", 0)

    monkeypatch.setattr(orjson, "loads", loads)
    with pytest.raises(TooLarge, match="send the cloud as NPZ or PLY"):
        read(b'{"points": [[1, 2, 3]]}', "json")


def test_whole_numbers_beyond_64_bits() -> None:
    large = 123456789012345678901234567890
    assert read(b'{"points": [[%d, 0, 0]]}' % large, "json").coord[0, 0] == float(large)


def make_e57(scans: list[dict[str, Any]]) -> bytes:
    """Return an E57 file that pye57 wrote."""
    pye57 = pytest.importorskip("pye57", reason="E57 is an optional install")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "scan.e57"
        with pye57.E57(str(path), mode="w") as file:
            for scan in scans:
                pose = {key: np.array(scan.pop(key)) for key in ("rotation", "translation") if key in scan}
                file.write_scan_raw(scan, **pose)
        return path.read_bytes()


def scan_of(count: int, seed: int, **more: Any) -> dict[str, Any]:
    rng = np.random.default_rng(seed)
    coord = rng.uniform(-5, 5, (3, count)).astype(np.float32).astype(np.float64)
    return {"cartesianX": coord[0], "cartesianY": coord[1], "cartesianZ": coord[2], **more}


def test_e57_scans_are_put_together_by_their_poses() -> None:
    quarter = [np.sqrt(0.5), 0, 0, np.sqrt(0.5)]  # about z
    color = {name: np.arange(4, dtype=np.uint8) for name in ("colorRed", "colorGreen", "colorBlue")}
    first, second = scan_of(4, 0, **color), scan_of(3, 1, intensity=np.array([0.5, 0.25, 1], np.float32))
    expected = np.concatenate(
        [
            np.stack([-first["cartesianY"], first["cartesianX"], first["cartesianZ"]], axis=1) + [10, 20, 30],
            np.stack([second[f"cartesian{axis}"] for axis in "XYZ"], axis=1),
        ]
    )
    cloud = read(make_e57([{**first, "rotation": quarter, "translation": [10, 20, 30]}, second]), "e57")
    check_form(cloud)
    assert np.allclose(cloud.coord, expected, atol=1e-5)
    assert cloud.attributes["scan"].tolist() == [0, 0, 0, 0, 1, 1, 1]
    assert cloud.color is not None
    assert cloud.color[:, 0].tolist() == [0, 1, 2, 3, 0, 0, 0]
    assert cloud.intensity is not None
    assert np.isnan(cloud.intensity[:4]).all()
    assert cloud.intensity[4:].tolist() == [0.5, 0.25, 1]


def test_e57_invalid_points_keep_their_place() -> None:
    state = np.array([0, 1, 0, 2], dtype=np.int8)
    cloud = read(make_e57([scan_of(4, 0, cartesianInvalidState=state)]), "e57")
    assert np.isnan(cloud.coord).all(axis=1).tolist() == [False, True, False, True]
    assert cloud.attributes == {}


def test_bad_e57() -> None:
    data = make_e57([scan_of(300, 0)])
    with pytest.raises(TooLarge):
        read(data, "e57", max_points=299)
    with pytest.raises(MalformedFile, match="does not read"):
        read(data[:2000] + b"XXXX" + data[2004:], "e57")
    for bad in (data[:100], data[: len(data) // 2], b"ASTM-E57" + bytes(200)):
        with pytest.raises(MalformedFile, match="truncated or garbled"):
            read(bad, "e57")
    with pytest.raises(MalformedFile, match="begins with a header"):
        read(data[:20], "e57")


def test_e57_without_its_library(monkeypatch: pytest.MonkeyPatch) -> None:
    original = builtins.__import__

    def without(name: str, *args: Any, **kwargs: Any) -> Any:
        if name.startswith("pye57"):
            raise ImportError(name)
        return original(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(UnknownFormat, match=r"pip install 'pointserve\[e57\]'"):
        read(b"ASTM-E57" + bytes(40), "e57")


def test_real_e57_files(shared: Path) -> None:
    pytest.importorskip("pye57", reason="E57 is an optional install")
    folder = shared / "data" / "odd" / "cry-inc__e57"
    ball = read((folder / "tiny_spherical.e57").read_bytes(), "e57")
    valid = np.isfinite(ball.coord).all(axis=1)
    assert 0 < valid.sum() < 360
    assert np.allclose(np.linalg.norm(ball.coord[valid], axis=1), 1)
    normals = read((folder / "tiny_pc_with_extension@e0df981.e57").read_bytes(), "e57").normal
    assert normals is not None
    bunnies = [read((folder / f"bunny{kind}.e57").read_bytes(), "e57").coord for kind in ("Float", "Int19", "Int32")]
    assert all(np.allclose(bunny, bunnies[0], atol=1e-5) for bunny in bunnies)
    assert len(bunnies[0]) == 30571
