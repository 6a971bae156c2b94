"""Small clouds in the forms in which clients send them, written without the service's own code."""

from __future__ import annotations

import io
import json
from typing import Any

import laspy
import numpy as np


def parcel_scene(points: int = 20_000, seed: int = 0) -> np.ndarray:
    """A table of 1 x 1 m with a box of 30 x 20 x 20 cm on it; (points, 3) float64 metres."""
    rng = np.random.default_rng(seed)
    table = np.c_[rng.uniform(-0.5, 0.5, (points * 7 // 10, 2)), rng.normal(0, 0.001, points * 7 // 10)]
    size = np.array([0.3, 0.2, 0.2])
    box = rng.uniform(0, 1, (points - len(table), 3))
    face = rng.integers(0, 3, len(box))
    box[np.arange(len(box)), face] = np.where(face == 2, 1.0, rng.integers(0, 2, len(box)))
    box = (box - [0.5, 0.5, 0]) * size + [0.05, 0.1, 0]
    return np.concatenate([table, box])[rng.permutation(points)]


def as_ply(coord: np.ndarray) -> bytes:
    header = f"ply\nformat binary_little_endian 1.0\nelement vertex {len(coord)}\n"
    header += "".join(f"property float {axis}\n" for axis in "xyz") + "end_header\n"
    return header.encode() + coord.astype("<f4").tobytes()


def as_npz(coord: np.ndarray, **arrays: np.ndarray) -> bytes:
    out = io.BytesIO()
    np.savez(out, coord=coord, **arrays)
    return out.getvalue()


def as_json(coord: np.ndarray, **fields: Any) -> bytes:
    return json.dumps({"points": coord.tolist(), **fields}).encode()


def as_las(coord: np.ndarray, compressed: bool = False, point_format: int = 3) -> bytes:
    las = laspy.create(point_format=point_format, file_version="1.4" if point_format > 5 else "1.2")
    las.header.scales = [0.0005] * 3
    las.header.offsets = np.floor(coord.min(axis=0))
    las.x, las.y, las.z = coord.T
    las.classification = np.full(len(coord), 2, np.uint8)
    las.gps_time = np.arange(len(coord), dtype=float)
    out = io.BytesIO()
    las.write(out, do_compress=compressed)
    return out.getvalue()


def as_pcd(coord: np.ndarray, width: int | None = None) -> bytes:
    width = width or len(coord)
    header = (
        "# .PCD v0.7 - Point Cloud Data file format\nVERSION 0.7\nFIELDS x y z\nSIZE 4 4 4\nTYPE F F F\nCOUNT 1 1 1\n"
    )
    header += (
        f"WIDTH {width}\nHEIGHT {len(coord) // width}\nVIEWPOINT 0 0 0 1 0 0 0\nPOINTS {len(coord)}\nDATA binary\n"
    )
    return header.encode() + coord.astype("<f4").tobytes()
