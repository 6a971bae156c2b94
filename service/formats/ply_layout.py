"""Where things are in a PLY file: its header, and the rows of its elements.

Source: Greg Turk's "The PLY Polygon File Format" (1994), and what CloudCompare, MeshLab, Blender and PCL write.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from service.errors import MalformedFile, UnusableCloud
from service.formats.attributes import check_fields

_WORDS = {
    "i1": "char int8",
    "u1": "uchar uint8 bool",
    "i2": "short int16",
    "u2": "ushort uint16",
    "i4": "int int32",
    "u4": "uint uint32",
    "i8": "long int64",
    "u8": "ulong uint64",
    "f2": "half float16",
    "f4": "float float32",
    "f8": "double float64",
}
TYPES = {word: kind for kind, words in _WORDS.items() for word in words.split()}
ORDERS = {"ascii": "=", "binary_little_endian": "<", "binary_big_endian": ">"}
LONGEST_HEADER = 1 << 20


@dataclass
class Property:
    """One property of an element; `count_type` is the type of a list's length, or None for a single number."""

    name: str
    type: str
    count_type: str | None
    line: int


@dataclass
class Element:
    """One element: `line` is the header line after which a further property belongs."""

    name: str
    count: int
    line: int
    properties: list[Property] = field(default_factory=list)

    @property
    def has_lists(self) -> bool:
        return any(prop.count_type is not None for prop in self.properties)

    @property
    def least_row(self) -> int:
        """Bytes that a row takes in a binary file if its lists are empty."""
        return sum(int((prop.count_type or prop.type)[1]) for prop in self.properties)


@dataclass
class Header:
    """A parsed header: its lines as they are (without their ends), its elements, and where the body begins."""

    kind: str
    elements: list[Element]
    lines: list[bytes]
    newline: bytes
    size: int

    @property
    def order(self) -> str:
        return ORDERS[self.kind]

    @property
    def vertex(self) -> Element:
        """The element of the points; raises UnusableCloud without one."""
        for element in self.elements:
            if element.name == "vertex":
                return element
        names = ", ".join(element.name for element in self.elements) or "none"
        raise UnusableCloud(f"The PLY file has no element 'vertex', so it holds no points; its elements are: {names}.")


@dataclass
class Run:
    """Rows of one element that lie one after another with the same layout: field `i` is property i, `i#` its length."""

    dtype: np.dtype[np.void]
    offset: int
    count: int

    def rows(self, data: memoryview) -> NDArray[np.void]:
        """Return the rows (count,), a view of the file."""
        return np.frombuffer(data, self.dtype, self.count, self.offset)


def parse_header(data: memoryview) -> Header:
    """Return the header of a PLY file; raises MalformedFile that names the line at fault."""
    head = bytes(data[:LONGEST_HEADER])
    if not head.startswith(b"ply"):
        raise MalformedFile(f"A PLY file begins with the word 'ply'; this one begins with {head[:8]!r}.")
    newline = b"\r" if b"\n" not in head[:512] and b"\r" in head[:512] else b"\n"
    lines: list[bytes] = []
    position = 0
    while True:
        end = head.find(newline, position)
        line = head[position : end if end >= 0 else len(head)]
        if line.rstrip() == b"end_header":
            size = len(data) if end < 0 else end + 1
            lines.append(line.rstrip(b"\r"))
            break
        if end < 0:
            raise MalformedFile("The PLY header has no line 'end_header'; the file is truncated or not a PLY file.")
        lines.append(line.rstrip(b"\r"))
        position = end + 1
    ending = b"\r\n" if newline == b"\n" and head[size - 2 : size] == b"\r\n" else newline
    kind, elements = _parse_lines(lines)
    return Header(kind, elements, lines, ending, size)


def _parse_lines(lines: list[bytes]) -> tuple[str, list[Element]]:
    """Return the body's kind and the elements that the header lines declare."""
    kind = ""
    elements: list[Element] = []
    for index, raw in enumerate(lines[1:-1], 1):
        words = raw.decode("latin1").split()
        where = f"Line {index + 1} of the PLY header"
        if not words or words[0] in ("comment", "obj_info"):
            continue
        if words[0] == "format":
            if len(words) < 2 or words[1] not in ORDERS:
                raise MalformedFile(f"{where} names the format {words[1:2]}; PLY knows {', '.join(ORDERS)}.")
            kind = words[1]
        elif words[0] == "element":
            if len(words) != 3 or not words[2].isdecimal():
                raise MalformedFile(f"{where} must be 'element NAME COUNT'; it is {raw[:80]!r}.")
            elements.append(Element(words[1], int(words[2][:20]), index))
        elif words[0] == "property":
            if not elements:
                raise MalformedFile(f"{where} declares a property before any element.")
            elements[-1].properties.append(_parse_property(words, index, where))
            check_fields(len(elements[-1].properties), f"The PLY header gives element '{elements[-1].name[:40]}'")
            elements[-1].line = index
        else:
            raise MalformedFile(f"{where} begins with {words[0][:40]!r}; expected element, property or comment.")
    if not kind:
        raise MalformedFile("The PLY header has no line 'format', which says whether the body is ASCII or binary.")
    return kind, elements


def _parse_property(words: list[str], index: int, where: str) -> Property:
    """Return the property that a header line declares."""
    is_list = words[1:2] == ["list"]
    types = words[2:4] if is_list else words[1:2]
    if len(words) != (5 if is_list else 3):
        raise MalformedFile(f"{where} must be 'property TYPE NAME' or 'property list TYPE TYPE NAME'.")
    for word in types:
        if word not in TYPES:
            raise MalformedFile(f"{where} uses the type {word[:40]!r}; PLY knows {', '.join(TYPES)}.")
    if is_list and TYPES[types[0]][0] == "f":
        raise MalformedFile(f"{where} gives a list a length of type {types[0]}; it must be an integer type.")
    return Property(words[-1], TYPES[types[-1]], TYPES[types[0]] if is_list else None, index)


def binary_runs(header: Header, data: memoryview) -> tuple[list[Run], int]:
    """Return the runs of the vertex element of a binary file, and the offset of what follows them."""
    offset = header.size
    vertex = header.vertex
    for element in header.elements:
        runs: list[Run] = []
        for run in _runs_of(element, data, offset, header.order):
            offset = run.offset + run.count * run.dtype.itemsize
            if element is vertex:
                runs.append(run)
        if element is vertex:
            return runs, offset
    raise AssertionError("header.vertex is one of header.elements")


def _runs_of(element: Element, data: memoryview, offset: int, order: str) -> Iterator[Run]:
    """Yield an element's rows as runs; without lists it is one run."""
    if element.has_lists and element.count * element.least_row > len(data) - offset:
        raise MalformedFile(
            f"The PLY header promises {element.count} rows of at least {element.least_row} bytes in element "
            f"'{element.name[:40]}', but only {len(data) - offset} bytes follow: it is truncated."
        )
    done, block = 0, 64
    layouts: dict[tuple[int, ...], np.dtype[np.void]] = {}
    while done < element.count:
        lengths, row_size = _measure_row(element, data, offset, order)
        left = (len(data) - offset) // row_size if row_size else element.count
        if left == 0 or (not element.has_lists and left < element.count - done):
            raise MalformedFile(
                f"The PLY header promises {element.count} rows of {row_size} bytes in element '{element.name}', "
                f"but the file ends {'in row ' + str(done + left) if row_size else 'before'}: it is truncated."
            )
        if lengths not in layouts:
            layouts[lengths] = _layout(element, lengths, order)
        dtype = layouts[lengths]
        count = element.count - done
        if element.has_lists:
            count = min(count, left, block)
            same = np.ones(count, dtype=bool)
            rows = np.frombuffer(data, dtype, count, offset)
            for index, length in zip(_list_indices(element), lengths, strict=True):
                same &= rows[f"{index}#"] == length
            count = count if same.all() else max(1, int(np.argmin(same)))
            block = min(1 << 20, block * 2) if same.all() else 64
        yield Run(dtype, offset, count)
        done += count
        offset += count * row_size


def _list_indices(element: Element) -> list[int]:
    return [index for index, prop in enumerate(element.properties) if prop.count_type is not None]


def _measure_row(element: Element, data: memoryview, offset: int, order: str) -> tuple[tuple[int, ...], int]:
    """Return the lengths of the lists of the row at `offset`, and the row's size in bytes."""
    lengths: list[int] = []
    position = offset
    for prop in element.properties:
        size = int(prop.type[1])
        if prop.count_type is None:
            position += size
            continue
        width = int(prop.count_type[1])
        if position + width > len(data):
            raise MalformedFile(f"The file ends inside list '{prop.name}' of element '{element.name}'.")
        length = int(np.frombuffer(data, order + prop.count_type, 1, position)[0])
        if length < 0 or position + width + length * size > len(data):
            raise MalformedFile(
                f"List '{prop.name}' of element '{element.name}' at byte {position} claims {length} values, "
                "more than the file holds."
            )
        lengths.append(length)
        position += width + length * size
    return tuple(lengths), position - offset


def _layout(element: Element, lengths: tuple[int, ...], order: str) -> np.dtype[np.void]:
    """Return the structured type of rows whose lists have these lengths."""
    fields: list[tuple[str, str] | tuple[str, str, tuple[int]]] = []
    left = list(lengths)
    for index, prop in enumerate(element.properties):
        if prop.count_type is None:
            fields.append((str(index), order + prop.type))
        else:
            fields.append((f"{index}#", order + prop.count_type))
            fields.append((str(index), order + prop.type, (left.pop(0),)))
    return np.dtype(fields)
