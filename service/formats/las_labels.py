"""Labels put into the user's own LAS or LAZ file: the points get further bytes, everything else stays as it is.

The file is rewritten record by record rather than through laspy, which reads what it keeps into its own terms and
writes those: records it knows are rebuilt, LAS 1.0 cannot be written, and waveforms lose their place.

Convention: where every class id fits the point format (0-31 in formats 0-5, 0-255 in 6-10) it becomes the point's
`classification`, and the old one is kept in the extra dimension `original_label`; else the ids go into the extra
dimension `label` (int32). A point that no model looked at (label -1) gets classification 0 and the flag `withheld`.
"""

from __future__ import annotations

import json
import struct
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from service.errors import MalformedFile, UnusableCloud
from service.formats.attributes import Column, answer_columns, renamed
from service.formats.las_layout import (
    DESCRIPTOR_SIZE,
    EXTRA_BYTES_ID,
    LASZIP_ID,
    Layout,
    Record,
    descriptor,
    parse_layout,
    raw_descriptor,
)
from service.formats.las_points import MANY_CHANNELS, has_many_channels, read_blocks
from service.values import IGNORED, Segmentation

CLASSES_ID = (b"PointServe", 1)
"""The record in which the classes are named: JSON, as `classes` in the answer of /v1/segment."""

_LONGEST_RECORD = 65535
_LEGACY_CLASS_BYTE, _CLASS_BYTE, _FLAGS_BYTE = 15, 16, 15
_LEGACY_WITHHELD, _WITHHELD = 0x80, 0x04


def fits_classification(label: NDArray[np.int32], most: int) -> bool:
    """Whether every class id can be a LAS classification code; ignored points (-1) are flagged instead."""
    return bool(label.min(initial=0) >= IGNORED and label.max(initial=0) <= most)


def classes_json(segmentation: Segmentation) -> bytes:
    """Return the model and the classes as JSON, or nothing where they are too many for one record."""
    classes = [{"id": info.id, "name": info.name, "color": list(info.color)} for info in segmentation.classes]
    text = json.dumps({"model": segmentation.model, "classes": classes}, separators=(",", ":")).encode()
    return text if len(text) <= _LONGEST_RECORD else b""


def annotate(data: memoryview, segmentation: Segmentation, out: BinaryIO, *, compressed: bool) -> None:
    """Write the user's file with labels and, if there are such, confidence (float32) and instance (int32) added.

    `out` must be seekable.

    The file may be LAS or LAZ, and becomes LAZ if `compressed`, else LAS.

    Scale, offset, CRS and all other records, waveforms and extra bytes stay; a COPC file becomes a plain LAZ file, as
    its octree's record is left out. Raises MalformedFile.
    """
    layout = parse_layout(data)
    answers = answer_columns(segmentation, layout.count)
    in_place = fits_classification(answers["label"], layout.most_codes)
    names = [dimension.name for dimension in layout.extra] + (["classification"] if in_place else [])
    changed = renamed(names)
    added: list[tuple[str, str, str]] = []
    if in_place:
        added.append((changed["classification"], "u1", "classification before labelling"))
    else:
        added.append(("label", "i4", "class id, -1 = ignored"))
    if "confidence" in answers:
        added.append(("confidence", "f4", "probability of the class"))
    if "instance" in answers:
        added.append(("instance", "i4", "object, -1 = none"))
    size = layout.point_size + sum(int(kind[1]) for _, kind, _ in added)
    if size > _LONGEST_RECORD:
        raise MalformedFile(f"With labels a point would take {size} bytes; LAS allows {_LONGEST_RECORD}.")
    records = _records(layout, data, segmentation, _descriptors(layout, changed, added))
    encoder_record = None
    if compressed:
        import lazrs

        extra = size - layout.point_size + sum(dimension.size for dimension in layout.extra)
        encoder_record = lazrs.LazVlr.new_for_compression(layout.point_format, extra)
        records.append(_vlr(LASZIP_ID, "by laz-rs of PointServe", bytes(encoder_record.record_data())))
    gap = bytes(data[layout.vlrs_end : layout.points_start])
    header = bytearray(data[: layout.header_size])
    points_start = len(header) + sum(map(len, records)) + len(gap)
    struct.pack_into("<II", header, 96, points_start, len(records))
    header[104] = layout.point_format | (0x80 if compressed else 0)
    struct.pack_into("<H", header, 105, size)
    out.write(header)
    out.write(b"".join(records) + gap)
    _write_points(layout, data, answers, in_place, size, encoder_record, out)
    if layout.minor >= 3:
        _write_tail(layout, data, header, out)
        out.seek(0)
        out.write(header)
        out.seek(0, 2)
    elif not layout.compressed:
        out.write(data[layout.points_start + layout.count * layout.point_size :])


def _descriptors(layout: Layout, changed: dict[str, str], added: list[tuple[str, str, str]]) -> bytes:
    """Return the descriptions of all extra bytes, those without one included."""
    parts: list[bytes] = []
    for dimension in layout.extra:
        if dimension.descriptor:
            raw = bytearray(dimension.descriptor)
            if dimension.name in changed:
                struct.pack_into("<32s", raw, 4, changed[dimension.name].encode("ascii", "replace")[:32])
            parts.append(bytes(raw))
        else:
            parts += [
                raw_descriptor(dimension.name, min(255, dimension.count - start))
                for start in range(0, dimension.count, 255)
            ]
    parts += [descriptor(name, kind, text) for name, kind, text in added]
    if len(parts) * DESCRIPTOR_SIZE > _LONGEST_RECORD:
        raise MalformedFile(f"With labels a point would have {len(parts)} extra dimensions; a record describes 341.")
    return b"".join(parts)


def _records(layout: Layout, data: memoryview, segmentation: Segmentation, descriptors: bytes) -> list[bytes]:
    """Return the records that go before the points: the user's, with the extra bytes' and ours renewed."""
    records: list[bytes] = []
    extra_bytes: bytes | None = _vlr(EXTRA_BYTES_ID, "Extra bytes", descriptors)
    for record in layout.vlrs:
        if record.id == EXTRA_BYTES_ID:
            if extra_bytes is not None:
                records.append(extra_bytes)
            extra_bytes = None
        elif record.id not in (LASZIP_ID, CLASSES_ID) and record.user_id != b"copc":
            records.append(bytes(data[record.start : record.end]))
    if extra_bytes is not None:
        records.append(extra_bytes)
    if classes := classes_json(segmentation):
        records.append(_vlr(CLASSES_ID, "classes of the labels", classes))
    return records


def _vlr(record_id: tuple[bytes, int], description: str, body: bytes) -> bytes:
    """Return a variable length record."""
    return struct.pack("<2x16sHH32s", *record_id, len(body), description.encode("ascii")) + body


def _write_points(
    layout: Layout,
    data: memoryview,
    answers: dict[str, Column],
    in_place: bool,
    size: int,
    encoder_record: Any,
    out: BinaryIO,
) -> None:
    """Write the point records with their further bytes, compressed where the user's are."""
    encoder = None
    if encoder_record is not None:
        import lazrs

        encoder = lazrs.LasZipCompressor(out, encoder_record)
    done = 0
    for rows in read_blocks(layout, data):
        count = len(rows)
        if (layout.compressed or encoder is not None) and has_many_channels(layout, rows):
            raise UnusableCloud(MANY_CHANNELS + " Send and ask for LAS.")
        table = np.empty((count, size), dtype=np.uint8)
        table[:, : layout.point_size] = rows
        label = answers["label"][done : done + count]
        column = layout.point_size
        if in_place:
            table[:, column] = _set_classification(table, layout, label)
            column += 1
        else:
            table[:, column : column + 4] = label.astype("<i4").view(np.uint8).reshape(count, 4)
            column += 4
        if "confidence" in answers:
            confidence = answers["confidence"][done : done + count]
            table[:, column : column + 4] = confidence.astype("<f4").view(np.uint8).reshape(count, 4)
            column += 4
        if "instance" in answers:
            instance = answers["instance"][done : done + count]
            table[:, column : column + 4] = instance.astype("<i4").view(np.uint8).reshape(count, 4)
        if encoder is None:
            out.write(table.data.cast("B"))
        else:
            encoder.compress_many(table.reshape(-1))
        done += count
    if encoder is not None:
        encoder.done()
        out.seek(0, 2)


def _set_classification(table: NDArray[np.uint8], layout: Layout, label: Column) -> NDArray[np.uint8]:
    """Put the labels into the records' classification; return the old codes (n,)."""
    ignored = label == IGNORED
    old: NDArray[np.uint8]
    codes = np.where(ignored, 0, label).astype(np.uint8)
    if layout.point_format < 6:
        old = table[:, _LEGACY_CLASS_BYTE] & np.uint8(31)
        flags = np.where(ignored, _LEGACY_WITHHELD, 0).astype(np.uint8)
        table[:, _LEGACY_CLASS_BYTE] = (table[:, _LEGACY_CLASS_BYTE] & 0xE0) | flags | codes
    else:
        old = table[:, _CLASS_BYTE].copy()
        table[:, _CLASS_BYTE] = codes
        table[:, _FLAGS_BYTE] |= np.where(ignored, _WITHHELD, 0).astype(np.uint8)
    return old


def _write_tail(layout: Layout, data: memoryview, header: bytearray, out: BinaryIO) -> None:
    """Write what follows the points and set the header's pointers to it (LAS 1.3 and 1.4)."""
    moved: dict[int, int] = {}
    kept: list[Record] = [record for record in layout.evlrs if record.user_id != b"copc"]
    if layout.compressed:
        # the waveforms go last, so that the extended records follow one another
        for record in kept + ([layout.waveforms] if layout.waveforms else []):
            moved[record.start] = out.tell()
            out.write(data[record.start : record.end])
    else:
        tail = layout.points_start + layout.count * layout.point_size
        shift = out.tell() - tail
        out.write(data[tail:])
        moved = {record.start: record.start + shift for record in kept}
        if layout.waveforms:
            moved[layout.waveforms.start] = layout.waveforms.start + shift
    (waveform_start,) = struct.unpack_from("<Q", header, 227)
    struct.pack_into("<Q", header, 227, moved.get(waveform_start, 0))
    if layout.minor >= 4:
        struct.pack_into("<QI", header, 235, moved[kept[0].start] if kept else 0, len(kept))
