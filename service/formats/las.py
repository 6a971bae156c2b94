"""LAS 1.0 to 1.4 in all point formats and LAZ, COPC included; laspy knows the points, lazrs the compression."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from service.errors import UnusableCloud
from service.formats.attributes import (
    Column,
    answer_columns,
    assemble,
    canonical,
    check_count,
    check_unpacked,
    scalar_attributes,
    unique_names,
)
from service.formats.format import Format, Options
from service.formats.las_labels import CLASSES_ID, annotate, classes_json, fits_classification
from service.formats.las_layout import Layout, is_compressed, is_las, parse_layout
from service.formats.las_points import MANY_CHANNELS, has_many_channels, read_blocks
from service.values import IGNORED, PointCloud, Segmentation

BLOCK = 1 << 17
_MOST_TICKS = 2**31 - 2
_FINE, _USUAL = 1e-5, 1e-4
_SCAN_ANGLE_STEP = 0.006
_NOT_SET = ("X", "Y", "Z", "intensity", "red", "green", "blue", "classification")


def read(data: memoryview, options: Options) -> PointCloud:
    """Return the points of a LAS or LAZ file, coordinates scaled to float64.

    Every dimension but the coordinates, colours and intensity becomes an attribute under laspy's name for it. 16-bit
    colours become 8-bit. Extra dimensions with scale or offset are scaled. Raises MalformedFile, TooLarge,
    UnusableCloud.
    """
    layout = parse_layout(data)
    check_count(layout.count, options)
    if layout.compressed:
        check_unpacked(layout.count * layout.point_size, options)
    readers = dict(_field_readers(layout))
    columns: dict[str, Column] = {"xyz": np.empty((layout.count, 3), dtype=np.float64)}
    dtype = _table_type(layout)
    done = 0
    for rows in read_blocks(layout, data):
        if layout.compressed and MANY_CHANNELS not in layout.notes and has_many_channels(layout, rows):
            layout.notes.append(MANY_CHANNELS)
        table = np.ascontiguousarray(rows).reshape(-1).view(dtype)
        end = done + len(table)
        for axis, name in enumerate("XYZ"):
            columns["xyz"][done:end, axis] = table[name] * layout.scale[axis] + layout.offset[axis]
        for name, reader in readers.items():
            values = reader(table)
            if name not in columns:
                columns[name] = np.empty((layout.count, *values.shape[1:]), dtype=values.dtype)
            columns[name][done:end] = values
        done = end
    return assemble(columns, notes=layout.notes, packed=())


def _table_type(layout: Layout) -> np.dtype[np.void]:
    """Return the type of one record: laspy's fields of the format, then `extra0`, `extra1`, ..."""
    from laspy.point.dims import ALL_POINT_FORMATS_DTYPE

    standard = ALL_POINT_FORMATS_DTYPE[layout.point_format]
    fields = [(name, standard[name].newbyteorder("<")) for name in standard.names]
    for index, extra in enumerate(layout.extra):
        fields.append((f"extra{index}", np.dtype(("<" + extra.type, (extra.count,)))))
    return np.dtype(fields)


def _field_readers(layout: Layout) -> Iterator[tuple[str, Callable[[NDArray[Any]], Column]]]:
    """Yield each attribute's name and the function that takes it out of a block of records."""
    from laspy.point.dims import ALL_POINT_FORMATS_DTYPE, get_sub_fields_dict

    packed = get_sub_fields_dict(layout.point_format)
    composed = {field for field, _ in packed.values()}
    taken: set[str] = {"xyz", "X", "Y", "Z"}
    for name in ALL_POINT_FORMATS_DTYPE[layout.point_format].names:
        if name in composed:
            for part, (field, sub_field) in packed.items():
                if field == name:
                    taken.add(part)
                    yield part, _bits_reader(field, sub_field.mask)
        elif name not in taken:
            taken.add(name)
            yield name, _column_reader(name)
    names = unique_names((extra.name for extra in layout.extra), taken)
    for index, (name, extra) in enumerate(zip(names, layout.extra, strict=True)):
        yield name, _extra_reader(f"extra{index}", extra.count, extra.scale, extra.offset)


def _column_reader(name: str) -> Callable[[NDArray[Any]], Column]:
    return lambda table: table[name]


def _bits_reader(field: str, mask: int) -> Callable[[NDArray[Any]], Column]:
    """Return the reader of some bits of a byte."""
    shift = (mask & -mask).bit_length() - 1
    return lambda table: (table[field] & np.uint8(mask)) >> np.uint8(shift)


def _extra_reader(
    name: str, count: int, scale: tuple[float, ...] | None, offset: tuple[float, ...] | None
) -> Callable[[NDArray[Any]], Column]:
    """Return the reader of an extra dimension, (n,) or (n, count)."""

    def reader(table: NDArray[Any]) -> Column:
        values: Column = table[name]
        if scale is not None or offset is not None:
            values = values * np.array(scale or (1.0,)) + np.array(offset or (0.0,))
        return values[:, 0] if count == 1 else values

    return reader


def write(cloud: PointCloud, segmentation: Segmentation, out: BinaryIO, *, compressed: bool) -> None:
    """Write the cloud and its labels as LAS 1.4, point format 6, 7 (colours) or 8 (and `nir`); `out` must be seekable.

    Labels as `annotate` puts them: `classification`, or the extra dimension `label` where a class id exceeds 255.
    Attributes with the name of a LAS dimension go there, others become extra dimensions. Coordinates are kept to half
    a hundredth of a millimetre for clouds under a kilometre (0.05 mm under 100 km), if their unit is the metre. Invalid
    points, which LAS cannot hold, lie in the lowest corner of the cloud, are withheld and have classification 0.
    """
    import laspy

    columns = _columns_to_write(cloud, segmentation)
    names = {canonical(name) for name in cloud.attributes}
    id_ = 6 if cloud.color is None else 8 if "nir" in names else 7
    point_format = laspy.PointFormat(id_)
    standard = set(point_format.dimension_names)
    for name, values in columns.items():
        if name not in standard:
            kind = np.dtype(values.dtype.str[1:])
            point_format.add_extra_dimension(laspy.ExtraBytesParams(name=name, type=kind))
    header = laspy.LasHeader(version="1.4", point_format=point_format)
    ticks, header.scales, header.offsets = _ticks(cloud.coord)
    header.global_encoding.wkt = True
    header.system_identifier = "PointServe"
    header.generating_software = "PointServe"
    if classes := classes_json(segmentation):
        user_id, record_id = CLASSES_ID
        header.vlrs.append(laspy.VLR(user_id.decode(), record_id, "classes of the labels", classes))
    with laspy.LasWriter(
        out, header, do_compress=compressed, laz_backend=laspy.LazBackend.Lazrs if compressed else None, closefd=False
    ) as writer:
        for start in range(0, len(cloud), BLOCK):
            part = slice(start, min(start + BLOCK, len(cloud)))
            block = laspy.ScaleAwarePointRecord.zeros(part.stop - start, header=header)
            for axis, name in enumerate("XYZ"):
                block[name] = ticks[part, axis]
            for name, values in columns.items():
                block[name] = values[part]
            writer.write_points(block)
    out.seek(0, 2)


def _columns_to_write(cloud: PointCloud, segmentation: Segmentation) -> dict[str, Column]:
    """Return what goes into each dimension but X, Y, Z; names that LAS does not know become extra dimensions."""
    from laspy import PointFormat

    columns: dict[str, Column] = {
        "return_number": np.ones(len(cloud), np.uint8),
        "number_of_returns": np.ones(len(cloud), np.uint8),
    }
    places = {dim.name: dim for dim in PointFormat(8 if cloud.color is not None else 6).dimensions}
    for wish, values in scalar_attributes(cloud).items():
        if wish == "withheld":
            continue  # set below, with the points that are ignored
        name, values = _angle(wish, values)
        place = places.get(name)
        if place is not None and name not in _NOT_SET and _fits(values, place):
            columns[name] = values
        else:
            short = _dimension_name(wish, set(columns) | set(places) | {"label", "confidence", "instance"})
            columns[short] = values.astype(np.float32) if values.dtype == np.float16 else values
    if cloud.color is not None:
        for axis, name in enumerate(("red", "green", "blue")):
            columns[name] = cloud.color[:, axis].astype(np.uint16) * np.uint16(257)
    if cloud.normal is not None:
        columns |= {name: cloud.normal[:, axis] for axis, name in enumerate(("NormalX", "NormalY", "NormalZ"))}
    if cloud.intensity is not None:
        columns |= _intensity(cloud.intensity)
    answers = answer_columns(segmentation, len(cloud))
    label = answers.pop("label")
    if fits_classification(label, 255):
        columns["classification"] = np.where(label == IGNORED, 0, label).astype(np.uint8)
    else:
        columns["label"] = label
    valid = np.isfinite(cloud.coord).all(axis=1)
    withheld = cloud.attributes.get("withheld", np.zeros(len(cloud), np.uint8))
    columns["withheld"] = ((withheld != 0) | (label == IGNORED) | ~valid).astype(np.uint8)
    return columns | answers


def _angle(name: str, values: Column) -> tuple[str, Column]:
    """Return whole degrees of formats 0 to 5 as the 0.006 degrees of the later formats."""
    if name == "scan_angle_rank" and values.dtype == np.int8:
        return "scan_angle", np.rint(values / _SCAN_ANGLE_STEP).astype(np.int16)
    return name, values


def _fits(values: Column, place: Any) -> bool:
    """Whether the values can be those of a standard dimension."""
    if place.kind.name == "FloatingPoint":
        return values.dtype.kind == "f"
    if values.dtype.kind not in "iu":
        return False
    return len(values) == 0 or bool(place.min <= values.min() and values.max() <= place.max)


def _dimension_name(wish: str, taken: set[str]) -> str:
    """Return a name of at most 32 bytes that no other dimension has."""
    base = "".join(c if c.isascii() and (c.isalnum() or c in "_- .") else "_" for c in wish)[:28] or "attribute"
    name, number = base, 2
    while name in taken:
        name, number = f"{base}_{number}", number + 1
    return name


def _intensity(values: NDArray[np.float32]) -> dict[str, Column]:
    """Return `intensity` in 16 bits: as it is where it is 0 to 65535, scaled where it is fractions of 0 to 1.

    Other ranges (PTS: -2048 to 2047) are kept in the extra dimension `original_intensity`.
    """
    values = np.where(np.isfinite(values), values, 0)
    low, high = values.min(initial=0), values.max(initial=0)
    if low < 0 or high > 65535:
        return {"original_intensity": values.astype(np.float32)}
    if high <= 1 and (values != np.rint(values)).any():
        values = values * 65535
    return {"intensity": np.rint(values).astype(np.uint16)}


def _ticks(coord: NDArray[np.float64]) -> tuple[NDArray[np.int32], NDArray[np.float64], NDArray[np.float64]]:
    """Return coordinates as int32 (N, 3), with their scale (3,) and offset (3,)."""
    valid = np.isfinite(coord).all(axis=1)
    low, high = (coord[valid].min(axis=0), coord[valid].max(axis=0)) if valid.any() else (np.zeros(3), np.zeros(3))
    offset = np.floor(low)
    with np.errstate(over="ignore"):
        extent = float((high - offset).max())
    if not np.isfinite(extent):
        raise UnusableCloud("The coordinates span more than a float64 can tell; LAS cannot hold them.")
    scale = _FINE if extent <= 1000 else _USUAL
    while extent / scale > _MOST_TICKS:
        scale *= 10
    ticks = np.empty(coord.shape, dtype=np.int32)
    for axis in range(3):
        values = np.where(valid, coord[:, axis], low[axis])
        ticks[:, axis] = np.rint((values - offset[axis]) / scale)
    return ticks, np.full(3, scale), offset


def _write_las(cloud: PointCloud, segmentation: Segmentation, out: BinaryIO) -> None:
    write(cloud, segmentation, out, compressed=False)


def _write_laz(cloud: PointCloud, segmentation: Segmentation, out: BinaryIO) -> None:
    write(cloud, segmentation, out, compressed=True)


def _annotate_as_las(data: memoryview, segmentation: Segmentation, out: BinaryIO, options: Options) -> None:
    annotate(data, segmentation, out, compressed=False)


def _annotate_as_laz(data: memoryview, segmentation: Segmentation, out: BinaryIO, options: Options) -> None:
    annotate(data, segmentation, out, compressed=True)


LAS = Format(
    name="las",
    title="LAS, ASPRS LASer file",
    suffixes=(".las",),
    media_types=("application/vnd.las", "application/las", "application/x-las"),
    matches=lambda head: is_las(head) and not is_compressed(head),
    read=read,
    write=_write_las,
    annotate=_annotate_as_las,
)
LAZ = Format(
    name="laz",
    title="LAZ, compressed LAS, COPC",
    suffixes=(".laz",),
    media_types=("application/vnd.laszip", "application/laz", "application/x-laz", "application/vnd.laszip+copc"),
    matches=is_compressed,
    read=read,
    write=_write_laz,
    annotate=_annotate_as_laz,
)
