"""NPY arrays; nothing in them is ever unpickled.

Source: numpy.lib.format (NEP 1). Headers are parsed here, so that the size that an array claims is compared with the
bytes that are there before memory is taken for it.
"""

from __future__ import annotations

import ast
import io
import math
import struct
from dataclasses import dataclass
from typing import IO, Any, BinaryIO

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from service.errors import MalformedFile, UnusableCloud
from service.formats.attributes import Column, answer_columns, assemble, check_count, renamed
from service.formats.columns import guess_columns
from service.formats.format import Format, Options
from service.formats.stream import MemoryStream
from service.values import PointCloud, Segmentation

LONGEST_HEADER = 1 << 16
MAGIC = b"\x93NUMPY"


@dataclass(frozen=True)
class ArrayHeader:
    """What the header of an NPY array says, and its own size in bytes."""

    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    fortran: bool
    size: int

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize


def parse_array_header(stream: IO[bytes], name: str) -> ArrayHeader:
    """Return the header of the NPY array that the stream is at the beginning of; raises MalformedFile."""
    prefix = stream.read(12)
    if prefix[:6] != MAGIC or len(prefix) < 12:
        raise MalformedFile(f"{name} is no NPY array: it begins with {prefix[:6]!r} instead of {MAGIC!r}.")
    major = prefix[6]
    if major not in (1, 2, 3):
        raise MalformedFile(f"{name} is in version {major} of the NPY format; 1, 2 and 3 are read.")
    length = struct.unpack_from("<H", prefix, 8)[0] if major == 1 else struct.unpack_from("<I", prefix, 8)[0]
    if length > LONGEST_HEADER:
        raise MalformedFile(f"The NPY header of {name} claims {length} bytes; at most {LONGEST_HEADER} are read.")
    rest = stream.read(length - 2 if major == 1 else length)
    text = (prefix[10:] + rest if major == 1 else rest)[:length]
    size = 10 + length if major == 1 else 12 + length
    if len(text) < length:
        raise MalformedFile(f"{name} ends inside its NPY header: it is truncated.")
    try:
        said = ast.literal_eval(text.decode("latin1" if major < 3 else "utf-8").strip())
        shape, fortran = said["shape"], said["fortran_order"]
        dtype = npy.descr_to_dtype(said["descr"])
    except (
        ValueError,
        SyntaxError,
        TypeError,
        KeyError,
        IndexError,
        RecursionError,
        MemoryError,
        OverflowError,
    ) as error:
        raise MalformedFile(f"The NPY header of {name} does not parse: {str(error)[:120]}.") from error
    whole = isinstance(shape, tuple) and all(type(axis) is int and axis >= 0 for axis in shape)
    # numpy counts bytes in 63 bits and has at most 32 axes, also where one of these is 0
    fits = whole and len(shape) <= 32 and math.prod(max(axis, 1) for axis in shape) * max(dtype.itemsize, 1) < 2**63
    if not fits or not isinstance(fortran, bool):
        raise MalformedFile(f"The NPY header of {name} has the shape {str(shape)[:60]}, which is none.")
    if dtype.itemsize == 0 and not dtype.hasobject:
        raise MalformedFile(f"The NPY array {name} has the type {str(dtype)[:60]}, which has no size.")
    return ArrayHeader(dtype, shape, fortran, size)


def shaped(values: NDArray[Any], header: ArrayHeader) -> NDArray[Any]:
    return values.reshape(header.shape[::-1]).T if header.fortran else values.reshape(header.shape)


def refuse_objects(header: ArrayHeader, name: str) -> None:
    if header.dtype.hasobject:
        raise MalformedFile(f"{name} holds pickled Python objects, which are not read; save plain numbers.")


def read(data: memoryview, options: Options) -> PointCloud:
    """Return the cloud of an NPY file: (N, 3+) or (H, W, 3+) numbers, or a structured array with named fields.

    The columns of a plain array are taken from `options.columns` or guessed (see `columns.guess_columns`), which is
    noted. Raises MalformedFile, TooLarge, UnusableCloud.
    """
    header = parse_array_header(io.BufferedReader(MemoryStream(data)), "the file")
    values = _array_in(data, header)
    if header.dtype.names is None and len(header.shape) not in (2, 3):
        raise UnusableCloud(f"The array must have the shape (N, 3) or (N, more); it has {header.shape}.")
    count = math.prod(header.shape) if header.dtype.names else math.prod(header.shape[:-1])
    check_count(count, options)
    organized = image_shape(header.shape, bool(header.dtype.names))
    notes: list[str] = []
    if header.dtype.names:
        return assemble(fields_of(values.reshape(-1)), organized=organized, notes=notes)
    table = values.reshape(count, header.shape[-1])
    return assemble(guess_columns(table, options.columns, notes), organized=organized, notes=notes)


def _array_in(data: memoryview, header: ArrayHeader) -> NDArray[Any]:
    """Return the array behind a header as a view of the file."""
    refuse_objects(header, "The array")
    if header.nbytes > len(data) - header.size:
        raise MalformedFile(
            f"The NPY header promises {header.shape} of {header.dtype.itemsize} bytes ({header.nbytes} bytes), "
            f"but only {len(data) - header.size} bytes follow: the file is truncated."
        )
    values = np.frombuffer(data, header.dtype, math.prod(header.shape), header.size)
    return shaped(values, header)


def image_shape(shape: tuple[int, ...], structured: bool) -> tuple[int, int] | None:
    """Return (height, width) of an array shaped like an image."""
    points = shape if structured else shape[:-1]
    return (points[0], points[1]) if len(points) == 2 and points[0] > 1 else None


def fields_of(values: NDArray[Any]) -> dict[str, Column]:
    """Return the fields of a structured array (N,) by their names."""
    return {name: values[name] for name in values.dtype.names or () if values.dtype[name].names is None}


def annotate(data: memoryview, segmentation: Segmentation, out: BinaryIO, options: Options) -> None:
    """Write the user's array with the labels as fields `label`, `confidence`, or as its last columns if it has none.

    Columns keep the array's type where the labels fit it, else the array gets the least type that holds both.
    """
    header = parse_array_header(io.BufferedReader(MemoryStream(data)), "the file")
    values = _array_in(data, header)
    if header.dtype.names:
        labelled = _withfields_of(values, answer_columns(segmentation, values.size))
    else:
        count = math.prod(header.shape[:-1])
        answers = answer_columns(segmentation, count)
        dtype = np.result_type(values.dtype, *(_least(column) for column in answers.values()))
        labelled = np.empty((*header.shape[:-1], header.shape[-1] + len(answers)), dtype=dtype)
        labelled[..., : header.shape[-1]] = values
        for index, column in enumerate(answers.values(), header.shape[-1]):
            labelled[..., index] = column.reshape(header.shape[:-1])
    npy.write_array(out, labelled, allow_pickle=False)


def _least(column: Column) -> np.dtype[Any]:
    """Return the least type that holds a column of answers."""
    if column.dtype.kind == "f":
        return column.dtype
    low, high = int(column.min(initial=0)), int(column.max(initial=0))
    return next(
        np.dtype(kind) for kind in ("i1", "i2", "i4") if np.iinfo(kind).min <= low and high <= np.iinfo(kind).max
    )


def _withfields_of(values: NDArray[Any], answers: dict[str, Column]) -> NDArray[Any]:
    """Return a structured array with the answers as further fields."""
    names = values.dtype.names or ()
    changed = renamed(names)
    fields = [(changed.get(name, name), values.dtype[name]) for name in names]
    labelled = np.empty(values.shape, dtype=[*fields, *((name, column.dtype) for name, column in answers.items())])
    for name in names:
        labelled[changed.get(name, name)] = values[name]
    for name, column in answers.items():
        labelled[name] = column.reshape(values.shape)
    return labelled


FORMAT = Format(
    name="npy",
    title="NPY, a NumPy array",
    suffixes=(".npy",),
    media_types=("application/x-npy", "application/npy", "application/numpy", "application/x-numpy"),
    matches=lambda head: head[:6] == MAGIC,
    read=read,
    annotate=annotate,
)
