"""The point records of LAS and LAZ files, block by block.

LAZ is decoded by lazrs, one thread: its parallel decoder reserves address space for each core, which the limits of a
reader do not grant on a large machine. Before lazrs sees a file, the sizes in it from which lazrs would allocate are
walked through here, as a failed allocation in Rust ends the process.
"""

from __future__ import annotations

import io
import struct
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from service.errors import MalformedFile
from service.formats.las_layout import LASZIP_ID, Layout
from service.formats.stream import MemoryStream

BLOCK = 1 << 17
MANY_CHANNELS = "The waveforms of a LAZ file with several scanner channels are not decoded and encoded faithfully here."
"""Seen with lazrs 0.8.2: in point formats 9 and 10 the contexts of the waveform packets are mixed up."""

_ANY_CHUNK = 0xFFFFFFFF
_ITEM_SIZES = {6: 20, 7: 8, 8: 6, 9: 29, 10: 30, 11: 6, 12: 8, 13: 29}
_BYTES, _BYTES14 = 0, 14
_LAYERS = {10: 9, 11: 1, 12: 2, 13: 1}
_POINTWISE, _POINTWISE_CHUNKED, _LAYERED = 1, 2, 3


def read_blocks(layout: Layout, data: memoryview, block: int = BLOCK) -> Iterator[NDArray[Any]]:
    """Yield the raw records in file order, (n, point_size) uint8 each; raises MalformedFile."""
    if not layout.compressed:
        for first in range(0, layout.count, block):
            count = min(block, layout.count - first)
            start = layout.points_start + first * layout.point_size
            rows = np.frombuffer(data, np.uint8, count * layout.point_size, start)
            yield rows.reshape(count, layout.point_size)
        return
    record = _laszip_record(layout, data)
    _check_chunks(layout, data, record)
    yield from _decompress(layout, data, record, block)


def has_many_channels(layout: Layout, rows: NDArray[Any]) -> bool:
    """Whether records (n, point_size) with waveforms are of more than one scanner channel."""
    if layout.point_format not in (9, 10):
        return False
    channels = rows[:, 15] & 0x30
    return bool((channels != channels[0]).any()) if len(channels) else False


def _decompress(layout: Layout, data: memoryview, record: bytes, block: int) -> Iterator[NDArray[Any]]:
    """Yield the records of a LAZ file whose chunks were checked."""
    import lazrs

    source = io.BufferedReader(MemoryStream(data), 1 << 20)
    source.seek(layout.points_start)
    decoder = None
    for first in range(0, layout.count, block):
        count = min(block, layout.count - first)
        rows = np.empty((count, layout.point_size), dtype=np.uint8)
        try:
            if decoder is None:
                decoder = lazrs.LasZipDecompressor(source, record)
            decoder.decompress_many(rows.reshape(-1))
        except BaseException as error:
            raise _as_malformed(error, f"within points {first} to {first + count}") from error
        yield rows


def _as_malformed(error: BaseException, where: str) -> BaseException:
    """Return a MalformedFile for what lazrs raised; its panics are no `Exception`."""
    if type(error).__name__ == "PanicException" or (
        isinstance(error, Exception) and not isinstance(error, MemoryError)
    ):
        return MalformedFile(f"The compressed points do not decode {where}: {str(error)[:200]}.")
    return error


def _laszip_record(layout: Layout, data: memoryview) -> bytes:
    """Return the LAZ record after checking that it describes points of the header's size."""
    records = [record for record in layout.vlrs if record.id == LASZIP_ID]
    if not records:
        raise MalformedFile("The points are compressed, but the record 'laszip encoded' that says how is missing.")
    raw = bytes(data[records[0].data_start : records[0].end])
    if len(raw) < 34 or len(raw) < 34 + 6 * struct.unpack_from("<H", raw, 32)[0]:
        raise MalformedFile(f"The record 'laszip encoded' is {len(raw)} bytes long, too short for what it lists.")
    (compressor,) = struct.unpack_from("<H", raw, 0)
    if compressor not in (_POINTWISE, _POINTWISE_CHUNKED, _LAYERED):
        raise MalformedFile(f"The LAZ compressor {compressor} is not known; LAZ has 1, 2 and 3.")
    total = 0
    for kind, size in _items(raw):
        if size != _ITEM_SIZES.get(kind, size) or (kind not in _ITEM_SIZES and kind not in (_BYTES, _BYTES14)):
            raise MalformedFile(f"The record 'laszip encoded' lists an item of type {kind} and {size} bytes.")
        if (compressor == _LAYERED) != (kind in _LAYERS or kind == _BYTES14):
            raise MalformedFile(f"The LAZ compressor {compressor} has no items of type {kind}.")
        total += size
    if total != layout.point_size:
        raise MalformedFile(f"The LAZ items take {total} bytes a point; the header says {layout.point_size}.")
    return raw


def _items(record: bytes) -> list[tuple[int, int]]:
    """Return type and size of the items that a LAZ record lists."""
    (count,) = struct.unpack_from("<H", record, 32)
    return [struct.unpack_from("<HH", record, 34 + 6 * index) for index in range(count)]


def _check_chunks(layout: Layout, data: memoryview, record: bytes) -> None:
    """Walk through the compressed chunks as far as their sizes can be known without decoding them."""
    (compressor,) = struct.unpack_from("<H", record, 0)
    (chunk_size,) = struct.unpack_from("<I", record, 12)
    if compressor == _POINTWISE or layout.count == 0:
        return
    end = _check_table(layout, data)
    counts = None
    if chunk_size in (0, _ANY_CHUNK):
        counts = _chunk_counts(layout, data, record)
    if compressor == _LAYERED:
        _walk_layers(layout, data, record, end, chunk_size, counts)
    elif counts is None:
        least = -(-layout.count // chunk_size) * layout.point_size
        if least > end - layout.points_start - 8:
            raise MalformedFile(
                f"The LAZ header promises {layout.count} points in chunks of {chunk_size}, of at least {least} bytes, "
                f"but the chunks take {end - layout.points_start - 8} bytes: the file is truncated or garbled."
            )
    elif sum(counts) < layout.count:
        raise MalformedFile(f"The LAZ chunks hold {sum(counts)} points; the header promises {layout.count}.")


def _check_table(layout: Layout, data: memoryview) -> int:
    """Return where the chunk table begins, after checking that it can be one: lazrs allocates by its count."""
    if layout.points_start + 8 > len(data):
        raise MalformedFile("The file ends before its compressed points.")
    (position,) = struct.unpack_from("<q", data, layout.points_start)
    if position == -1:  # written to a stream that could not be rewound: it stands at the file's end
        (position,) = struct.unpack_from("<q", data, len(data) - 8)
    if not layout.points_start + 8 <= position <= len(data) - 8:
        raise MalformedFile(
            f"The LAZ chunk table should be at byte {position}, which is not between the points' start "
            f"at {layout.points_start} and the file's end at {len(data)}: the file is truncated or garbled."
        )
    _, chunks = struct.unpack_from("<II", data, position)
    if chunks * layout.point_size > position - layout.points_start - 8:
        raise MalformedFile(
            f"The LAZ chunk table at byte {position} claims {chunks} chunks, more than the "
            f"{position - layout.points_start - 8} bytes before it can hold: the file is garbled."
        )
    return int(position)


def _chunk_counts(layout: Layout, data: memoryview, record: bytes) -> list[int]:
    """Return the points of each chunk where chunks differ (COPC), by the chunk table."""
    import lazrs

    source = io.BufferedReader(MemoryStream(data), 1 << 16)
    source.seek(layout.points_start)
    try:
        table = lazrs.read_chunk_table(source, lazrs.LazVlr(record))
    except BaseException as error:
        raise _as_malformed(error, "at the chunk table") from error
    return [int(points) for points, _ in table]


def _walk_layers(
    layout: Layout, data: memoryview, record: bytes, end: int, chunk_size: int, counts: list[int] | None
) -> None:
    """Check that the layers of every chunk lie within the file: lazrs allocates each by the length it claims."""
    layers = sum(size if kind == _BYTES14 else _LAYERS[kind] for kind, size in _items(record))
    lengths = np.dtype(("<u4", (layers,)))
    position, left, index = layout.points_start + 8, layout.count, 0
    fixed = layout.point_size + 4 + lengths.itemsize
    while left > 0:
        if counts is not None and index >= len(counts):
            raise MalformedFile(f"The LAZ chunk table ends {left} points before the header's {layout.count}.")
        points = min(left, chunk_size) if counts is None else counts[index]
        taken = fixed
        if points and position + fixed <= end:
            raw = np.frombuffer(data, lengths, 1, position + layout.point_size + 4)
            taken += int(raw.sum(dtype=np.int64))
        if points and position + taken > end:
            raise MalformedFile(
                f"Chunk {index + 1} of the LAZ file, at byte {position}, does not lie within the file; "
                f"{left} of {layout.count} points are missing: it is truncated or garbled."
            )
        if points:
            position += taken
        left -= points
        index += 1
