"""Measured boxes drawn over their cloud: as a PLY file with points along their edges, or as a PNG."""

from __future__ import annotations

from collections.abc import Iterator
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from service.errors import UnusableCloud
from service.formats import ply
from service.picture import Entry, Line, Note, draw, palette
from service.values import BoxSize, MeasuredBox, Measurement, PointCloud, Segmentation

_EDGES = ((0, 1), (1, 2), (2, 3), (3, 0), (4, 5), (5, 6), (6, 7), (7, 4), (0, 4), (1, 5), (2, 6), (3, 7))
_POINTS_ALONG = 200
_REST = (176, 182, 190)
_DARKER = 0.62


def write(
    form: str, coord: NDArray[np.float64], segmentation: Segmentation, measurement: Measurement, out: BinaryIO
) -> None:
    """Write a drawing.

    Args:
        form: ply: the points in their order, coloured by box, then points along the boxes' edges; png: a picture.
        coord: (N, 3) in the file's units and frame.
        segmentation, measurement: of the cloud.
        out: gets the file.

    Raises:
        UnusableCloud: no valid point to draw.
    """
    assert segmentation.instance is not None
    color = _colors(segmentation.instance)
    if form == "ply":
        _write_ply(coord, color, segmentation, measurement, out)
        return
    if not np.isfinite(coord).all(axis=1).any():
        raise UnusableCloud("The cloud has no valid points to draw.")
    measured = [(box, box.size) for box in measurement.boxes if box.size is not None]
    lines = [line for box, size in measured for line in _lines(box, size)]
    notes = [_note(box, size) for box, size in measured]
    legend = [_entry(box) for box in measurement.boxes]
    draw(coord, color, legend, "", lines=lines, notes=notes).save(out, format="PNG")


def box_color(number: int) -> tuple[int, int, int]:
    """Return the colour of a box."""
    colors = palette.CLASSES[1:]
    return colors[number % len(colors)]


def _colors(instance: NDArray[np.int32]) -> NDArray[np.uint8]:
    """Return the colours (N, 3) of points by their boxes (N,)."""
    table = np.array([_REST, *(box_color(number) for number in range(int(instance.max(initial=-1)) + 1))], np.uint8)
    return table[np.maximum(instance, -1) + 1]


def _write_ply(
    coord: NDArray[np.float64],
    color: NDArray[np.uint8],
    segmentation: Segmentation,
    measurement: Measurement,
    out: BinaryIO,
) -> None:
    parts, owners = [coord], [np.asarray(segmentation.instance)]
    labels, colors = [segmentation.label], [color]
    for box in measurement.boxes:
        if box.size is None:
            continue
        corners = np.array(box.size.corners)
        steps = np.linspace(0, 1, _POINTS_ALONG)[:, None]
        edge = np.concatenate([corners[a] + steps * (corners[b] - corners[a]) for a, b in _EDGES])
        parts.append(edge)
        owners.append(np.full(len(edge), box.instance.id, np.int32))
        labels.append(np.full(len(edge), box.instance.class_id, np.int32))
        colors.append(np.full((len(edge), 3), _dark(box.instance.id), np.uint8))
    cloud = PointCloud(np.concatenate(parts), np.concatenate(colors))
    said = Segmentation(
        np.concatenate(labels),
        segmentation.classes,
        segmentation.model,
        instance=np.concatenate(owners),
        instances=segmentation.instances,
    )
    ply.write(cloud, said, out)


def _dark(number: int) -> tuple[int, int, int]:
    red, green, blue = box_color(number)
    return int(red * _DARKER), int(green * _DARKER), int(blue * _DARKER)


def _lines(box: MeasuredBox, size: BoxSize) -> Iterator[Line]:
    """Yield the edges of a box."""
    corners = np.array(size.corners)
    for a, b in _EDGES:
        yield Line(corners[[a, b]], _dark(box.instance.id))


def _note(box: MeasuredBox, size: BoxSize) -> Note:
    text = " x ".join(f"{100 * edge:.1f}" for edge in size.size_m) + " cm"
    return Note(text, np.array(size.corners)[4:].mean(axis=0), _dark(box.instance.id))


def _entry(box: MeasuredBox) -> Entry:
    one = box.instance
    missing = "not measured" if box.part is None else "measured in part"
    name = f"box {one.id}" if box.size is not None else f"box {one.id}, {missing}"
    return Entry(name, box_color(one.id), one.points)
