"""`pointserve render`: a picture of a cloud, coloured by its labels, its own colours or its height."""

from __future__ import annotations

import mmap
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from service import formats
from service.errors import MalformedRequest, UnusableCloud
from service.models import cards
from service.picture import ASPRS, Entry, class_color, draw, height_colors, label_colors, textured
from service.settings import settings
from service.values import ClassInfo, PointCloud

LABELS = ("label", "scalar_label", "classification", "scalar_classification")
Names = Mapping[int, tuple[str, tuple[int, int, int]]]


def render(file: Path, target: Path, color: str | None, format: str | None, model: str | None) -> None:
    """Draw a file.

    Args:
        file: a cloud in any format that the service reads.
        target: where the PNG goes.
        color: "label", "rgb", "height"; None: the first that the file has.
        format: name of the file's format, or None to recognise it.
        model: name of the model that the labels are of, or None.

    Raises:
        ServiceError: the file cannot be read, has no valid points, or has not what it shall be coloured by.
    """
    cloud, read_as = read(file, format)
    if model is not None:
        names = names_of(cards.card(model).classes)
    else:
        names = ASPRS if read_as in ("las", "laz") else {}
    draw_cloud(cloud, target, file.name, color, names)


def read(file: Path, format: str | None = None) -> tuple[PointCloud, str]:
    """Return a file's cloud and the name of its format."""
    with file.open("rb") as stream:
        size = stream.seek(0, 2)
        if size == 0:
            raise MalformedRequest(f"{file} is empty.")
        with mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_COPY) as mapped:
            head = mapped[:4096]
            source = formats.recognise(head, declared=format, media_type=None, filename=file.name)
            # A copy, so that no array looks into a file that is closed.
            data = memoryview(mapped[:])
    return formats.read(data, source, formats.Options(max_points=settings().max_points)), source.name


def names_of(classes: Sequence[ClassInfo]) -> Names:
    """Return class ids to names and colours."""
    return {info.id: (info.name, info.color) for info in classes}


def labels_of(cloud: PointCloud) -> NDArray[np.int32] | None:
    """Return the labels (N,) that a file carries, or None; those of this service come before a classification."""
    by_name = {name.lower(): values for name, values in cloud.attributes.items()}
    for name in LABELS:
        if name in by_name and by_name[name].ndim == 1:
            return np.nan_to_num(by_name[name], nan=-1).astype(np.int32)
    return None


def draw_cloud(cloud: PointCloud, target: Path, title: str, color: str | None, names: Names) -> None:
    """Draw a cloud into a PNG; arguments and errors as in `render`, `names` for the legend."""
    label = labels_of(cloud)
    if color is None:
        color = "label" if label is not None else "rgb" if cloud.color is not None else "height"
    valid = np.isfinite(cloud.coord).all(axis=1)
    if not valid.any():
        raise UnusableCloud("The cloud has no valid points to draw.")
    legend: list[Entry] = []
    if color == "label":
        if label is None:
            raise UnusableCloud(f"The file has no labels to colour by; there are: {_attributes(cloud)}.")
        shades = label_colors(label, {id: entry[1] for id, entry in names.items()})
        if cloud.color is not None:
            shades = textured(shades, cloud.color)
        legend = [_entry(int(id), int(count), names) for id, count in zip(*_count(label), strict=True)]
    elif color == "rgb":
        if cloud.color is None:
            raise UnusableCloud(f"The file has no colours; there are: {_attributes(cloud)}.")
        shades = cloud.color
    else:
        height = cloud.coord[:, 2]
        shades = height_colors(np.where(valid, height, np.min(height[valid])))
    target.parent.mkdir(parents=True, exist_ok=True)
    draw(cloud.coord, shades, legend, title).save(target, format="PNG")


def _count(label: NDArray[np.int32]) -> tuple[NDArray[np.int32], NDArray[np.intp]]:
    ids, counts = np.unique(label, return_counts=True)
    return ids, counts


def _entry(id: int, count: int, names: Names) -> Entry:
    name, color = names.get(id, ("ignored" if id < 0 else f"class {id}", class_color(id)))
    return Entry(name, color, count)


def _attributes(cloud: PointCloud) -> str:
    return ", ".join(cloud.attributes) or "no attributes beside the coordinates"
