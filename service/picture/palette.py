"""Colours for what a point is: its class, its height."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

NO_CLASS = (190, 190, 190)

# Okabe and Ito's eight, told apart by colour-blind readers too, then lighter relatives.
CLASSES = (
    (148, 160, 172),
    (230, 126, 34),
    (0, 114, 178),
    (0, 158, 115),
    (204, 121, 167),
    (240, 208, 66),
    (86, 180, 233),
    (213, 94, 0),
    (122, 104, 176),
    (141, 196, 92),
    (160, 120, 90),
    (90, 200, 190),
)

# LAS 1.4 R15, table 17: the codes that files in the wild use.
ASPRS: dict[int, tuple[str, tuple[int, int, int]]] = {
    0: ("never classified", (170, 170, 170)),
    1: ("unclassified", (140, 146, 156)),
    2: ("ground", (184, 140, 90)),
    3: ("low vegetation", (176, 210, 120)),
    4: ("medium vegetation", (116, 178, 84)),
    5: ("high vegetation", (52, 128, 64)),
    6: ("building", (214, 84, 60)),
    7: ("low noise", (220, 60, 160)),
    8: ("key point", (120, 80, 40)),
    9: ("water", (64, 148, 214)),
    10: ("rail", (90, 90, 100)),
    11: ("road", (110, 112, 120)),
    12: ("overlap", (200, 196, 170)),
    13: ("wire, guard", (230, 180, 60)),
    14: ("wire, conductor", (240, 200, 40)),
    15: ("transmission tower", (150, 60, 140)),
    16: ("wire connector", (200, 150, 40)),
    17: ("bridge deck", (240, 150, 60)),
    18: ("high noise", (250, 90, 190)),
}

# Anchors of a ramp from dark blue over green to yellow, even in lightness.
_RAMP = np.array([(68, 1, 84), (59, 82, 139), (33, 145, 140), (94, 201, 98), (253, 231, 37)], dtype=np.float64)


def label_colors(label: NDArray[np.int32], colors: dict[int, tuple[int, int, int]] | None = None) -> NDArray[np.uint8]:
    """Return the colours (N, 3) uint8 of class ids (N,); negative ids are grey.

    Args:
        label: (N,) integers.
        colors: class id to (r, g, b); ids that are not there get a colour of their own.
    """
    out = np.empty((len(label), 3), dtype=np.uint8)
    ids, inverse = np.unique(label, return_inverse=True)
    table = np.array([(colors or {}).get(int(i), class_color(int(i))) for i in ids], dtype=np.uint8).reshape(-1, 3)
    out[:] = table[inverse.reshape(-1)]
    return out


def class_color(id: int) -> tuple[int, int, int]:
    """Return the colour of a class that has none of its own."""
    return NO_CLASS if id < 0 else CLASSES[id % len(CLASSES)]


def textured(color: NDArray[np.uint8], photo: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return class colours (N, 3) uint8 with the light and shade of the cloud's own colours (N, 3) uint8."""
    light = photo.astype(np.float32) @ np.array([0.299, 0.587, 0.114], dtype=np.float32)
    low, high = np.percentile(light, [2, 98])
    factor = 0.72 + 0.34 * np.clip((light - low) / max(float(high - low), 1.0), 0, 1)
    return np.clip(color * factor[:, None], 0, 255).astype(np.uint8)


def height_colors(height: NDArray[np.float64]) -> NDArray[np.uint8]:
    """Return colours (N, 3) uint8, from dark blue (low) to yellow (high); the outermost 2 % are clipped."""
    low, high = np.percentile(height, [2, 98])
    place = np.clip((height - low) / max(float(high - low), 1e-9), 0, 1) * (len(_RAMP) - 1)
    steps = np.arange(len(_RAMP))
    return np.stack([np.interp(place, steps, _RAMP[:, i]) for i in range(3)], axis=1).round().astype(np.uint8)
