"""PCD of the Point Cloud Library: ascii, binary and binary_compressed.

pypcd4 was tried for this and not used: it allocates what a header claims before it looks at the file, splits fields
of several values into fields of one, gives padding fields random names, and takes only single spaces in ASCII files.
Its LZF codec is used. Source: https://pointclouds.org/documentation/tutorials/pcd_file_format.html
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import BinaryIO

import numpy as np

from service.errors import MalformedFile
from service.formats.attributes import (
    Column,
    answer_columns,
    assemble,
    canonical,
    check_count,
    coord_columns,
    renamed,
    scalar_attributes,
)
from service.formats.format import Format, Options
from service.formats.rows import append_cells, lines_of, parse_rows
from service.values import PointCloud, Segmentation

BLOCK = 1 << 18
LONGEST_HEADER = 1 << 20
_KEYS = ("VERSION", "FIELDS", "COLUMNS", "SIZE", "TYPE", "COUNT", "WIDTH", "HEIGHT", "VIEWPOINT", "POINTS", "DATA")
_KINDS = ("ascii", "binary", "binary_compressed")
_TYPES = {"F": "f", "I": "i", "U": "u"}
_SIZES = {"F": (2, 4, 8), "I": (1, 2, 4, 8), "U": (1, 2, 4, 8)}


@dataclass
class Header:
    """A parsed header: its lines, the fields with their numpy types and counts, and where the body begins."""

    lines: list[bytes]
    newline: bytes
    size: int
    kind: str
    fields: tuple[str, ...]
    types: tuple[str, ...]
    counts: tuple[int, ...]
    points: int
    width: int
    height: int

    @property
    def row_size(self) -> int:
        """Bytes of one point."""
        return sum(int(kind[1]) * count for kind, count in zip(self.types, self.counts, strict=True))

    def table_type(self) -> np.dtype[np.void]:
        """Return the type of one point; field `i` is the i-th of the header."""
        pairs = zip(self.types, self.counts, strict=True)
        return np.dtype([(str(i), "<" + kind, (count,)) for i, (kind, count) in enumerate(pairs)])


def matches(head: bytes) -> bool:
    """Whether the bytes begin with a PCD header, after any comments."""
    for line in head.splitlines():
        words = line.split()
        if not words or words[0].startswith(b"#"):
            if words[:2] == [b"#", b".PCD"]:
                return True
            continue
        return words[0] in (b"VERSION", b"FIELDS", b"COLUMNS")
    return False


def parse_header(data: memoryview) -> Header:
    """Return the header of a PCD file; raises MalformedFile that names what is wrong with it."""
    lines: list[bytes] = []
    words: dict[str, list[str]] = {}
    size = 0
    for raw in lines_of(data[:LONGEST_HEADER]):
        size += len(raw)
        lines.append(raw.rstrip(b"\r\n"))
        line = raw.decode("latin1").split()
        if not line or line[0].startswith("#"):
            continue
        if line[0] not in _KEYS:
            raise MalformedFile(
                f"Line {len(lines)} of the PCD header begins with {line[0][:40]!r}; expected a keyword."
            )
        words["FIELDS" if line[0] == "COLUMNS" else line[0]] = line[1:]
        if line[0] == "DATA":
            break
    else:
        raise MalformedFile("The PCD header has no line 'DATA'; the file is truncated or not a PCD file.")
    newline = b"\r\n" if raw.endswith(b"\r\n") else b"\n"
    kind = (words["DATA"] or [""])[0].lower()
    if kind not in _KINDS:
        raise MalformedFile(f"PCD data of the kind {kind[:40]!r} is not known; PCD has {', '.join(_KINDS)}.")
    fields = tuple(words.get("FIELDS", []))
    if not fields:
        raise MalformedFile("The PCD header has no FIELDS.")
    sizes = _numbers(words, "SIZE", len(fields), default=4)
    counts = _numbers(words, "COUNT", len(fields), default=1)
    letters = words.get("TYPE", ["F"] * len(fields))
    if len(letters) != len(fields):
        raise MalformedFile(f"The PCD header has {len(fields)} FIELDS but {len(letters)} in TYPE.")
    for name, letter, width, count in zip(fields, letters, sizes, counts, strict=True):
        if letter not in _TYPES or width not in _SIZES[letter]:
            raise MalformedFile(f"PCD field '{name[:40]}' has TYPE {letter[:8]} and SIZE {width}, which is no type.")
        if not 1 <= count <= 1 << 16:
            raise MalformedFile(f"PCD field '{name[:40]}' has COUNT {count}; it must be at least 1.")
    types = tuple(f"{_TYPES[letter]}{width}" for letter, width in zip(letters, sizes, strict=True))
    points, width, height = _extent(words)
    return Header(lines, newline, size, kind, fields, types, tuple(counts), points, width, height)


def _numbers(words: dict[str, list[str]], key: str, length: int, default: int) -> list[int]:
    """Return the header's whole numbers of a key, one a field."""
    values = words.get(key, [str(default)] * length)
    if len(values) != length:
        raise MalformedFile(f"The PCD header has {length} FIELDS but {len(values)} in {key}.")
    return [_number(value, key) for value in values]


def _number(word: str, key: str) -> int:
    if not word.isdecimal() or len(word) > 19:
        raise MalformedFile(f"{key} in the PCD header must be a whole number; it is {word[:40]!r}.")
    return int(word)


def _extent(words: dict[str, list[str]]) -> tuple[int, int, int]:
    """Return POINTS, WIDTH and HEIGHT, which must agree where all are given."""
    given = {key: _number(words[key][0], key) for key in ("POINTS", "WIDTH", "HEIGHT") if words.get(key)}
    if "POINTS" not in given and "WIDTH" not in given:
        raise MalformedFile("The PCD header has neither POINTS nor WIDTH.")
    height = given.get("HEIGHT", 1)
    points = given.get("POINTS", given.get("WIDTH", 0) * height)
    width = given.get("WIDTH", points // height if height else 0)
    if width * height != points:
        raise MalformedFile(f"The PCD header says WIDTH {width} x HEIGHT {height} but POINTS {points}.")
    return points, width, height


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
    columns: dict[str, Column] = {}
    for name, values in zip(header.fields, fields, strict=True):
        if name == "_":
            continue  # padding
        new, number = name, 2
        while new in columns:
            new, number = f"{name}_{number}", number + 1
        columns[new] = values[:, 0] if values.shape[1] == 1 else values
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
    normal_z; intensity; the further attributes; label (I 4, as -1 marks ignored points); confidence.
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
    """Write the user's own file with the fields `label` (I 4) and, if there is one, `confidence` (F 4) added.

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
        "TYPE": ["I" if name == "label" else "F" for name in answers],
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
