"""Scans of KITTI and SemanticKITTI: float32 x, y, z, intensity, point after point, and nothing else.

Source: https://www.cvlibs.net/datasets/kitti/ (velodyne points). The files have no magic bytes.
"""

from __future__ import annotations

import numpy as np

from service.errors import MalformedFile
from service.formats.attributes import assemble, check_count
from service.formats.format import Format, Options
from service.values import PointCloud

POINT_SIZE = 16
FARTHEST_M = 1e6
"""No scanner reaches farther; bytes that are no scan read as far larger numbers."""


def read(data: memoryview, options: Options) -> PointCloud:
    """Return the cloud of a KITTI scan; raises MalformedFile, TooLarge, UnusableCloud."""
    if len(data) % POINT_SIZE:
        hint = " 20 bytes a point (nuScenes) are not read; drop the fifth value." if len(data) % 20 == 0 else ""
        raise MalformedFile(
            f"A KITTI scan takes {POINT_SIZE} bytes a point (x, y, z, intensity as float32); "
            f"this file has {len(data)} bytes, {len(data) % POINT_SIZE} too many.{hint}"
        )
    count = len(data) // POINT_SIZE
    check_count(count, options)
    table = np.frombuffer(data, "<f4").reshape(count, 4)
    with np.errstate(invalid="ignore"):
        far = (np.abs(table[:, :3]) > FARTHEST_M).any(axis=1)
    if far.mean() > 0.1:
        raise MalformedFile(
            f"Point {int(np.argmax(far))} would lie at {table[np.argmax(far), :3].tolist()} m, and "
            f"{int(far.sum())} of {count} as far: this is no KITTI scan of float32 x, y, z, intensity."
        )
    return assemble({"x": table[:, 0], "y": table[:, 1], "z": table[:, 2], "intensity": table[:, 3]})


FORMAT = Format(
    name="kitti",
    title="KITTI or SemanticKITTI scan",
    suffixes=(".bin",),
    media_types=("application/x-kitti",),
    read=read,
)
