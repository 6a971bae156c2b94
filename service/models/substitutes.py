"""What Pointcept's data sets give a network in the place of what their clouds lack, or measure in units of their own.

After `get_data` in pointcept/datasets: nuscenes.py, semantic_kitti.py, waymo.py, modelnet.py, scanobjectnn.py,
shapenet_part.py, and preprocessing/waymo/preprocess_waymo.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

_COLOURLESS = ("ModelNet", "ShapeNetPart")
"""Have black for colours where `if_color` asks for any."""
_OBJECTS = ("ModelNet", "ScanObjectNN", "ScanObjectNNHardest", "ShapeNetPart")


@dataclass(frozen=True)
class Substitutes:
    """What is true of all clouds of a data set.

    Attributes:
        zero: of `color` and `normal`, those that are zeros.
        outward: normals look away from the cloud's middle, as those of objects do.
        tanh: strength is the hyperbolic tangent of what the sensor measured.
    """

    zero: frozenset[str] = frozenset()
    outward: bool = False
    tanh: bool = False


def of(part: Any) -> Substitutes:
    """Return what a configuration's `data.test` or `data.val` means, by its `type` and `if_color`."""
    if not isinstance(part, Mapping):
        return Substitutes()
    name = str(part.get("type")).removesuffix("Dataset")
    colored = part.get("if_color")
    zero: set[str] = set()
    if name.endswith("ColorNormal"):
        zero |= {"color", "normal"}
    if colored is False or name.startswith("ScanObjectNN") or (colored and name in _COLOURLESS):
        zero.add("color")
    return Substitutes(frozenset(zero), name in _OBJECTS, name.startswith("Waymo"))
