"""The header of a PCD file. Source: https://pointclouds.org/documentation/tutorials/pcd_file_format.html"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from service.errors import MalformedFile
from service.formats.attributes import check_fields
from service.formats.rows import lines_of

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
    check_fields(len(fields), "The PCD header gives a point")
    sizes = _numbers(words, "SIZE", len(fields), default=4)
    counts = _numbers(words, "COUNT", len(fields), default=1)
    letters = words.get("TYPE", ["F"] * len(fields))
    if len(letters) != len(fields):
        raise MalformedFile(f"The PCD header has {len(fields)} FIELDS but {len(letters)} in TYPE.")
    for name, letter, width, count in zip(fields, letters, sizes, counts, strict=True):
        if letter not in _TYPES or width not in _SIZES[letter]:
            raise MalformedFile(f"PCD field '{name[:40]}' has TYPE {letter[:8]} and SIZE {width}, which is no type.")
        if not 1 <= count <= 1 << 16:
            raise MalformedFile(f"PCD field '{name[:40]}' has COUNT {count}; it must be 1 to 65536.")
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
