"""Lines and notes over a picture of a cloud."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from service.picture.view import View

_PAPER = (255, 255, 255, 225)


@dataclass(frozen=True)
class Line:
    """A line through points (k, 3) in the cloud's frame; `width` in pixels."""

    points: NDArray[np.float64]
    color: tuple[int, int, int]
    width: int = 2


@dataclass(frozen=True)
class Note:
    """A few words at a point (3,) of the cloud's frame."""

    text: str
    at: NDArray[np.float64]
    color: tuple[int, int, int]


def trace(picture: Image.Image, view: View, scale: float, lines: Sequence[Line], notes: Sequence[Note]) -> None:
    """Draw lines, then notes, into a picture; what lies behind the eye is left out, notes do not cover one another.

    Args:
        picture: changed in place.
        view: what it was drawn with.
        scale: pixels of the view for one of the picture.
    """
    pen = ImageDraw.Draw(picture, "RGBA")
    for line in lines:
        pixel, depth = view.project(line.points)
        if (depth > 0).all():
            places = [(float(x), float(y)) for x, y in pixel / scale]
            pen.line(places, fill=line.color, width=line.width, joint="curve")
    font = ImageFont.load_default(17)
    taken: list[tuple[float, float, float, float]] = []
    for note in notes:
        pixel, depth = view.project(note.at[None])
        if depth[0] <= 0:
            continue
        x, y = (pixel[0] / scale).tolist()
        left, top, right, bottom = pen.textbbox((x, y), note.text, font=font, anchor="mm")
        frame = (left - 7, top - 5, right + 7, bottom + 5)
        while any(_overlap(frame, other) for other in taken):
            y += 4
            frame = (frame[0], frame[1] + 4, frame[2], frame[3] + 4)
        taken.append(frame)
        pen.rounded_rectangle(frame, radius=6, fill=_PAPER, outline=note.color, width=1)
        pen.text((x, y), note.text, fill=(40, 44, 52), font=font, anchor="mm")


def _overlap(one: tuple[float, float, float, float], other: tuple[float, float, float, float]) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]
