"""Where things are in a LAS or LAZ file, checked against the file's size before anything is allocated.

Source: ASPRS LAS specifications 1.0 to 1.4 R15; the LAZ record as in laszip's `laszipper`.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np

from service.errors import MalformedFile
from service.formats.attributes import check_fields

HEADER_SIZES = {0: 227, 1: 227, 2: 227, 3: 235, 4: 375}
POINT_SIZES = (20, 28, 26, 34, 57, 63, 30, 36, 38, 59, 67)
VLR_HEADER, EVLR_HEADER = 54, 60
EXTRA_BYTES_ID = (b"LASF_Spec", 4)
LASZIP_ID = (b"laszip encoded", 22204)
DESCRIPTOR_SIZE = 192
MOST_RECORDS = 1 << 16
_BASE_TYPES = ("u1", "i1", "u2", "i2", "u4", "i4", "u8", "i8", "f4", "f8")


@dataclass
class Record:
    """A variable length record: whose it is, where it begins, where its data begin, and how long they are."""

    user_id: bytes
    record_id: int
    start: int
    data_start: int
    length: int

    @property
    def id(self) -> tuple[bytes, int]:
        return self.user_id, self.record_id

    @property
    def end(self) -> int:
        return self.data_start + self.length


@dataclass
class ExtraDimension:
    """Extra bytes of each point: name, type and number of values, the scaling, and the descriptor's bytes, if any."""

    name: str
    type: str
    count: int
    scale: tuple[float, ...] | None
    offset: tuple[float, ...] | None
    descriptor: bytes

    @property
    def size(self) -> int:
        return int(self.type[1]) * self.count


@dataclass
class Layout:
    """A checked header: everything it says of the points lies within the file."""

    minor: int
    header_size: int
    points_start: int
    point_format: int
    compressed: bool
    point_size: int
    count: int
    scale: tuple[float, float, float]
    offset: tuple[float, float, float]
    vlrs: list[Record]
    vlrs_end: int
    evlrs: list[Record]
    waveforms: Record | None
    extra: list[ExtraDimension] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def most_codes(self) -> int:
        """The largest class code that `classification` holds."""
        return 31 if self.point_format < 6 else 255

    @property
    def is_copc(self) -> bool:
        return any(record.id == (b"copc", 1) for record in self.vlrs)


def is_las(head: bytes) -> bool:
    """Whether the bytes begin like a LAS or LAZ file."""
    return head[:4] == b"LASF"


def is_compressed(head: bytes) -> bool:
    """Whether the header's point format says that the points are compressed (LAZ)."""
    return is_las(head) and len(head) > 104 and bool(head[104] & 0xC0)


def parse_layout(data: memoryview) -> Layout:
    """Return where things are in the file; raises MalformedFile that names the header field at fault."""
    if len(data) < 227:
        raise MalformedFile(f"A LAS file begins with a header of at least 227 bytes; this file has {len(data)}.")
    head = bytes(data[:375])
    if not is_las(head):
        raise MalformedFile(f"A LAS file begins with 'LASF'; this one begins with {head[:4]!r}.")
    major, minor = head[24], head[25]
    if major != 1 or minor not in HEADER_SIZES:
        raise MalformedFile(f"The file says it is LAS {major}.{minor}; LAS 1.0 to 1.4 are read.")
    header_size, points_start, vlr_count, format_byte, point_size, count = struct.unpack_from("<HIIBHI", head, 94)
    if header_size < HEADER_SIZES[minor]:
        raise MalformedFile(
            f"The header size of LAS 1.{minor} is {HEADER_SIZES[minor]} bytes; this one says {header_size}."
        )
    if not header_size <= points_start <= len(data):
        raise MalformedFile(
            f"The header says the points begin at byte {points_start}; "
            f"the header ends at {header_size} and the file at {len(data)}."
        )
    compressed, point_format = bool(format_byte & 0xC0), format_byte & 0x3F
    if point_format >= len(POINT_SIZES):
        raise MalformedFile(f"Point format {point_format} is not known; LAS has 0 to 10.")
    if point_size < POINT_SIZES[point_format]:
        raise MalformedFile(
            f"A point of format {point_format} takes {POINT_SIZES[point_format]} bytes; the header says {point_size}."
        )
    numbers = struct.unpack_from("<6d", head, 131)
    if not np.isfinite(numbers).all() or 0 in numbers[:3]:
        raise MalformedFile(f"Scale and offset must be finite and the scale not 0; the header says {numbers}.")
    evlr_start = evlr_count = waveform_start = 0
    if minor >= 3:
        (waveform_start,) = struct.unpack_from("<Q", head, 227)
    if minor >= 4:
        evlr_start, evlr_count, long_count = struct.unpack_from("<QIQ", head, 235)
        count = long_count or count
    if not compressed and count * point_size > len(data) - points_start:
        raise MalformedFile(
            f"The LAS header promises {count} points of {point_size} bytes ({count * point_size} bytes), "
            f"but only {len(data) - points_start} bytes follow: the file is truncated."
        )
    vlrs = list(_vlrs(data, header_size, points_start, vlr_count))
    layout = Layout(
        minor=minor,
        header_size=header_size,
        points_start=points_start,
        point_format=point_format,
        compressed=compressed,
        point_size=point_size,
        count=count,
        scale=(numbers[0], numbers[1], numbers[2]),
        offset=(numbers[3], numbers[4], numbers[5]),
        vlrs=vlrs,
        vlrs_end=vlrs[-1].end if vlrs else header_size,
        evlrs=[],
        waveforms=None,
    )
    _add_trailing_records(layout, data, evlr_start, evlr_count, waveform_start)
    _add_extra_dimensions(layout, data)
    return layout


def _vlrs(data: memoryview, start: int, end: int, count: int) -> Iterator[Record]:
    """Yield the records between the header and the points."""
    if count > MOST_RECORDS:
        raise MalformedFile(f"The header promises {count} variable length records; at most {MOST_RECORDS} are read.")
    for index in range(count):
        if start + VLR_HEADER > end:
            raise MalformedFile(f"The header promises {count} variable length records; there is room for {index}.")
        user_id = bytes(data[start + 2 : start + 18]).split(b"\0")[0]
        record_id, length = struct.unpack_from("<HH", data, start + 18)
        record = Record(user_id, record_id, start, start + VLR_HEADER, length)
        if record.end > end:
            raise MalformedFile(
                f"Variable length record {index + 1} of {count} at byte {start} claims {length} bytes, "
                f"more than there are before the points at byte {end}."
            )
        yield record
        start = record.end


def _long_record(data: memoryview, start: int, lowest: int) -> Record | None:
    """Return the extended record at `start`, or None where there is none."""
    if not lowest <= start <= len(data) - EVLR_HEADER:
        return None
    user_id = bytes(data[start + 2 : start + 18]).split(b"\0")[0]
    record_id, length = struct.unpack_from("<HQ", data, start + 18)
    record = Record(user_id, record_id, start, start + EVLR_HEADER, length)
    return record if record.end <= len(data) else None


def _add_trailing_records(layout: Layout, data: memoryview, start: int, count: int, waveform_start: int) -> None:
    """Find the records after the points; damaged ones do not keep the points from being read."""
    lowest = layout.points_start + (0 if layout.compressed else layout.count * layout.point_size)
    for index in range(count):
        record = _long_record(data, start, lowest) if index < MOST_RECORDS else None
        if record is None:
            layout.notes.append(
                f"Extended record {index + 1} of {count} does not lie within the file; it was left out."
            )
            break
        layout.evlrs.append(record)
        start = record.end
    if waveform_start and all(record.start != waveform_start for record in layout.evlrs):
        layout.waveforms = _long_record(data, waveform_start, lowest)
        if layout.waveforms is None:
            layout.notes.append(f"The waveforms at byte {waveform_start} do not lie within the file.")


def _add_extra_dimensions(layout: Layout, data: memoryview) -> None:
    """Fill in what the extra bytes of each point mean."""
    left = layout.point_size - POINT_SIZES[layout.point_format]
    for record in layout.vlrs:
        if record.id != EXTRA_BYTES_ID:
            continue
        for start in range(record.data_start, record.end - DESCRIPTOR_SIZE + 1, DESCRIPTOR_SIZE):
            dimension = parse_descriptor(bytes(data[start : start + DESCRIPTOR_SIZE]))
            if dimension is None or not 0 < dimension.size <= left:
                if left:
                    layout.notes.append("The extra bytes are not as their descriptions say; some were left raw.")
                break
            left -= dimension.size
            layout.extra.append(dimension)
            check_fields(len(layout.extra), "The LAS file describes in the extra bytes of a point")
    if left:
        layout.extra.append(ExtraDimension("ExtraBytes", "u1", left, None, None, b""))


def parse_descriptor(raw: bytes) -> ExtraDimension | None:
    """Return what a descriptor of 192 bytes says, or None for a type that LAS does not have."""
    kind, options = raw[2], raw[3]
    name = raw[4:36].split(b"\0")[0].decode("utf-8", "replace").strip() or "ExtraBytes"
    if kind == 0:
        return ExtraDimension(name, "u1", options, None, None, raw)
    if kind > 30:
        return None
    count = (kind - 1) // 10 + 1
    scale = struct.unpack_from(f"<{count}d", raw, 112) if options & 8 else None
    offset = struct.unpack_from(f"<{count}d", raw, 136) if options & 16 else None
    return ExtraDimension(name, _BASE_TYPES[(kind - 1) % 10], count, scale, offset, raw)


def descriptor(name: str, kind: str, description: str) -> bytes:
    """Return the 192 bytes that describe one extra number of each point; `kind` is "i4", "f4", "u1", ..."""
    return struct.pack(
        "<2xBB32s4x24x24x24x24x24x32s",
        _BASE_TYPES.index(kind) + 1,
        0,
        name.encode("ascii", "replace")[:32],
        description.encode("ascii", "replace")[:32],
    )


def raw_descriptor(name: str, size: int) -> bytes:
    """Return the 192 bytes that describe at most 255 extra bytes of no known meaning."""
    return struct.pack(
        "<2xBB32s4x24x24x24x24x24x32s", 0, size, name.encode("ascii", "replace")[:32], b"undescribed bytes"
    )
