"""PCD of the Point Cloud Library: ascii, binary and binary_compressed.

pypcd4 was tried for this and not used: it allocates what a header claims before it looks at the file, splits fields
of several values into fields of one, gives padding fields random names, and takes only single spaces in ASCII files.
Its LZF codec is used. Source: https://pointclouds.org/documentation/tutorials/pcd_file_format.html
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import BinaryIO

import numpy as np

from service.errors import MalformedFile
from service.formats.attributes import (
    Column,
    answer_columns,
    assemble,
    canonical,
    check_count,
    check_unpacked,
    coord_columns,
    renamed,
    scalar_attributes,
    unique_names,
)
from service.formats.format import Format, Options
from service.formats.pcd_layout import Header, matches, parse_header
from service.formats.rows import append_cells, check_lines, parse_rows
from service.values import PointCloud, Segmentation

BLOCK = 1 << 18


def read(data: memoryview, options: Options) -> PointCloud:
    """Return the cloud of a PCD file; an image-shaped one keeps its height and width.

    Raises MalformedFile, TooLarge, UnusableCloud.
    """
    header = parse_header(data)
    if header.points == 0:
        check_count(0, options)
    notes: list[str] = []
    if header.kind == "ascii":
        fields = _read_ascii(header, data, options)
    elif header.kind == "binary":
        _check_body(header, header.row_size * header.points, len(data) - header.size)
        check_count(header.points, options)
        table = np.frombuffer(data, header.table_type(), header.points, header.size)
        fields = [table[str(i)] for i in range(len(header.fields))]
    else:
        fields = _split_planes(header, _decompress(header, data, options))
    kept = [(name, values) for name, values in zip(header.fields, fields, strict=True) if name != "_"]  # "_": padding
    names = unique_names(name for name, _ in kept)
    columns: dict[str, Column] = {
        name: values[:, 0] if values.shape[1] == 1 else values for name, (_, values) in zip(names, kept, strict=True)
    }
    packed = [
        canonical(name)
        for name, kind in zip(header.fields, header.types, strict=True)
        if canonical(name) in ("rgb", "rgba") and kind[1] == "4"
    ]
    organized = (header.height, header.width) if header.height > 1 else None
    return assemble(columns, organized=organized, notes=notes, packed=packed)


def _check_body(header: Header, need: int, have: int) -> None:
    """Raise MalformedFile where the body is shorter than the header promises."""
    if need > have:
        raise MalformedFile(
            f"The PCD header promises {header.points} points of {header.row_size} bytes ({need} bytes), "
            f"but only {have} bytes follow: the file is truncated."
        )


def _read_ascii(header: Header, data: memoryview, options: Options) -> list[Column]:
    """Return each field's values (N, count) of an ASCII file."""
    total = sum(header.counts)
    _check_body(header, header.points * total * 2 - 1, len(data) - header.size)
    check_count(header.points, options)
    body = data[header.size :]
    check_lines(body)
    separator = _separator(body)
    values = parse_rows(body, total, rows=header.points, separator=separator, first_line=len(header.lines) + 1)
    if len(values) < header.points:
        raise MalformedFile(
            f"The PCD header promises {header.points} points, but the file ends after {len(values)}: it is truncated."
        )
    fields: list[Column] = []
    first = 0
    for name, kind, count in zip(header.fields, header.types, header.counts, strict=True):
        part = values[:, first : first + count]
        first += count
        whole = kind[0] == "f" or bool(np.isfinite(part).all() and np.abs(part).max(initial=0) < 2**63)
        if not whole or name.lower() in ("x", "y", "z"):
            # NaN among integers: some writers mark invalid points so; positions keep the digits that the text has
            fields.append(part)
        elif kind == "u8" or kind[0] == "f":
            fields.append(part.astype(kind))
        else:
            fields.append(part.astype(np.int64).astype(kind))
    return fields


def _separator(body: memoryview) -> str | None:
    """Return "," where the first line uses commas, which PCL never writes but others do."""
    return "," if b"," in bytes(body[:4096]).split(b"\n")[0] else None


def _decompress(header: Header, data: memoryview, options: Options) -> bytes:
    """Return the planes of a binary_compressed file: all of the first field, all of the second, ..."""
    import lzf

    body = data[header.size :]
    _check_body(header, 8, len(body))
    packed_size, size = (int(value) for value in np.frombuffer(body, "<u4", 2))
    need = header.row_size * header.points
    if size != need:
        raise MalformedFile(
            f"The PCD file's compressed body claims to hold {size} bytes, but {header.points} points of "
            f"{header.row_size} bytes are {need}."
        )
    if packed_size > len(body) - 8:
        raise MalformedFile(
            f"The PCD file's compressed body claims {packed_size} bytes, but {len(body) - 8} follow: it is truncated."
        )
    check_count(header.points, options)
    check_unpacked(need, options)
    # one LZF back reference stands for at most 264 bytes and takes 3
    if need > packed_size * 264:
        raise MalformedFile(f"{packed_size} bytes of LZF cannot hold the {need} bytes that the PCD header promises.")
    try:
        planes: bytes | None = lzf.decompress(bytes(body[8 : 8 + packed_size]), need)
    except ValueError as error:
        raise MalformedFile(f"The PCD file's compressed body does not decompress: {error}.") from error
    if planes is None or len(planes) != need:
        raise MalformedFile(f"The PCD file's compressed body does not hold the {need} bytes that its header promises.")
    return planes


def _split_planes(header: Header, planes: bytes) -> list[Column]:
    """Return each field's values (N, count) out of decompressed planes."""
    fields: list[Column] = []
    offset = 0
    for kind, count in zip(header.types, header.counts, strict=True):
        values = np.frombuffer(planes, "<" + kind, header.points * count, offset).reshape(header.points, count)
        fields.append(values)
        offset += values.nbytes
    return fields


def write(cloud: PointCloud, segmentation: Segmentation, out: BinaryIO) -> None:
    """Write the cloud and its labels as a binary PCD file; an organised cloud keeps its width and height.

    Fields: x, y, z (4 bytes where that is exact, else 8); rgb packed into a float as PCL has it; normal_x, normal_y,
    normal_z; intensity; the further attributes; label (I 4, as -1 marks ignored points); confidence; instance (I 4).
    """
    columns = coord_columns(cloud)
    if cloud.color is not None:
        color = cloud.color.astype(np.uint32)
        columns["rgb"] = (color[:, 0] << 16 | color[:, 1] << 8 | color[:, 2]).view(np.float32)
    if cloud.normal is not None:
        columns |= {name: cloud.normal[:, axis] for axis, name in enumerate(("normal_x", "normal_y", "normal_z"))}
    if cloud.intensity is not None:
        columns["intensity"] = cloud.intensity
    columns |= scalar_attributes(cloud)
    columns |= answer_columns(segmentation, len(cloud))
    columns = {
        name: values.astype(np.float32) if values.dtype == np.float16 else values for name, values in columns.items()
    }
    height, width = cloud.organized or (1, len(cloud))
    types = [values.dtype for values in columns.values()]
    lines = [
        "# .PCD v0.7 - Point Cloud Data file format",
        *class_comments(segmentation),
        "VERSION 0.7",
        "FIELDS " + " ".join(_ascii(name) for name in columns),
        "SIZE " + " ".join(str(kind.itemsize) for kind in types),
        "TYPE " + " ".join(kind.kind.upper() for kind in types),
        "COUNT " + " ".join("1" for _ in types),
        f"WIDTH {width}",
        f"HEIGHT {height}",
        "VIEWPOINT 0 0 0 1 0 0 0",
        f"POINTS {len(cloud)}",
        "DATA binary",
    ]
    out.write(("\n".join(lines) + "\n").encode("ascii"))
    dtype = np.dtype([(str(i), kind.newbyteorder("<")) for i, kind in enumerate(types)])
    for start in range(0, len(cloud), BLOCK):
        table = np.empty(min(BLOCK, len(cloud) - start), dtype=dtype)
        for i, values in enumerate(columns.values()):
            table[str(i)] = values[start : start + BLOCK]
        out.write(table.data.cast("B"))


def class_comments(segmentation: Segmentation) -> list[str]:
    """Return the header's comment lines: the model, and each class with its id, colour and name."""
    lines = [f"# labels by PointServe, model {_ascii(segmentation.model)}"]
    for info in segmentation.classes:
        red, green, blue = info.color
        lines.append(f"# class {info.id} {red} {green} {blue} {_ascii(info.name)}")
    return lines


def _ascii(text: str) -> str:
    """Return the text as one word of ASCII."""
    return "".join(c if " " < c < "\x7f" else "_" for c in text)


def annotate(data: memoryview, segmentation: Segmentation, out: BinaryIO, options: Options) -> None:
    """Write the user's own file with `label` (I 4) and, if there are such, `confidence` (F 4), `instance` (I 4) added.

    Kind of data, width, height, viewpoint, comments, paddings and every other field stay as they are, but for the
    names of fields that ours would hide (see `renamed`).
    """
    header = parse_header(data)
    answers = answer_columns(segmentation, header.points)
    if header.kind == "binary_compressed" and (header.row_size + 4 * len(answers)) * header.points >= 2**32:
        raise MalformedFile("With labels the cloud passes the 4 GB that a binary_compressed PCD file can hold.")
    out.write(header.newline.join(_annotated_lines(header, segmentation, list(answers))) + header.newline)
    body = data[header.size :]
    if header.kind == "ascii":
        separator = b"," if _separator(body) else b" "
        taken = append_cells(body, answers, header.points, out, separator)
        out.write(body[taken:])
    elif header.kind == "binary":
        _check_body(header, header.row_size * header.points, len(body))
        fields = [(name, values.dtype.newbyteorder("<")) for name, values in answers.items()]
        dtype = np.dtype([("old", f"V{header.row_size}"), *fields])
        for start in range(0, header.points, BLOCK):
            table = np.empty(min(BLOCK, header.points - start), dtype=dtype)
            table["old"] = np.frombuffer(body, f"V{header.row_size}", len(table), start * header.row_size)
            for name, values in answers.items():
                table[name] = values[start : start + BLOCK]
            out.write(table.data.cast("B"))
    else:
        planes = _decompress(header, data, options)
        planes += b"".join(values.astype(values.dtype.newbyteorder("<")).tobytes() for values in answers.values())
        out.write(_compress(planes))


def _annotated_lines(header: Header, segmentation: Segmentation, answers: Sequence[str]) -> list[bytes]:
    """Return the header's lines with fields of these names added."""
    changed = renamed(header.fields)
    further = {
        "FIELDS": [*answers],
        "SIZE": ["4"] * len(answers),
        "TYPE": ["F" if name == "confidence" else "I" for name in answers],
        "COUNT": ["1"] * len(answers),
    }
    keys = {line.decode("latin1").split()[0] for line in header.lines if line.strip()}
    lines: list[bytes] = []
    for line in header.lines:
        words = line.decode("latin1").split()
        key = words[0] if words else ""
        if key == "VERSION" or (key in ("FIELDS", "COLUMNS") and "VERSION" not in keys):
            lines += [comment.encode("ascii") for comment in class_comments(segmentation)]
        if key in ("FIELDS", "COLUMNS"):
            words = [key, *(changed.get(name, name) for name in words[1:]), *further["FIELDS"]]
        elif key in further:
            words += further[key]
        lines.append(" ".join(words).encode("latin1") if key in further or key == "COLUMNS" else line)
        if key in ("FIELDS", "COLUMNS"):
            # a header may leave these out; with ours beside they must be there
            if "SIZE" not in keys:
                lines.append(" ".join(["SIZE", *["4"] * len(header.fields), *further["SIZE"]]).encode())
            if "TYPE" not in keys:
                lines.append(" ".join(["TYPE", *["F"] * len(header.fields), *further["TYPE"]]).encode())
    return lines


def _compress(planes: bytes) -> bytes:
    """Return planes as the body of a binary_compressed file."""
    import lzf

    packed: bytes | None = lzf.compress(planes, len(planes) + len(planes) // 16 + 64)
    if packed is None:
        raise MalformedFile("The labelled cloud does not compress.")
    return np.array([len(packed), len(planes)], dtype="<u4").tobytes() + packed


FORMAT = Format(
    name="pcd",
    title="PCD, Point Cloud Library",
    suffixes=(".pcd",),
    media_types=("application/pcd", "application/x-pcd", "application/vnd.pcl.pcd"),
    matches=matches,
    read=read,
    write=write,
    annotate=annotate,
)
