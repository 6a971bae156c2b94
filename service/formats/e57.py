"""E57, by pye57 (libE57Format), which is an optional install. Source: ASTM E2807."""

from __future__ import annotations

import os
import re
import struct
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from service.errors import MalformedFile, UnknownFormat, UnusableCloud
from service.formats.attributes import Column, assemble, check_count, check_fields, check_unpacked
from service.formats.format import Format, Options
from service.values import PointCloud

BLOCK = 1 << 18
_HEADER = struct.Struct("<8sIIQQQQ")  # signature, version, file's length, XML's start and length, page's length
_ENCODINGS = (b"utf-8", b"us-ascii", b"iso-8859-1")
_CARTESIAN = ("cartesianX", "cartesianY", "cartesianZ")
_SPHERICAL = ("sphericalRange", "sphericalAzimuth", "sphericalElevation")
_NORMALS = ("nor:normalX", "nor:normalY", "nor:normalZ")
_INVALID = ("cartesianInvalidState", "sphericalInvalidState")
_NAMES = {
    "colorRed": "red",
    "colorGreen": "green",
    "colorBlue": "blue",
    **dict(zip(_NORMALS, ("nx", "ny", "nz"), strict=True)),
}


def read(data: memoryview, options: Options) -> PointCloud:
    """Return the points of all scans of an E57 file in one frame: each scan's pose is applied to it.

    Points that their scanner marked as invalid are NaN. With more than one scan the attribute `scan` counts them from
    0; what a scan does not have is NaN (0 for colours). Raises MalformedFile, TooLarge, UnusableCloud, and
    UnknownFormat where pye57 is not installed.
    """
    try:
        import pye57
    except ImportError as error:
        raise UnknownFormat(
            "E57 files need the package pye57, which is not installed here: pip install 'pointserve[e57]'."
        ) from error
    _check_xml(data)
    with _as_path(data) as path:
        try:
            with pye57.E57(path) as file:
                scans = [pye57.ScanHeader(node) for node in (file.data3d[i] for i in range(file.scan_count))]
                _check_scans(scans, len(data), options)
                parts = [_read_scan(file, scan, index) for index, scan in enumerate(scans) if scan.point_count]
        except (pye57.libe57.E57Exception, RuntimeError, ValueError, TypeError, KeyError, IndexError) as error:
            reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
            raise MalformedFile(f"The E57 file does not read: {reason[:200]}.") from error
    return assemble(_join(parts))


def _check_xml(data: memoryview) -> None:
    """Refuse a file whose sizes do not agree, and XML with a document type: entities swell, or name other files."""
    if len(data) < _HEADER.size:
        raise MalformedFile(f"An E57 file begins with a header of {_HEADER.size} bytes; this file has {len(data)}.")
    _, _, _, length, start, size, page = _HEADER.unpack_from(data)
    if length != len(data) or page != 1024 or not _HEADER.size <= start < length or size > length - start:
        raise MalformedFile(
            f"The E57 header says that the file has {length} bytes in pages of {page}, and {size} bytes of XML at byte "
            f"{start}; the file has {len(data)} bytes: it is truncated or garbled."
        )
    first = start // page * page
    pages = np.frombuffer(data[first : length // page * page], np.uint8).reshape(-1, page)
    text = pages[: size // (page - 4) + 2, : page - 4].tobytes()[start - first :][:size]
    said = re.match(rb"(?:\xef\xbb\xbf)?<\?xml([^>]*)>", text)
    encoding = re.search(rb"encoding\s*=\s*[\"']([^\"']*)", said[1]) if said is not None else None
    if said is None or (encoding is not None and encoding[1].lower() not in _ENCODINGS):
        raise MalformedFile("The XML of the E57 file must begin with '<?xml', and be in UTF-8.")
    if b"<!DOCTYPE" in text:
        raise MalformedFile("The XML of the E57 file has a DOCTYPE, which E57 does not know and which is not read.")


def _check_scans(scans: list[Any], size: int, options: Options) -> None:
    """Compare the points that the scans claim with the file's size, where they take bits, and with the limits."""
    bits = values = 0
    for scan in scans:
        check_fields(len(scan.point_fields), "The E57 file gives a point")
        bits += scan.point_count * _bits(scan)
        values += scan.point_count * (3 + len(scan.point_fields))
    if bits > 8 * size:
        raise MalformedFile(
            f"The E57 file promises points that take {bits // 8} bytes, but has {size}: it is truncated."
        )
    check_count(sum(scan.point_count for scan in scans), options)
    check_unpacked(8 * values, options)


def _bits(scan: Any) -> int:
    """Return the bits that a point of a scan takes; a number whose least and largest values are equal takes none."""
    from pye57 import libe57
    from pye57.libe57 import NodeType

    prototype = libe57.StructureNode(scan.points.prototype())
    bits = 0
    for name in scan.point_fields:
        node = prototype.get(name)
        if node.type() == NodeType.E57_FLOAT:
            bits += 32 if libe57.FloatNode(node).precision() == libe57.FloatPrecision.E57_SINGLE else 64
        elif node.type() == NodeType.E57_INTEGER:
            whole = libe57.IntegerNode(node)
            bits += (whole.maximum() - whole.minimum()).bit_length()
        elif node.type() == NodeType.E57_SCALED_INTEGER:
            scaled = libe57.ScaledIntegerNode(node)
            bits += (scaled.maximum() - scaled.minimum()).bit_length()
    return bits


@contextmanager
def _as_path(data: memoryview) -> Iterator[str]:
    """Give the bytes a path, as libE57Format opens nothing else: in memory where the system has that."""
    if hasattr(os, "memfd_create"):
        handle = os.memfd_create("e57")
        path = f"/proc/self/fd/{handle}"
    else:
        handle, name = tempfile.mkstemp(suffix=".e57")
        Path(name).unlink()
        path = f"/dev/fd/{handle}"
    try:
        with os.fdopen(os.dup(handle), "wb") as file:
            file.write(data)
        yield path
    finally:
        os.close(handle)


def _read_scan(file: Any, scan: Any, index: int) -> dict[str, Column]:
    """Return the columns of one scan, positions and normals turned into the file's frame."""
    columns = _read_fields(file, scan)
    coord = np.empty((scan.point_count, 3), dtype=np.float64)
    if all(name in columns for name in _CARTESIAN):
        for axis, name in enumerate(_CARTESIAN):
            coord[:, axis] = columns.pop(name)
    elif all(name in columns for name in _SPHERICAL):
        distance, azimuth, elevation = (columns.pop(name) for name in _SPHERICAL)
        flat = distance * np.cos(elevation)
        coord[:, 0], coord[:, 1] = flat * np.cos(azimuth), flat * np.sin(azimuth)
        coord[:, 2] = distance * np.sin(elevation)
    else:
        raise UnusableCloud(
            f"Scan {index} has neither {', '.join(_CARTESIAN)} nor {', '.join(_SPHERICAL)}; "
            f"its fields are: {', '.join(scan.point_fields)[:200]}."
        )
    rotation, translation = _pose(scan)
    if rotation is not None:
        coord = coord @ rotation.T
    coord += translation
    for name in _INVALID:
        if name in columns:
            coord[columns.pop(name) != 0] = np.nan
    if rotation is not None and all(name in columns for name in _NORMALS):
        normals = np.stack([columns[name] for name in _NORMALS], axis=1) @ rotation.T
        columns |= {name: normals[:, axis] for axis, name in enumerate(_NORMALS)}
    named = {_NAMES.get(name, name): values for name, values in columns.items()}
    return {"coord": coord, **named, "scan": np.full(len(coord), index, dtype=np.float64)}


def _read_fields(file: Any, scan: Any) -> dict[str, NDArray[np.float64]]:
    """Return every field of numbers of a scan (N,), scaled as the file says; memory is taken as points arrive."""
    from pye57 import libe57
    from pye57.libe57 import NodeType

    numbers = (NodeType.E57_INTEGER, NodeType.E57_SCALED_INTEGER, NodeType.E57_FLOAT)
    prototype = libe57.StructureNode(scan.points.prototype())
    names = [name for name in scan.point_fields if prototype.get(name).type() in numbers]
    blocks = {name: np.empty(BLOCK, dtype=np.float64) for name in names}
    buffers = libe57.VectorSourceDestBuffer()
    for name, block in blocks.items():
        buffers.append(libe57.SourceDestBuffer(file.image_file, name, block, BLOCK, True, True))
    columns = {name: np.empty(scan.point_count, dtype=np.float64) for name in names}
    reader = scan.points.reader(buffers)
    done = 0
    while (count := reader.read()) > 0:
        if done + count > scan.point_count:
            break
        for name, block in blocks.items():
            columns[name][done : done + count] = block[:count]
        done += count
    reader.close()
    if done != scan.point_count:
        raise MalformedFile(f"A scan promises {scan.point_count} points, but {done} can be read: it is truncated.")
    return columns


def _pose(scan: Any) -> tuple[NDArray[np.float64] | None, NDArray[np.float64]]:
    """Return the scan's rotation (3, 3), or None, and its translation (3,) in metres."""
    translation = np.zeros(3)
    rotation = None
    if scan.has_pose():
        pose = scan.node["pose"]
        if pose.isDefined("translation"):
            translation = np.array([pose["translation"][axis].value() for axis in "xyz"], dtype=np.float64)
        if pose.isDefined("rotation"):
            w, x, y, z = (float(pose["rotation"][part].value()) for part in "wxyz")
            norm = w * w + x * x + y * y + z * z
            if norm > 0 and np.isfinite(norm):
                s = 2 / norm
                rotation = np.array(
                    [
                        [1 - s * (y * y + z * z), s * (x * y - z * w), s * (x * z + y * w)],
                        [s * (x * y + z * w), 1 - s * (x * x + z * z), s * (y * z - x * w)],
                        [s * (x * z - y * w), s * (y * z + x * w), 1 - s * (x * x + y * y)],
                    ]
                )
    return rotation, translation


def _join(parts: list[dict[str, Column]]) -> dict[str, Column]:
    """Return the scans' columns one after another; whole numbers as integers."""
    names = list(dict.fromkeys(name for part in parts for name in part))
    if len(parts) == 1:
        names.remove("scan")
    sizes = [len(part["coord"]) for part in parts]
    columns: dict[str, Column] = {}
    for name in names:
        pieces = [
            part.pop(name) if name in part else np.full(size, np.nan) for part, size in zip(parts, sizes, strict=True)
        ]
        columns[name] = pieces[0] if len(pieces) == 1 else np.concatenate(pieces)
    return {name: values if values.ndim == 2 else _integers(values) for name, values in columns.items()}


def _integers(values: Column) -> Column:
    """Return whole numbers as int32; fields were read as float64 whatever they are."""
    finite = bool(np.isfinite(values).all())
    if finite and bool((values == np.rint(values)).all()) and bool((np.abs(values) < 2**31).all()):
        return values.astype(np.int32)
    return values


FORMAT = Format(
    name="e57",
    title="E57, ASTM 3D imaging data",
    suffixes=(".e57",),
    media_types=("model/e57", "application/e57", "application/x-e57"),
    matches=lambda head: head[:8] == b"ASTM-E57",
    read=read,
)
