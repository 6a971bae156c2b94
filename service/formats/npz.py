"""NPZ archives of NumPy arrays; nothing in them is ever unpickled.

The sizes that the arrays' headers and the archive's directory claim are compared, and bounded, before anything is
unpacked.
"""

from __future__ import annotations

import io
import math
import struct
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO, Any, BinaryIO

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from service.errors import MalformedFile, UnusableCloud
from service.formats.attributes import (
    COORD_ARRAYS,
    Column,
    answer_columns,
    assemble,
    canonical,
    check_count,
    check_unpacked,
    renamed,
    unique_names,
)
from service.formats.columns import guess_columns
from service.formats.format import Format, Options
from service.formats.npy import ArrayHeader, fields_of, image_shape, parse_array_header, refuse_objects, shaped
from service.formats.stream import MemoryStream
from service.values import PointCloud, Segmentation

MOST_MEMBERS = 1000
_CLASSES = ("class_id", "class_name", "class_color")
_BLOCK = 1 << 20


def _open(data: memoryview, options: Options) -> zipfile.ZipFile:
    """Open the archive and check its directory, what is no array included; raises MalformedFile, TooLarge."""
    try:
        archive = zipfile.ZipFile(io.BufferedReader(MemoryStream(data)))
    except (zipfile.BadZipFile, ValueError, struct.error, OSError, NotImplementedError, OverflowError) as error:
        raise MalformedFile(f"The NPZ archive does not open: {str(error)[:120]}.") from error
    members = archive.infolist()
    if len(members) > MOST_MEMBERS:
        raise MalformedFile(f"The NPZ archive has {len(members)} members; at most {MOST_MEMBERS} are read.")
    for member in members:
        if member.flag_bits & 1 or member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise MalformedFile(f"Member {member.filename[:60]} of the NPZ archive is encrypted or oddly compressed.")
        if member.compress_size > len(data):
            raise MalformedFile(f"Member {member.filename[:60]} of the NPZ archive is larger than the file.")
    check_unpacked(sum(member.file_size for member in members), options)
    return archive


def _headers(archive: zipfile.ZipFile) -> Iterator[tuple[zipfile.ZipInfo, str, ArrayHeader]]:
    """Yield each array's member, name and header, after checking that its sizes agree."""
    for member in archive.infolist():
        if not member.filename.endswith(".npy"):
            continue
        name = member.filename.removesuffix(".npy")
        with _unpacking(archive, member) as stream:
            header = parse_array_header(stream, name[:60])
        if not header.dtype.hasobject and header.nbytes + header.size > member.file_size:
            raise MalformedFile(
                f"Array {name[:60]} promises {header.nbytes} bytes, but the archive has {member.file_size} for it."
            )
        yield member, name, header


@contextmanager
def _unpacking(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> Iterator[IO[bytes]]:
    """Open a member; what zipfile and zlib raise on damage while it is read becomes MalformedFile."""
    try:
        with archive.open(member) as stream:
            yield stream
    except (
        zipfile.BadZipFile,
        zlib.error,
        EOFError,
        OSError,
        RuntimeError,
        NotImplementedError,
        struct.error,
        ValueError,
    ) as error:
        raise MalformedFile(
            f"Member {member.filename[:60]} of the archive does not unpack: {str(error)[:120]}."
        ) from error


def _load(archive: zipfile.ZipFile, member: zipfile.ZipInfo, header: ArrayHeader) -> NDArray[Any]:
    """Return an array of the archive; memory is taken as its bytes arrive."""
    refuse_objects(header, f"Array {member.filename[:60]}")
    parts: list[bytes] = []
    left = header.nbytes
    with _unpacking(archive, member) as stream:
        stream.read(header.size)
        while left > 0 and (part := stream.read(min(_BLOCK, left))):
            parts.append(part)
            left -= len(part)
    if left > 0:
        raise MalformedFile(f"Array {member.filename[:60]} of the archive ends {left} bytes too early.")
    values = np.frombuffer(b"".join(parts), header.dtype, math.prod(header.shape))
    return shaped(values, header)


def read(data: memoryview, options: Options) -> PointCloud:
    """Return the cloud of an NPZ archive.

    Positions are the array coord, xyz, points or pos (or the fields x, y, z of a structured array, or arrays x, y, z);
    color, normal and intensity likewise; every further array of N rows becomes an attribute; others are noted.
    Raises MalformedFile, TooLarge, UnusableCloud.
    """
    notes: list[str] = []
    archive = _open(data, options)
    found = list(_headers(archive))
    member, _, header = _position_array(found)
    structured = header.dtype.names is not None
    shape = header.shape if structured or len(header.shape) == 1 else header.shape[:-1]
    count = math.prod(shape)
    check_count(count, options)
    organized = image_shape(header.shape, structured or len(header.shape) == 1)
    columns: dict[str, Column] = {}
    left_out: list[str] = []
    for other, other_name, other_header in found:
        if other_name in _CLASSES:
            continue  # of an archive that this service wrote
        if other_name == "organized" and other_header.shape == (2,) and other_header.dtype.kind in "iu":
            height, width = (int(size) for size in _load(archive, other, other_header))
            organized = (height, width) if height > 1 and height * width == count else organized
            continue
        if other is not member and (other_header.dtype.hasobject or other_header.shape[: len(shape)] != shape):
            left_out.append(other_name)
            continue
        values = _load(archive, other, other_header)
        rest = other_header.shape[len(shape) :]
        values = values.reshape(count, *rest)
        if values.dtype.names is not None:
            columns |= {
                key: part for key, part in fields_of(values.reshape(count, -1)[:, 0]).items() if key not in columns
            }
        elif other is member and values.ndim == 2 and values.shape[1] > 3:
            columns |= guess_columns(values, options.columns, notes)
        else:
            columns["coord" if other is member and values.ndim == 2 else other_name] = values
    if left_out:
        notes.append(f"Arrays that do not hold one row for each of the {count} points: {', '.join(left_out)[:200]}.")
    return assemble(columns, organized=organized, notes=notes)


def _position_array(
    found: list[tuple[zipfile.ZipInfo, str, ArrayHeader]],
) -> tuple[zipfile.ZipInfo, str, ArrayHeader]:
    """Return the array that holds the positions; raises UnusableCloud where none does."""
    by_name = {canonical(name): (member, name, header) for member, name, header in reversed(found)}
    for name in COORD_ARRAYS:
        if name in by_name:
            _, original, header = by_name[name]
            structured = header.dtype.names is not None
            if structured or (len(header.shape) in (2, 3) and header.shape[-1] >= 3):
                return by_name[name]
            raise UnusableCloud(f"Array {original} must have the shape (N, 3); it has {header.shape}.")
    if all(axis in by_name for axis in "xyz"):
        return by_name["x"]
    for entry in found:
        if {"x", "y", "z"} <= {canonical(name) for name in entry[2].dtype.names or ()}:
            return entry
    if len(found) == 1 and len(found[0][2].shape) in (2, 3) and found[0][2].shape[-1] >= 3:
        return found[0]
    names = ", ".join(name for _, name, _ in found)[:200] or "none"
    raise UnusableCloud(f"The archive has no array of positions (coord, xyz, points or pos); its arrays are: {names}.")


def write(cloud: PointCloud, segmentation: Segmentation, out: BinaryIO) -> None:
    """Write the cloud and its labels as an NPZ archive.

    Arrays: coord (N, 3) float64, or float32 where that holds each coordinate exactly, color (N, 3) uint8, normal (N, 3)
    float32, intensity (N,) float32, the further attributes, label (N,) int32, confidence (N,) and scores (N, C) float32
    where there are such, and the classes as class_id (C,), class_name (C,), class_color (C, 3). An organised cloud has
    `organized`: height and width.

    Whole numbers are compressed, others are not: labels shrink to a twentieth in no time, coordinates to two thirds, at
    20 ms for a megabyte.
    """
    arrays: dict[str, NDArray[Any]] = {"coord": _exact(cloud.coord)}
    if cloud.color is not None:
        arrays["color"] = cloud.color
    if cloud.normal is not None:
        arrays["normal"] = cloud.normal
    if cloud.intensity is not None:
        arrays["intensity"] = cloud.intensity
    if cloud.organized is not None:
        arrays["organized"] = np.array(cloud.organized, dtype=np.int64)
    classes = segmentation.classes
    ours: dict[str, NDArray[Any]] = answer_columns(segmentation, len(cloud))
    if segmentation.scores is not None:
        ours["scores"] = segmentation.scores
    ours["class_id"] = np.array([info.id for info in classes], dtype=np.int32)
    ours["class_name"] = np.array([info.name for info in classes], dtype=np.str_)
    ours["class_color"] = np.array([info.color for info in classes], dtype=np.uint8).reshape(-1, 3)
    changed = renamed(cloud.attributes)
    further = {name: values for name, values in cloud.attributes.items() if not values.dtype.hasobject}
    wishes = [changed.get(name, name).replace("/", "_").replace("\\", "_") or "attribute" for name in further]
    reserved = {*arrays, *ours}
    wishes = [f"original_{wish}" if wish in reserved else wish for wish in wishes]
    arrays |= zip(unique_names(wishes, reserved), further.values(), strict=True)
    with zipfile.ZipFile(out, "w", compresslevel=1) as archive:
        for name, values in (arrays | ours).items():
            archive.compression = zipfile.ZIP_STORED if values.dtype.kind == "f" else zipfile.ZIP_DEFLATED
            with archive.open(f"{name}.npy", "w", force_zip64=True) as stream:
                npy.write_array(stream, np.ascontiguousarray(values), allow_pickle=False)


def _exact(coord: NDArray[Any]) -> NDArray[Any]:
    """Return coordinates in single precision where none of them loses by it."""
    with np.errstate(over="ignore"):
        single = coord.astype(np.float32)
    return single if np.array_equal(single, coord, equal_nan=True) else coord


def annotate(data: memoryview, segmentation: Segmentation, out: BinaryIO, options: Options) -> None:
    """Write the user's archive with the arrays `label` and, if there is one, `confidence` added.

    Its other members are copied as they are, unread ones too; an array `label` becomes `original_label`.
    """
    archive = _open(data, options)
    found = list(_headers(archive))
    _, _, header = _position_array(found)
    structured = header.dtype.names is not None or len(header.shape) == 1
    answers = answer_columns(segmentation, math.prod(header.shape if structured else header.shape[:-1]))
    changed = renamed(name for _, name, _ in found)
    with zipfile.ZipFile(out, "w") as copy:
        for member in archive.infolist():
            name = member.filename.removesuffix(".npy")
            new = changed[name] + ".npy" if name in changed and member.filename.endswith(".npy") else member.filename
            entry = zipfile.ZipInfo(new, member.date_time)
            entry.compress_type, entry.external_attr = member.compress_type, member.external_attr
            with _unpacking(archive, member) as source, copy.open(entry, "w", force_zip64=True) as target:
                left = member.file_size
                while left > 0 and (part := source.read(min(_BLOCK, left))):
                    target.write(part)
                    left -= len(part)
        for name, column in answers.items():
            entry = zipfile.ZipInfo(name + ".npy")
            entry.compress_type = found[0][0].compress_type
            with copy.open(entry, "w", force_zip64=True) as target:
                npy.write_array(target, column, allow_pickle=False)


FORMAT = Format(
    name="npz",
    title="NPZ, an archive of NumPy arrays",
    suffixes=(".npz",),
    media_types=("application/x-npz", "application/npz"),
    matches=lambda head: head[:4] in (b"PK\x03\x04", b"PK\x05\x06"),
    read=read,
    write=write,
    annotate=annotate,
)
