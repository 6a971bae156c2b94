"""What a user says of a cloud's frame: its unit, which way is up, where the sensor stood."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Frame:
    """A cloud's frame.

    Attributes:
        metres_per_unit: of the file's coordinates.
        up: (x, y, z) of any length, away from what the boxes stand on; None: it is found.
        viewpoint: (x, y, z) in the file's units, where the sensor stood; None: zero, if the points look like it.
        one_sensor: whether one sensor may have seen all of it from one place; False: there is no viewpoint.
    """

    metres_per_unit: float = 1.0
    up: Sequence[float] | None = None
    viewpoint: Sequence[float] | None = None
    one_sensor: bool = True
