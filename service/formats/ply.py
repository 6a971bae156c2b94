"""PLY, ASCII and binary of both byte orders, with numpy alone."""

from __future__ import annotations

from typing import BinaryIO

import numpy as np

from service.errors import MalformedFile
from service.formats.attributes import (
    Column,
    answer_columns,
    assemble,
    check_count,
    coord_columns,
    renamed,
    scalar_attributes,
    unique_names,
)
from service.formats.format import Format, Options
from service.formats.ply_layout import Element, Header, binary_runs, parse_header
from service.formats.rows import append_cells, check_lines, lines_of, parse_rows, to_number
from service.values import PointCloud, Segmentation

BLOCK = 1 << 18
"""Rows that are written at a time."""

POSITIONS = ("x", "y", "z")

_NAMES = {"i1": "char", "u1": "uchar", "i2": "short", "u2": "ushort", "i4": "int", "u4": "uint", "f4": "float"}


def matches(head: bytes) -> bool:
    """Whether the bytes begin like a PLY file."""
    return head[:3] == b"ply" and head[3:4] in (b"\n", b"\r", b" ", b"")


def read(data: memoryview, options: Options) -> PointCloud:
    """Return the vertices of a PLY file; faces and other elements are not looked at.

    Raises MalformedFile, TooLarge, UnusableCloud.
    """
    header = parse_header(data)
    vertex = header.vertex
    if vertex.count == 0:
        check_count(0, options)
    columns = _read_ascii(header, data, options) if header.kind == "ascii" else _read_binary(header, data, options)
    return assemble(columns)


def _names(vertex: Element) -> list[str]:
    return unique_names(prop.name for prop in vertex.properties)


def _read_binary(header: Header, data: memoryview, options: Options) -> dict[str, Column]:
    vertex = header.vertex
    if not vertex.properties:
        return {}
    runs, _ = binary_runs(header, data)
    check_count(vertex.count, options)
    tables = [run.rows(data) for run in runs]
    columns: dict[str, Column] = {}
    for index, (name, prop) in enumerate(zip(_names(vertex), vertex.properties, strict=True)):
        parts = [table[str(index)] for table in tables]
        if prop.count_type is not None and (len({part.shape[1] for part in parts}) != 1 or parts[0].shape[1] == 0):
            continue  # a ragged list has no place among columns; annotate keeps it
        columns[name] = parts[0] if len(parts) == 1 else np.concatenate(parts)
    return columns


def _ascii_start(header: Header, data: memoryview) -> tuple[int, int]:
    """Return the offset of the first vertex line of an ASCII file and its line number."""
    to_skip = 0
    for element in header.elements:
        if element is header.vertex:
            break
        to_skip += element.count if element.properties else 0
    offset, number = header.size, len(header.lines) + 1
    if to_skip:
        for line in lines_of(data[header.size :]):
            if to_skip == 0:
                break
            to_skip -= bool(line.strip())
            offset, number = offset + len(line), number + 1
    if to_skip:
        raise MalformedFile(f"The PLY file ends {to_skip} lines before its first vertex: it is truncated.")
    return offset, number


def _read_ascii(header: Header, data: memoryview, options: Options) -> dict[str, Column]:
    vertex = header.vertex
    names = _names(vertex)
    if not names:
        return {}
    check_lines(data[header.size :])
    offset, number = _ascii_start(header, data)
    if vertex.count * len(names) * 2 - 1 > len(data) - offset:
        raise MalformedFile(
            f"The PLY header promises {vertex.count} vertices of {len(names)} values, "
            f"but only {len(data) - offset} bytes follow: the file is truncated."
        )
    check_count(vertex.count, options)
    body = data[offset:]
    if vertex.has_lists:
        scalars = [index for index, prop in enumerate(vertex.properties) if prop.count_type is None]
        values = _parse_with_lists(vertex, body, number)
    else:
        scalars = list(range(len(names)))
        values = parse_rows(body, len(names), rows=vertex.count, first_line=number)
    if len(values) < vertex.count:
        raise MalformedFile(
            f"The PLY header promises {vertex.count} vertices, but the file ends after {len(values)}: it is truncated."
        )
    return {
        # positions keep the digits that the text has, be their type float or double
        names[index]: _as_type(values[:, column], "f8" if names[index] in POSITIONS else vertex.properties[index].type)
        for column, index in enumerate(scalars)
    }


def _as_type(values: Column, kind: str) -> Column:
    """Return float64 values as the type that the header names, where they fit it; integers too large for it wrap."""
    if kind[0] == "f":
        return values.astype(kind) if kind != "f8" else values
    if not np.isfinite(values).all() or (values != np.rint(values)).any():
        return values
    return values.astype(np.int64).astype(kind) if kind != "u8" else values.astype(np.uint64)


def _parse_with_lists(vertex: Element, body: memoryview, first_line: int) -> Column:
    """Return the scalar properties (N, k) of vertices that also have lists, whose lines differ in length."""
    rows: list[list[float]] = []
    for number, line in enumerate(lines_of(body), first_line):
        cells = line.decode("latin1").split()
        if len(rows) == vertex.count:
            break
        if not cells:
            continue
        row: list[float] = []
        position = 0
        for prop in vertex.properties:
            value = to_number(cells[position]) if position < len(cells) else None
            if value is None or (prop.count_type is not None and not 0 <= value <= len(cells)):
                raise MalformedFile(f"Line {number} of the PLY file has no good value for '{prop.name}'.")
            if prop.count_type is None:
                row.append(value)
                position += 1
            else:
                position += 1 + int(value)
        rows.append(row)
    return np.array(rows, dtype=np.float64).reshape(len(rows), -1)


def write(cloud: PointCloud, segmentation: Segmentation, out: BinaryIO) -> None:
    """Write the cloud and its labels as a binary little-endian PLY file.

    Properties: x, y, z (float where that is exact, else double); red, green, blue; nx, ny, nz; intensity; the further
    attributes; int label; float confidence and int instance where there are such. The classes are named in comments.
    """
    columns = coord_columns(cloud)
    if cloud.color is not None:
        columns |= {name: cloud.color[:, axis] for axis, name in enumerate(("red", "green", "blue"))}
    if cloud.normal is not None:
        columns |= {name: cloud.normal[:, axis] for axis, name in enumerate(("nx", "ny", "nz"))}
    if cloud.intensity is not None:
        columns["intensity"] = cloud.intensity
    columns |= scalar_attributes(cloud)
    columns |= answer_columns(segmentation, len(cloud))
    columns = {name: _narrow(values) for name, values in columns.items()}
    lines = ["ply", "format binary_little_endian 1.0", *class_comments(segmentation), f"element vertex {len(cloud)}"]
    for name, values in columns.items():
        lines.append(f"property {_NAMES.get(values.dtype.str[1:], 'double')} {_ascii(name)}")
    out.write(("\n".join([*lines, "end_header"]) + "\n").encode("ascii"))
    dtype = np.dtype([(str(i), values.dtype.newbyteorder("<")) for i, values in enumerate(columns.values())])
    for start in range(0, len(cloud), BLOCK):
        table = np.empty(min(BLOCK, len(cloud) - start), dtype=dtype)
        for i, values in enumerate(columns.values()):
            table[str(i)] = values[start : start + BLOCK]
        out.write(table.data.cast("B"))


def class_comments(segmentation: Segmentation) -> list[str]:
    """Return the header's comment lines: the model, and each class with its id, colour and name."""
    lines = [f"comment labels by PointServe, model {_ascii(segmentation.model)}"]
    for info in segmentation.classes:
        red, green, blue = info.color
        lines.append(f"comment class {info.id} {red} {green} {blue} {_ascii(info.name)}")
    return lines


def _ascii(text: str) -> str:
    """Return the text as one line of ASCII."""
    return "".join(c if " " < c < "\x7f" else "_" if c.isspace() else "?" for c in text)


def _narrow(values: Column) -> Column:
    """Return the values as a type that PLY has: 64-bit integers become int where they fit, else double."""
    if values.dtype.kind in "iu" and values.dtype.itemsize == 8:
        fits = values.size == 0 or (values.min() >= -(2**31) and values.max() < 2**31)
        return values.astype(np.int32 if fits else np.float64)
    if values.dtype.kind == "f" and values.dtype.itemsize not in (4, 8):
        return values.astype(np.float32 if values.dtype.itemsize < 4 else np.float64)
    return values


def annotate(data: memoryview, segmentation: Segmentation, out: BinaryIO, options: Options) -> None:
    """Write the user's own file with `label` (int), and `confidence` (float), `instance` (int) if there are such.

    Every other byte of the file stays, but for the names of properties that ours would hide (see `renamed`).
    """
    header = parse_header(data)
    vertex = header.vertex
    answers = answer_columns(segmentation, vertex.count)
    changed = renamed(prop.name for prop in vertex.properties)
    lines = list(header.lines)
    for prop in vertex.properties:
        if prop.name in changed:
            stem = lines[prop.line].rstrip()
            lines[prop.line] = stem[: len(stem) - len(prop.name.encode("latin1"))] + changed[prop.name].encode("latin1")
    added = [f"property {'float' if values.dtype.kind == 'f' else 'int'} {name}" for name, values in answers.items()]
    lines[vertex.line + 1 : vertex.line + 1] = [line.encode("ascii") for line in added]
    lines[2:2] = [comment.encode("ascii") for comment in class_comments(segmentation)]
    out.write(header.newline.join(lines) + header.newline)
    if header.kind == "ascii":
        start, _ = _ascii_start(header, data)
        out.write(data[header.size : start])
        end = start + append_cells(data[start:], answers, vertex.count, out)
    else:
        runs, end = binary_runs(header, data)
        out.write(data[header.size : runs[0].offset if runs else end])
        done = 0
        for run in runs:
            for first in range(0, run.count, BLOCK):
                count = min(BLOCK, run.count - first)
                old = np.frombuffer(data, f"V{run.dtype.itemsize}", count, run.offset + first * run.dtype.itemsize)
                part = {name: values[done : done + count] for name, values in answers.items()}
                out.write(_beside(old, part, header.order).data.cast("B"))
                done += count
    out.write(data[end:])


def _beside(old: Column, answers: dict[str, Column], order: str) -> Column:
    """Return rows with the answers' bytes after the old ones."""
    fields = [(name, np.dtype(order + values.dtype.str[1:])) for name, values in answers.items()]
    table = np.empty(len(old), dtype=np.dtype([("old", old.dtype), *fields]))
    table["old"] = old
    for name, values in answers.items():
        table[name] = values
    return table


FORMAT = Format(
    name="ply",
    title="PLY, Polygon File Format",
    suffixes=(".ply",),
    media_types=("application/ply", "application/x-ply", "model/ply", "model/x-ply", "text/ply"),
    matches=matches,
    read=read,
    write=write,
    annotate=annotate,
)
