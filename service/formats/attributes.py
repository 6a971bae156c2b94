"""What attribute names mean, whatever the format, and how their values become those of a PointCloud.

Colours become uint8 by one rule, stated in `to_color`. Names are compared in lower case and without the prefix
`scalar_`, which CloudCompare puts before everything that is not a coordinate, a colour or a normal.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from service.errors import MalformedFile, TooLarge, UnusableCloud
from service.formats.format import Options
from service.values import PointCloud, Segmentation

Column = NDArray[Any]

COORD = (("x", "y", "z"), ("coord_x", "coord_y", "coord_z"), ("pos_x", "pos_y", "pos_z"))
COLOR = (
    ("red", "green", "blue"),
    ("r", "g", "b"),
    ("diffuse_red", "diffuse_green", "diffuse_blue"),
    ("color_r", "color_g", "color_b"),
)
NORMAL = (
    ("nx", "ny", "nz"),
    ("normal_x", "normal_y", "normal_z"),
    ("normalx", "normaly", "normalz"),
    ("n_x", "n_y", "n_z"),
)
COORD_ARRAYS = ("coord", "coords", "xyz", "points", "point", "pos", "position", "positions", "vertices", "vertex")
COLOR_ARRAYS = ("color", "colors", "colour", "colours", "rgb", "rgba")
NORMAL_ARRAYS = ("normal", "normals")
PACKED_COLORS = ("rgb", "rgba")
INTENSITY = ("intensity", "intensities", "strength", "reflectance", "reflectivity", "remission", "i")
ANSWERS = ("label", "classification")
"""Names under which an input may already hold what this service writes."""
SUPERPOINT = "superpoint"
"""Numbers of patches of surface, as ScanNet's segmentation of a mesh gives them."""
_BESIDE = ("confidence", "instance")
"""Names of what is written beside the labels."""

MOST_FIELDS = 4096
"""Fields that a point may have; a hyperspectral scan has some hundreds."""

MOST_BYTES_A_POINT = 256
"""A compressed file may unpack to this many bytes for each point of `max_points`, and no more."""

MEANT: frozenset[str] = frozenset(
    [name for names in (*COORD, *COLOR, *NORMAL) for name in names]
    + [*COORD_ARRAYS, *COLOR_ARRAYS, *NORMAL_ARRAYS, *PACKED_COLORS, *INTENSITY, *ANSWERS]
    + ["a", "alpha", "t", "time", "timestamp", "ring", "curvature", "gps_time", "class", "original_label", "confidence"]
)
"""Every name known to be the name of a column; a text file's first line that holds one is a header line."""


def canonical(name: str) -> str:
    """Return the name as names are compared: lower case, without spaces around it and without `scalar_`."""
    return name.strip().lower().removeprefix("scalar_")


def check_count(count: int, options: Options) -> None:
    """Refuse a cloud that holds more points than the request may; raises TooLarge, UnusableCloud for none at all."""
    if count > options.max_points:
        raise TooLarge(f"The file holds {count} points; this service takes at most {options.max_points}.")
    if count == 0:
        raise UnusableCloud("The file holds no points.")


def check_fields(count: int, where: str) -> None:
    """Refuse a point of more fields than are read; raises UnusableCloud."""
    if count > MOST_FIELDS:
        raise UnusableCloud(f"{where} {count} fields; at most {MOST_FIELDS} are read.")


def check_unpacked(size: int, options: Options) -> None:
    """Refuse, before it is unpacked, what would take far more memory than the points that are allowed; TooLarge."""
    most = options.max_points * MOST_BYTES_A_POINT
    if size > most:
        raise TooLarge(
            f"The file unpacks to {size} bytes; this service takes at most {most}, "
            f"{MOST_BYTES_A_POINT} for each of the {options.max_points} points that a cloud may have."
        )


def unique_names(names: Iterable[str], taken: Iterable[str] = ()) -> list[str]:
    """Return the names in their order; one that occurs again or is taken gets the first free number: a, a_2, a_3."""
    used, numbers = set(taken), dict[str, int]()
    made: list[str] = []
    for name in names:
        new, number = name, numbers.get(name, 1)
        while new in used:
            number += 1
            new = f"{name}_{number}"
        numbers[name] = number
        used.add(new)
        made.append(new)
    return made


def to_color(values: Column, notes: list[str]) -> NDArray[np.uint8] | None:
    """Return colours as uint8, or None (with a note) where the values are no colours in any known range.

    The rule, for values (N, 3) of one file: uint8 stays. Floats that all lie in 0..1 are scaled by 255. Values that
    all lie in 0..255 stay as they are. Values in 0..65535 are divided by 256. NaN (an invalid point) becomes 0.
    Guesses are added to `notes`.
    """
    if values.dtype == np.uint8:
        return np.ascontiguousarray(values)
    if values.dtype == np.int8:
        return np.ascontiguousarray(values).view(np.uint8)
    if values.dtype.kind not in "iuf":
        notes.append(f"The colours are of type {values.dtype} and were not used.")
        return None
    floats = values.dtype.kind == "f"
    valid = np.isfinite(values) if floats else None
    if valid is not None and not valid.all():
        values = np.where(valid, values, 0)
    low, high = (values.min(), values.max()) if values.size else (0, 0)
    if low < 0 or high > 65535:
        notes.append(f"The colours range from {low:g} to {high:g}, which is no range of colours; they were not used.")
        return None
    if floats and 0 < high <= 1:
        notes.append("The colours lie between 0 and 1 and were scaled to 0-255.")
        return np.ascontiguousarray(np.rint(values * 255.0).astype(np.uint8))
    if high <= 255:
        if values.dtype.itemsize == 2 and high > 0:
            notes.append("The colours are stored in 16 bits but none is above 255; they were taken as 8-bit colours.")
        return np.ascontiguousarray((np.rint(values) if floats else values).astype(np.uint8))
    if floats or values.dtype.itemsize != 2:
        notes.append(f"The largest colour value is {high:g}; the colours were taken as 16-bit and divided by 256.")
    return np.ascontiguousarray((values.astype(np.uint32) >> 8).astype(np.uint8))


def unpack_color(values: Column, notes: list[str]) -> NDArray[np.uint8] | None:
    """Return (N, 3) uint8 of colours packed as 0xAARRGGBB into 4 bytes, be they called integers or float32 (PCL).

    Floats that are whole numbers of 256 and more are taken as the integer itself, as some writers of text files
    print it. None where the values are not 4 bytes wide and do not fit 4 bytes.
    """
    if values.ndim != 1 or values.dtype.kind not in "iuf":
        return None
    packed: NDArray[Any]
    if values.dtype.kind == "f":
        finite = np.where(np.isfinite(values), values, 0)
        whole = finite.size > 0 and bool((finite == np.floor(finite)).all() and finite.min() >= 0)
        if whole and 1 <= finite.max() < 2**32:
            notes.append("The packed colours are stored as whole numbers in a float field and were read as such.")
            packed = finite.astype(np.uint32)
        else:
            packed = np.ascontiguousarray(values, dtype=np.float32).view(np.uint32)
            packed = np.where(np.isfinite(values) | (packed >> 24 == 255), packed, 0)
    else:
        packed = values.astype(np.uint32)
    return np.stack([(packed >> 16) & 255, (packed >> 8) & 255, packed & 255], axis=1).astype(np.uint8)


def assemble(
    columns: Mapping[str, Column],
    *,
    organized: tuple[int, int] | None = None,
    notes: Iterable[str] = (),
    packed: Sequence[str] = PACKED_COLORS,
) -> PointCloud:
    """Return the cloud whose attributes, by their names in the file, are `columns`.

    Args:
        columns: (N,) or (N, k) each, any dtype and byte order, contiguous or not; what is kept is copied if need be.
        organized: (height, width), or None.
        notes: what the reader guessed so far.
        packed: names of 4-byte fields that hold a colour.
    Raises UnusableCloud where there are no x, y, z or no points, MalformedFile where they are no numbers.
    """
    said = list(notes)
    left = dict(columns)
    names = {canonical(name): name for name in reversed(list(columns))}

    def take(role: Sequence[str]) -> Column | None:
        """Take the columns of a role out of `left`, side by side."""
        if any(name not in names or names[name] not in left or left[names[name]].ndim != 1 for name in role):
            return None
        parts = [left.pop(names[name]) for name in role]
        if {part.dtype.str[1:] for part in parts} == {"i1", "u1"}:
            parts = [np.ascontiguousarray(part).view(np.uint8) for part in parts]
        return np.stack(parts, axis=1) if len({part.dtype for part in parts}) == 1 else np.column_stack(parts)

    coord = _take_coord(left, names)
    if len(coord) == 0:
        raise UnusableCloud("The file holds no points.")
    color = None
    for role in COLOR:
        if color is None and (values := take(role)) is not None:
            color = to_color(values, said)
            if color is None:
                left.update({names[name]: values[:, i] for i, name in enumerate(role)})
                break
    for name in COLOR_ARRAYS:
        values = left.get(names.get(name, ""))
        if color is None and values is not None and values.ndim == 2 and values.shape[1] in (3, 4):
            color = to_color(values[:, :3], said)
            if color is not None and values.shape[1] == 3:
                left.pop(names[name])
    for name in packed:
        values = left.get(names.get(name, ""))
        if color is None and values is not None and values.ndim == 1:
            color = unpack_color(values, said)
            if color is not None:
                left.pop(names[name])
    normal = None
    for role in NORMAL:
        normal = take(role) if normal is None else normal
    for name in NORMAL_ARRAYS:
        values = left.get(names.get(name, ""))
        if normal is None and values is not None and values.ndim == 2 and values.shape[1] == 3:
            normal = left.pop(names[name])
    intensity = None
    for name in INTENSITY:
        values = left.get(names.get(name, ""))
        if intensity is None and values is not None and values.shape == (len(coord),) and values.dtype.kind in "iufb":
            intensity = left.pop(names[name])
    superpoint = left.get(names.get(SUPERPOINT, ""))
    if superpoint is not None and (superpoint.shape != (len(coord),) or superpoint.dtype.kind not in "iufb"):
        superpoint = None
    return PointCloud(
        coord=coord,
        color=color,
        normal=None if normal is None else np.ascontiguousarray(normal, dtype=np.float32),
        intensity=None if intensity is None else np.ascontiguousarray(intensity, dtype=np.float32),
        attributes={name: native(values) for name, values in left.items()},
        organized=organized,
        notes=tuple(said),
        superpoint=None if superpoint is None else native(superpoint),
    )


def _take_coord(left: dict[str, Column], names: Mapping[str, str]) -> NDArray[np.float64]:
    """Take the positions out of `left` as (N, 3) float64."""
    for role in COORD:
        if all(names.get(name, "") in left for name in role):
            parts = [left.pop(names[name]) for name in role]
            for name, part in zip(role, parts, strict=True):
                if part.ndim != 1 or part.dtype.kind not in "iuf":
                    raise MalformedFile(f"Field {names[name]} must hold one number a point; it holds {part.dtype}.")
            coord = np.empty((len(parts[0]), 3), dtype=np.float64)
            for axis, part in enumerate(parts):
                coord[:, axis] = part
            return coord
    for name in COORD_ARRAYS:
        values = left.get(names.get(name, ""))
        if values is not None and values.ndim == 2 and values.shape[1] == 3 and values.dtype.kind in "iuf":
            left.pop(names[name])
            return np.ascontiguousarray(values, dtype=np.float64)
    raise UnusableCloud(f"The file has no x, y, z; its fields are: {', '.join(left)[:200] or 'none'}.")


def native(values: Column) -> Column:
    """Return the values contiguous, in this machine's byte order and not tied to the file's memory."""
    if values.flags.owndata and values.flags.c_contiguous and values.dtype.isnative:
        return values
    return np.array(values, dtype=values.dtype.newbyteorder("="), order="C")


def renamed(names: Iterable[str], answers: Sequence[str] = ANSWERS) -> dict[str, str]:
    """Return old name to new name for the attributes that would be taken for this service's answer.

    A `label` becomes `original_label`; so does a `classification` where there is no label, and else it becomes
    `original_classification`. Where that name is taken too (a file labelled twice), `_2`, `_3`, ... is added. A
    `confidence` becomes `original_confidence`, an `instance` `original_instance`. `names` is in file order; upper and
    lower case are the same.
    """
    all_names = list(dict.fromkeys(names))
    taken = {canonical(name) for name in all_names}
    old: list[str] = []
    wishes: list[str] = []
    for answer in (*answers, *_BESIDE):
        for name in all_names:
            if canonical(name) == answer:
                wish = f"original_{answer}" if answer in _BESIDE else "original_label"
                wishes.append(f"original_{answer}" if wish in wishes else wish)
                old.append(name)
    return dict(zip(old, unique_names(wishes, taken), strict=True))


def answer_columns(segmentation: Segmentation, count: int) -> dict[str, Column]:
    """Return `label` (int32) and, where there are such, `confidence` (float32) and `instance` (int32), each (count,).

    Raises MalformedFile where the labels are not one a point: the file is not the one that was labelled.
    """
    if len(segmentation.label) != count:
        raise MalformedFile(f"The file holds {count} points, but {len(segmentation.label)} labels came for it.")
    columns: dict[str, Column] = {"label": np.ascontiguousarray(segmentation.label, dtype=np.int32)}
    if segmentation.confidence is not None:
        columns["confidence"] = np.ascontiguousarray(segmentation.confidence, dtype=np.float32)
    if segmentation.instance is not None:
        columns["instance"] = np.ascontiguousarray(segmentation.instance, dtype=np.int32)
    return columns


def coord_columns(cloud: PointCloud) -> dict[str, Column]:
    """Return x, y, z as float32 where that loses nothing, as float64 where it would."""
    with np.errstate(over="ignore"):
        single = cloud.coord.astype(np.float32)
    values: Column = single if np.array_equal(single, cloud.coord, equal_nan=True) else cloud.coord
    return {name: values[:, axis] for axis, name in enumerate("xyz")}


def scalar_attributes(cloud: PointCloud) -> dict[str, Column]:
    """Return the cloud's further attributes for a format of named scalar columns, each (N,) and a plain number.

    An attribute (N, k) becomes k columns `name_0`...; names that this service's answer needs are changed as in
    `renamed`; spaces in names become `_`; attributes that are no numbers (texts) have no place there.
    """
    changed = renamed(cloud.attributes)
    reserved = {"x", "y", "z", "red", "green", "blue", "rgb", "nx", "ny", "nz", "intensity", "label", *_BESIDE}
    wishes: list[str] = []
    columns: list[Column] = []
    for name, values in cloud.attributes.items():
        if values.dtype.kind not in "iufb" or values.dtype.itemsize > 8 or values.ndim > 2:
            continue
        base = "_".join(changed.get(name, name).split()) or "attribute"
        parts = [values] if values.ndim == 1 else list(values.T)
        for number, part in enumerate(parts):
            wish = base if values.ndim == 1 else f"{base}_{number}"
            wishes.append(wish if wish.lower() not in reserved else f"original_{wish}")
            columns.append(part.astype(np.uint8) if part.dtype.kind == "b" else part)
    return dict(zip(unique_names(wishes), columns, strict=True))
