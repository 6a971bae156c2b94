"""What is true of the boxes in a scene: where each stands, how it is turned, how large it is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from training.solids import BOX, Part

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Box:
    """One box of a scene.

    Attributes:
        number: the object of the scene, as in the cloud's `number`.
        center: (3,) metres, in the scene's frame.
        axes: (3, 3) rows are its own unit axes.
        half: (3,) half of its edges along each of `axes`, metres; bulges and flaps do not count.
    """

    number: int
    center: Array
    axes: Array
    half: Array

    def corners(self) -> Array:
        """Return its corners (8, 3)."""
        signs = np.array(np.meshgrid((-1, 1), (-1, 1), (-1, 1), indexing="ij")).reshape(3, 8).T
        return np.asarray(self.center + (signs * self.half) @ self.axes)


def boxes_in(parts: Sequence[Part]) -> tuple[Box, ...]:
    """Return the boxes that the parts make up, by number.

    An open box is made of its bottom and its walls, which are parallel; its flaps are not.
    """
    own: dict[int, list[Part]] = {}
    for part in parts:
        if part.label == BOX:
            own.setdefault(part.number, []).append(part)
    boxes = []
    for number in sorted(own):
        axes = own[number][0].axes
        body = [part for part in own[number] if np.allclose(np.abs(part.axes @ axes.T).max(axis=1), 1, atol=1e-6)]
        middle = np.array([axes @ part.center for part in body])
        reach = np.array([np.abs(axes @ part.axes.T) @ part.half for part in body])
        low, high = (middle - reach).min(axis=0), (middle + reach).max(axis=0)
        boxes.append(Box(number, axes.T @ ((low + high) / 2), axes, (high - low) / 2))
    return tuple(boxes)
