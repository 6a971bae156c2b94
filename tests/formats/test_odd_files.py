"""Files from other readers' test suites, and files that are damaged on purpose."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import plyfile
import pytest

from service import formats
from service.errors import ServiceError
from tests.formats.clouds import check_form, make_cloud, make_labels, written
from tests.formats.test_kitti_json_e57 import SCAN, make_e57, scan_of
from tests.formats.test_las import make_las
from tests.formats.test_pcd import KINDS, ODD_FIELDS, make_pcd
from tests.formats.test_ply import make_ply

ROOT = Path(__file__).resolve().parents[2]
REFUSED = {
    "1.2-with-color-clipped.las": "truncated",
    "2-2-2-2.laz": "LAS 126.203",
    "fuck.laz": "chunk table",
    "no_vertex.ply": "no element 'vertex'",
    "ply_empty_header.ply": "no element 'vertex'",
    "empty.ply": "no points",
    "ply_empty_ascii.ply": "no points",
    "ply_empty_bin.ply": "no points",
    "corrupt_crc.e57": "checksum",
    "empty.e57": "no points",
    "perlin.npy": "100 values",  # a height map
    "threedim.npy": "no x, y, z",
    "site_56_8@906ca30.pts": "'8d' is not a number",
    "complex-transform.ptx": "PTX",
    "no-color.ptx": "PTX",
}


def survive(paths: list[Path], memory: int = 4 << 30, timeout_s: float = 60) -> list[dict[str, Any]]:
    """Return what became of the files in a process with so much memory."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.formats.survive", str(memory)],
        input="".join(f"{path}\n" for path in paths),
        capture_output=True,
        text=True,
        cwd=ROOT,
        timeout=timeout_s,
        check=False,
    )
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert done.returncode == 0, f"{done.stderr[-2000:]} after {lines[-1:]}"
    return lines


def test_odd_files_are_read_or_refused_with_a_reason(shared: Path) -> None:
    paths = [path for path in sorted((shared / "data" / "odd").glob("*/*")) if path.is_file()]
    assert len(paths) == 216
    results = survive(paths)
    assert len(results) == len(paths)
    refused = {Path(result["path"]).name: result["detail"] for result in results if "refused" in result}
    assert refused.keys() == REFUSED.keys()
    for name, said in REFUSED.items():
        assert said in refused[name]
    assert max(result["s"] for result in results) < 10


def test_odd_ply_files_are_read_as_plyfile_reads_them(shared: Path) -> None:
    compared = 0
    for path in sorted((shared / "data" / "odd").glob("*/*.ply")):
        if path.name in REFUSED:
            continue
        try:
            vertex = plyfile.PlyData.read(str(path))["vertex"]
        except plyfile.PlyParseError:
            continue  # it knows no bool, takes no space behind the first word, and no empty comment
        data = path.read_bytes()
        cloud = formats.read(memoryview(data), formats.by_name("ply"), formats.Options())
        expected = np.stack([vertex[name] for name in "xyz"], axis=1)
        assert np.allclose(cloud.coord, expected, rtol=1e-6, atol=0), path
        compared += 1
    assert compared >= 25


def small_files() -> dict[str, bytes]:
    """Return one small file of each format and kind."""
    cloud, labels = make_cloud(20), make_labels(20)
    files = {f"written.{name}": written(cloud, labels, name) for name in ("ply", "pcd", "las", "laz", "npz")}
    files |= {f"{faces}{order}.ply": make_ply(order, faces=faces) for order in "=<>" for faces in ("before", "after")}
    files |= {f"{kind}.pcd": make_pcd(kind, ODD_FIELDS) for kind in KINDS}
    for id_ in (0, 3, 4, 6, 8, 10):
        files |= {f"{id_}.las": make_las(id_, count=20), f"{id_}.laz": make_las(id_, count=20, compressed=True)}
    files |= {"scan.bin": SCAN.tobytes(), "a.json": json.dumps({"points": cloud.coord.tolist()}).encode()}
    files["a.csv"] = b"x,y,z,r,g,b\n" + b"1.5,2,3,40,50,60\n" * 20
    files["a.pts"] = b"20\n" + b"1.5 2 3 -100 40 50 60\n" * 20
    out = io.BytesIO()
    np.save(out, cloud.coord)
    files["a.npy"] = out.getvalue()
    return files


def mutated(data: bytes, rng: np.random.Generator) -> bytes:
    """Return the bytes with some changed, cut out or doubled, or cut off; more often near the beginning."""
    copy = bytearray(data)
    for _ in range(rng.integers(1, 4)):
        reach = len(copy) if rng.random() < 0.3 else min(len(copy), 400)
        position = int(rng.integers(0, max(1, reach)))
        what = rng.integers(0, 6)
        if what == 0:
            copy[position : position + 1] = bytes([rng.integers(0, 256)])
        elif what == 1:
            copy[position : position + 4] = b"\xff\xff\xff\xff"
        elif what == 2:
            copy[position : position + 8] = rng.bytes(8)
        elif what == 3:
            del copy[position : position + int(rng.integers(1, 20))]
        elif what == 4:
            copy[position:position] = copy[position : position + 10]
        else:
            digits = [i for i in range(min(len(copy), 400)) if 48 <= copy[i] <= 57]
            if digits:
                at = digits[int(rng.integers(0, len(digits)))]
                copy[at : at + 1] = bytes(rng.choice([b"9999999999", b"0", b"-1", b"nan"]))
            else:
                del copy[position:]
    return bytes(copy)


def attempt(data: bytes, name: str, labels: Any) -> bool:
    """Read and label a file; return whether it was read. Anything but a ServiceError goes up."""
    format = formats.by_name(name.rsplit(".", 1)[1])
    options = formats.Options(max_points=100_000)
    try:
        cloud = formats.read(memoryview(data), format, options)
    except ServiceError:
        return False
    check_form(cloud)
    if format.annotate is not None and len(cloud) == len(labels.label):
        try:
            formats.annotate(memoryview(data), format, labels, io.BytesIO(), options)
        except ServiceError:
            return True
    return True


@pytest.mark.parametrize("name", sorted(small_files()))
def test_damaged_files_raise_nothing_but_service_errors(name: str) -> None:
    data = small_files()[name]
    rng = np.random.default_rng(7)
    labels = make_labels(20)
    assert attempt(data, name, labels)
    read = sum(attempt(mutated(data, rng), name, labels) for _ in range(60))
    assert read < 60


@pytest.mark.parametrize("name", sorted(small_files()))
def test_truncated_files_raise_nothing_but_service_errors(name: str) -> None:
    data = small_files()[name]
    for size in {0, 1, 4, 100, *range(0, len(data), max(1, len(data) // 25))}:
        attempt(data[:size], name, make_labels(20))


def test_damaged_e57_files(tmp_path: Path) -> None:
    data = make_e57([scan_of(20, 0)])
    rng = np.random.default_rng(5)
    paths = []
    for index in range(60):
        paths.append(tmp_path / f"{index}.e57")
        paths[-1].write_bytes(b"ASTM-E57" + mutated(data, rng)[8:])
    assert len(survive(paths)) == 60
