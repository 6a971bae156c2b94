"""The file formats: bytes to PointCloud and back. A new format is one module and one line in FORMATS."""

from __future__ import annotations

from typing import BinaryIO

import numpy as np

from service.errors import InternalError, UnknownFormat
from service.formats import e57, json_arrays, kitti, las, npy, npz, pcd, ply, text
from service.formats.format import Format, Options
from service.formats.recognition import recognise_among
from service.values import PointCloud, Segmentation

__all__ = ["FORMATS", "Format", "Options", "annotate", "by_name", "keeps", "read", "recognise", "write"]

FORMATS: tuple[Format, ...] = (
    ply.FORMAT,
    las.LAS,
    las.LAZ,
    pcd.FORMAT,
    npy.FORMAT,
    npz.FORMAT,
    e57.FORMAT,
    json_arrays.FORMAT,
    text.FORMAT,
    kitti.FORMAT,
)


def by_name(word: str) -> Format:
    """Return the format of that name ("ply") or file-name ending ("csv"); raises UnknownFormat that lists the names."""
    wanted = word.strip().lower().removeprefix(".")
    for format in FORMATS:
        if wanted == format.name or f".{wanted}" in format.suffixes:
            return format
    raise UnknownFormat(f"'{word[:40]}' is no format; the formats are: {', '.join(format.name for format in FORMATS)}.")


def recognise(head: bytes, *, declared: str | None, media_type: str | None, filename: str | None) -> Format:
    """Return the format of a file.

    Args:
        head: the file's first bytes, 4096 of them where there are so many.
        declared: the word of `?format=`, or None.
        media_type: the Content-Type, with or without parameters, or None.
        filename: the name the client gave the file, or None.
    They are asked in the order: declared, media_type, filename, head. Raises UnknownFormat where none says anything or
    one says something unknown, MalformedRequest where two contradict each other or the body is empty.
    """
    named = by_name(declared) if declared else None
    return recognise_among(FORMATS, head, declared=named, media_type=media_type, filename=filename)


def read(data: memoryview, format: Format, options: Options) -> PointCloud:
    """Return the cloud that the bytes hold; raises MalformedFile, TooLarge, UnusableCloud."""
    # files hold signalling NaN, scales that overflow and the like: such points are invalid, and that is all
    with np.errstate(all="ignore"):
        return format.read(data, options)


def write(cloud: PointCloud, segmentation: Segmentation, format: Format, out: BinaryIO) -> None:
    """Write a cloud and its labels as a new file; raises UnknownFormat for a format that is only read."""
    if format.write is None:
        names = ", ".join(other.name for other in FORMATS if other.write is not None)
        raise UnknownFormat(f"{format.title} is read but not written; written are: {names}.")
    _check_lengths(cloud, segmentation)
    with np.errstate(all="ignore"):
        format.write(cloud, segmentation, out)


def keeps(source: Format, target: Format) -> bool:
    """Whether `annotate(data, target, ...)` takes a file of `source`: the same format, or LAS and LAZ."""
    return target.annotate is not None and (source is target or {source.name, target.name} == {"las", "laz"})


def annotate(data: memoryview, format: Format, segmentation: Segmentation, out: BinaryIO, options: Options) -> None:
    """Write the user's own file with the labels added, in its own format or one that `keeps` all of it.

    `out` must be seekable. Raises UnknownFormat for a format that cannot hold labels, MalformedFile, UnusableCloud.
    """
    if format.annotate is None:
        names = ", ".join(other.name for other in FORMATS if other.annotate is not None)
        raise UnknownFormat(f"Labels cannot be added to a file of {format.title}; they can to: {names}.")
    format.annotate(data, segmentation, out, options)


def _check_lengths(cloud: PointCloud, segmentation: Segmentation) -> None:
    """Raise InternalError where the labels are not the cloud's own."""
    if len(cloud) != len(segmentation.label):
        raise InternalError(f"There are {len(segmentation.label)} labels for {len(cloud)} points.")
