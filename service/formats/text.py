"""Text files of numbers, one point a line: XYZ, TXT, PTS, CSV."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from service.errors import MalformedFile, MalformedRequest
from service.formats.attributes import (
    MEANT,
    Column,
    answer_columns,
    assemble,
    canonical,
    check_count,
    check_fields,
    renamed,
)
from service.formats.columns import guess_columns, name_columns
from service.formats.format import Format, Options
from service.formats.rows import (
    COMMENTS,
    append_cells,
    check_lines,
    lines_of,
    parse_rows,
    split_cells,
    to_number,
    without_comment,
)
from service.values import PointCloud, Segmentation

SEPARATORS = {"comma": ",", "semicolon": ";", "tab": "\t", "space": " ", ",": ",", ";": ";", "\t": "\t", " ": " "}
MOST_LINES_BEFORE = 1000
"""Comments and blank lines that may stand before the first point."""
MOST_SCANS = 1000
"""Scans that a PTS file may hold."""

_BOM = b"\xef\xbb\xbf"
_PTS = {
    3: ("x", "y", "z"),
    4: ("x", "y", "z", "intensity"),
    6: ("x", "y", "z", "red", "green", "blue"),
    7: ("x", "y", "z", "intensity", "red", "green", "blue"),
}


@dataclass(frozen=True)
class Opening:
    """What stands before the points of a text file.

    Attributes:
        start: offset of the first point's line, and `line` its number.
        names: the columns' names in the file, or None; `names_line` is the number of the line that has them.
        count: the number of points that the first line of a PTS file gives, or None.
        separator: the character between values, None for spaces and tabs.
        width: values of the first point.
        closed: whether a separator stands behind the last value.
    """

    start: int
    line: int
    names: tuple[str, ...] | None
    names_line: int | None
    count: int | None
    separator: str | None
    width: int
    closed: bool


def matches(head: bytes) -> bool:
    """Whether the bytes are printable text of which some early line begins with three numbers."""
    if b"\0" in head or any(byte < 9 for byte in head[:512]):
        return False
    lines = head.removeprefix(_BOM).split(b"\n")
    for raw in (lines[:-1] or lines)[:40]:
        text = raw.decode("latin1").strip()
        cells = split_cells(text, _separator_of(text, None))
        if len(cells) >= 3 and all(cell and to_number(cell) is not None for cell in cells[:3]):
            return True
    return False


def _separator_of(line: str, separator: str | None) -> str | None:
    """Return the separator of a line: the one given, else a semicolon or comma if there is one, else white space."""
    if separator is not None:
        key = separator if separator in SEPARATORS else separator.strip().lower()
        if key not in SEPARATORS:
            raise MalformedRequest(
                f"The separator {separator[:20]!r} is not known; say comma, semicolon, tab or space."
            )
        return None if SEPARATORS[key] == " " else SEPARATORS[key]
    return next((mark for mark in ";," if mark in line), None)


def _numbered(data: memoryview, skip: int) -> Iterator[tuple[int, int, str]]:
    """Yield (line number, offset, text) of the lines behind the first `skip`."""
    offset = 0
    for number, raw in enumerate(lines_of(data), 1):
        if number > skip:
            yield number, offset, (raw.removeprefix(_BOM) if number == 1 else raw).decode("latin1").strip()
        offset += len(raw)


def find_points(data: memoryview, options: Options) -> Opening:
    """Return where the points begin and what was said of them before; raises MalformedFile, MalformedRequest."""
    if bytes(data[:2]) in (b"\xff\xfe", b"\xfe\xff"):
        raise MalformedFile("The text file is in UTF-16; save it as UTF-8 or ASCII.")
    if b"\0" in bytes(data[:4096]):
        raise MalformedFile("The file is no text: its first bytes hold zeros.")
    names: tuple[str, ...] | None = None
    names_line = count = None
    skip = options.skip_rows or 0
    for number, offset, text in _numbered(data, skip):
        if number - skip > MOST_LINES_BEFORE:
            break
        if not text:
            continue
        body = text.lstrip("/#").strip() if text.startswith(COMMENTS) else without_comment(text)
        separator = _separator_of(body, options.separator)
        cells = [cell.strip("\"'") for cell in split_cells(body, separator)]
        if text.startswith(COMMENTS):
            if {"x", "y", "z"} <= {canonical(cell) for cell in cells}:
                names, names_line = tuple(cells), number
            continue
        if len(cells) == 1 and cells[0].isdecimal() and count is None and names is None:
            count = int(cells[0][:20])
            continue
        wrong = next((cell for cell in cells if to_number(cell) is None), None)
        if wrong is None:
            start = offset if number > 1 else len(_BOM) * bytes(data[:3]).startswith(_BOM)
            closed = not cells[-1] and len(cells) not in (len(names or ()), len(options.columns or ()))
            return Opening(start, number, names, names_line, count, separator, len(cells) - closed, closed)
        if names is not None or count is not None or not (options.columns or _are_names(cells)):
            hint = " Decimals take a point, not a comma." if separator == ";" and "," in wrong else ""
            raise MalformedFile(
                f"Line {number} is neither numbers nor names of columns: {wrong[:40]!r} is not a number.{hint}"
            )
        names, names_line = tuple(cells), number
    check_count(0, options)
    raise MalformedFile("The file holds no line of numbers.")


def _are_names(cells: list[str]) -> bool:
    """Whether some of the cells are names of columns that are known, and none is a number."""
    return any(canonical(cell) in MEANT for cell in cells) and all(
        not cell or to_number(cell) is None for cell in cells
    )


def read(data: memoryview, options: Options) -> PointCloud:
    """Return the cloud of a text file.

    The columns' names are those of `options.columns`, else of the file's header line (plain or as a comment), else by
    the customs of PTS where the first line is a number of points, else guessed, which is noted. Raises MalformedFile
    that names the line at fault, MalformedRequest, TooLarge, UnusableCloud.
    """
    check_lines(data)
    opening = find_points(data, options)
    check_fields(opening.width, f"Line {opening.line} gives a point")
    body = data[opening.start :]
    if opening.count is not None:
        if opening.count * opening.width * 2 - 1 > len(body):
            raise MalformedFile(
                f"Line {opening.line - 1} promises {opening.count} points, but only {len(body)} bytes follow: "
                "the file is truncated."
            )
        check_count(opening.count, options)
    if len(body) > 2 * opening.width * options.max_points:
        check_count(_count_lines(body) - MOST_LINES_BEFORE, options)
    notes: list[str] = []
    if opening.count is not None:
        values = _read_blocks(body, opening, options)
    else:
        values = parse_rows(body, opening.width, separator=opening.separator, first_line=opening.line)
    check_count(len(values), options)
    if options.columns is not None:
        columns = name_columns(values, options.columns)
    elif opening.names is not None:
        if len(opening.names) != opening.width:
            raise MalformedFile(
                f"Line {opening.names_line} names {len(opening.names)} columns, "
                f"but line {opening.line} holds {opening.width} values."
            )
        columns = name_columns(values, opening.names)
    elif opening.count is not None and opening.width in _PTS:
        columns = name_columns(values, _PTS[opening.width])
    else:
        columns = guess_columns(values, None, notes)
    return assemble({name: _whole(name, column) for name, column in columns.items()}, notes=notes)


def _whole(name: str, column: Column) -> Column:
    """Return labels and the like as integers; the file does not say what type its numbers are."""
    if canonical(name) in ("label", "classification", "class", "original_label", "ring"):
        finite = bool(np.isfinite(column).all()) and bool((column == np.rint(column)).all())
        if finite and bool((np.abs(column) < 2**31).all()):
            return column.astype(np.int32)
    return column


def _count_lines(body: memoryview) -> int:
    """Return how many lines end in `body`."""
    total = 0
    for start in range(0, len(body), 1 << 24):
        total += int(np.count_nonzero(np.frombuffer(body[start : start + (1 << 24)], np.uint8) == 10))
    return total


def _read_blocks(body: memoryview, opening: Opening, options: Options) -> NDArray[np.float64]:
    """Return the points of a PTS file, whose scans each begin with a line that says how many points follow."""
    blocks: list[NDArray[np.float64]] = []
    count, line = opening.count or 0, opening.line
    total = 0
    while True:
        total += count
        check_count(total, options)
        values = parse_rows(body, opening.width, rows=count, separator=opening.separator, first_line=line)
        if len(values) < count:
            raise MalformedFile(
                f"Line {line - 1} promises {count} points, but the file ends after {len(values)}: it is truncated."
            )
        blocks.append(values)
        if len(blocks) > MOST_SCANS:
            raise MalformedFile(f"The file holds more than {MOST_SCANS} scans, which is the most that are read.")
        body, line = _behind_rows(body, count, line)
        following = bytes(body[:64]).split(b"\n")[0].strip()
        if not following:
            return np.concatenate(blocks) if len(blocks) > 1 else blocks[0]
        if not following.isdigit():
            raise MalformedFile(
                f"Line {line} should be the number of points of a further scan, as {count} points were promised "
                f"and read; it is {following[:40]!r}."
            )
        count, line = int(following[:20]), line + 1
        body = body[bytes(body[:64]).index(b"\n") + 1 :] if b"\n" in bytes(body[:64]) else body[:0]


def _behind_rows(body: memoryview, rows: int, line: int) -> tuple[memoryview, int]:
    """Return what follows `rows` lines of numbers, blank lines left out, and the number of its first line."""
    taken = 0
    for raw in lines_of(body):
        stripped = raw.strip()
        if stripped and not stripped.startswith(b"#"):
            if rows == 0:
                break
            rows -= 1
        taken, line = taken + len(raw), line + 1
    return body[taken:], line


def annotate(data: memoryview, segmentation: Segmentation, out: BinaryIO, options: Options) -> None:
    """Write the user's file with `label` and, if there is one, `confidence` as further values of each line.

    A header line gets their names (and an old `label` another name); everything else stays as it is.
    """
    opening = find_points(data, options)
    separator = (
        opening.separator or ("\t" if b"\t" in bytes(data[opening.start : opening.start + 256]) else " ")
    ).encode()
    label = segmentation.label
    answers = answer_columns(segmentation, len(label))
    for number, raw in enumerate(lines_of(data[: opening.start]), 1):
        if number != opening.names_line or opening.names is None:
            out.write(raw)
            continue
        line = raw.decode("latin1")
        text = line.rstrip("\r\n")
        for old, new in renamed(opening.names).items():
            head, _, tail = text.rpartition(old)
            text = head + new + tail
        out.write((text + "".join(separator.decode() + name for name in answers)).encode("latin1"))
        out.write(line[len(line.rstrip("\r\n")) :].encode("latin1"))
    body = data[opening.start :]
    if opening.count is None:
        taken = append_cells(body, answers, len(label), out, separator, closed=opening.closed)
        out.write(body[taken:])
        return
    done, count = 0, opening.count
    while True:
        part = {name: values[done : done + count] for name, values in answers.items()}
        body = body[append_cells(body, part, count, out, separator, closed=opening.closed) :]
        done += count
        if done >= len(label) or not len(body):
            out.write(body)
            return
        header = next(iter(lines_of(body)))
        out.write(header)
        body, count = body[len(header) :], int(header.strip() or 0)


FORMAT = Format(
    name="text",
    title="text (XYZ, TXT, PTS, CSV)",
    suffixes=(".xyz", ".txt", ".pts", ".csv", ".asc", ".xyzn", ".xyzrgb", ".tsv"),
    media_types=("text/csv", "text/plain", "text/tab-separated-values", "text/xyz", "application/csv"),
    matches=matches,
    read=read,
    annotate=annotate,
)
