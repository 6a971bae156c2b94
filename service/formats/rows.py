"""Lines of numbers: the bodies of ASCII PLY and PCD files and of text files."""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Iterator, Mapping
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from service.errors import MalformedFile
from service.formats.stream import MemoryStream

_ODD_NUMBER = re.compile(r"^([-+]?)1\.#(IND|QNAN|SNAN|INF)\d*$", re.IGNORECASE)
_BLOCK = 1 << 16
COMMENTS = ("#", "//")
LONGEST_LINE = 1 << 20
"""Bytes; a line of 4096 numbers has a tenth of that. A file of one line would be split into a list as a whole."""


def lines_of(data: memoryview) -> io.BufferedReader:
    """Return a buffered stream of the bytes; iterate over it for lines that end with their newline."""
    return io.BufferedReader(MemoryStream(data), 1 << 20)


def check_lines(data: memoryview) -> None:
    """Refuse a file with a line longer than LONGEST_LINE; raises MalformedFile. Shorter than half of that is good."""
    half = LONGEST_LINE // 2
    for start in range(0, len(data) - half, half):
        # nearly always the first bytes hold a line's end
        if b"\n" not in bytes(data[start : start + 4096]) and b"\n" not in bytes(data[start : start + half]):
            raise MalformedFile(
                f"There is no line's end between byte {start} and {start + half} of the file's text; "
                f"a line may have {LONGEST_LINE} bytes."
            )


def parse_rows(
    data: memoryview, columns: int, *, rows: int | None = None, separator: str | None = None, first_line: int = 1
) -> NDArray[np.float64]:
    """Return the numbers of the lines of `data` as (M, columns) float64.

    Args:
        data: whole lines; blank ones are skipped.
        columns: how many numbers every line holds.
        rows: read this many lines and ignore what follows; None: all.
        separator: one character, or None for spaces and tabs. An empty cell between separators is NaN.
        first_line: number of the first line in the file, for the messages.
    Raises MalformedFile that names the line at fault.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            values = np.loadtxt(
                lines_of(data),
                dtype=np.float64,
                comments=None,
                delimiter=separator,
                ndmin=2,
                max_rows=rows,
                encoding="latin1",
            )
        if values.shape[1] == columns:
            return values
        if values.size == 0:
            return np.empty((0, columns), dtype=np.float64)
    except (ValueError, UnicodeError, OverflowError):
        pass
    return _parse_slowly(data, columns, rows, separator, first_line)


def _parse_slowly(
    data: memoryview, columns: int, rows: int | None, separator: str | None, first_line: int
) -> NDArray[np.float64]:
    """Parse line by line, for files with comments, empty cells or odd spellings of NaN, and to find the bad line."""
    parsed: list[NDArray[np.float64]] = []
    for number, line in _data_lines(data, first_line):
        if rows is not None and len(parsed) == rows:
            break
        cells = split_cells(line, separator)
        if len(cells) == columns + 1 and not cells[-1]:
            cells.pop()  # the separator at the line's end closes the last cell
        if len(cells) != columns:
            raise MalformedFile(f"Line {number} holds {len(cells)} values where {columns} are expected: {line[:80]!r}.")
        row = np.empty(columns, dtype=np.float64)
        for position, cell in enumerate(cells):
            value = to_number(cell)
            if value is None:
                raise MalformedFile(f"Value {position + 1} of line {number} is {cell[:40]!r}, which is not a number.")
            row[position] = value
        parsed.append(row)
    return np.stack(parsed) if parsed else np.empty((0, columns), dtype=np.float64)


def _data_lines(data: memoryview, first_line: int) -> Iterator[tuple[int, str]]:
    """Yield (line number, text) of the lines that hold more than a comment."""
    for number, raw in enumerate(lines_of(data), first_line):
        line = raw.decode("latin1").strip()
        if line and not line.startswith(COMMENTS):
            yield number, without_comment(line)


def split_cells(line: str, separator: str | None) -> list[str]:
    """Return the cells of a line; a separator at its very end is followed by an empty one."""
    return line.split() if separator is None else [cell.strip() for cell in line.split(separator)]


def without_comment(line: str) -> str:
    """Return a line of numbers without the comment at its end; `1.#IND` and the like are numbers."""
    return line.split("#")[0].rstrip() if "#" in line and ".#" not in line else line


def to_number(cell: str) -> float | None:
    """Return the number that a cell spells, NaN for an empty one, None for anything else."""
    if not cell:
        return float("nan")
    try:
        return float(cell) if "_" not in cell else None
    except ValueError:
        odd = _ODD_NUMBER.match(cell)
        if odd is None:
            return float("nan") if cell.lower() in ("null", "none", "na", "n/a") else None
        return float(odd[1] + "inf") if odd[2].upper() == "INF" else float("nan")


def append_cells(
    body: memoryview,
    answers: Mapping[str, NDArray[Any]],
    count: int,
    out: BinaryIO,
    separator: bytes = b" ",
    *,
    closed: bool = False,
) -> int:
    """Write `count` lines of `body` with the answers' values at their ends; return how many bytes of it they took.

    `closed` says that each line ends with a separator.
    """
    cells = _cells(answers, separator)
    done = taken = 0
    for line in lines_of(body):
        if done == count:
            break
        taken += len(line)
        whole = line.rstrip(b"\r\n")
        stem, mark, comment = (whole, b"", b"") if b".#" in whole else whole.partition(b"#")
        stem = stem.rstrip()
        if not stem or stem.lstrip().startswith(b"//"):
            out.write(line)
            continue
        between = b"" if closed and stem.endswith(separator) else separator
        # a file that ends without a newline gets one, as more may follow
        ending = line[len(whole) :] or b"\n"
        out.write(stem + between + next(cells) + (b" " + mark + comment if mark else b"") + ending)
        done += 1
    if done < count:
        raise MalformedFile(f"The file ends after {done} of {count} points: it is truncated.")
    return taken


def _cells(answers: Mapping[str, NDArray[Any]], separator: bytes) -> Iterator[bytes]:
    """Yield one point's answers as text after another."""
    form = separator.join(b"%.6g" if values.dtype.kind == "f" else b"%d" for values in answers.values())
    for start in range(0, len(answers["label"]), _BLOCK):
        columns = [values[start : start + _BLOCK].tolist() for values in answers.values()]
        yield from (form % values for values in zip(*columns, strict=True))
