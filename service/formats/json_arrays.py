"""JSON: {"points": [[x, y, z], ...], "colors": ..., "normals": ..., "intensity": ..., further arrays}."""

from __future__ import annotations

import reprlib
from typing import Any

import numpy as np
from numpy.typing import NDArray

from service.errors import MalformedFile, TooLarge, UnusableCloud
from service.formats.attributes import (
    COLOR_ARRAYS,
    INTENSITY,
    MOST_FIELDS,
    NORMAL_ARRAYS,
    Column,
    assemble,
    check_count,
)
from service.formats.format import Format, Options
from service.values import PointCloud

POSITIONS = ("points", "coord", "coords", "xyz", "positions")
MOST_VALUES_A_POINT = 32
_BLOCK = 1 << 24


def matches(head: bytes) -> bool:
    """Whether the bytes begin like a JSON object."""
    return head.lstrip(b"\xef\xbb\xbf \t\r\n")[:1] == b"{"


def read(data: memoryview, options: Options) -> PointCloud:
    """Return the cloud of a JSON object of arrays.

    `points` is a list of [x, y, z]; null stands for NaN, which JSON lacks. `colors` and `normals` are lists of three,
    `intensity` of one number a point. Further lists with one entry a point become attributes; other members are not
    looked at. Raises MalformedFile that names the member and the row at fault, TooLarge, UnusableCloud.
    """
    import orjson

    _check_size(data, options)
    try:
        body = orjson.loads(data)
    except orjson.JSONDecodeError as error:
        if "memory" in error.msg:
            raise TooLarge(
                f"The JSON of {len(data)} bytes takes more memory than a reader has; send the cloud as NPZ or PLY."
            ) from error
        hint = " (JSON has no NaN; use null)" if b"NaN" in bytes(data[max(0, error.pos - 8) : error.pos + 8]) else ""
        raise MalformedFile(f"The JSON does not parse at character {error.pos}: {error.msg}{hint}.") from error
    if not isinstance(body, dict):
        raise MalformedFile(f'The JSON must be an object with "points"; it is {_kind(body)}.')
    if len(body) > MOST_FIELDS:
        raise MalformedFile(f"The JSON object has {len(body)} members; at most {MOST_FIELDS} are read.")
    name = next((name for name in POSITIONS if name in body), None)
    if name is None and body.keys() & {"url", "uri", "href"}:
        raise MalformedFile('The service fetches nothing from elsewhere: send the points themselves as "points".')
    if name is None:
        raise MalformedFile(f'The JSON object has no "points"; its members are: {", ".join(body)[:200] or "none"}.')
    points = body.pop(name)
    if not isinstance(points, list):
        raise MalformedFile(f'"{name}" must be a list of [x, y, z]; it is {_kind(points)}.')
    if not points:
        raise UnusableCloud(f'"{name}" is an empty list: there are no points.')
    check_count(len(points), options)
    columns: dict[str, Column] = {"coord": _numbers(name, points, width=3).astype(np.float64)}
    for key in list(body):
        values = body.pop(key)
        width = 3 if key in (*COLOR_ARRAYS, *NORMAL_ARRAYS) else None
        known = width is not None or key in INTENSITY
        if known and values is None:
            continue
        if not isinstance(values, list):
            if known:
                raise MalformedFile(f'"{key}" must be a list with one entry a point; it is {_kind(values)}.')
            continue
        if len(values) != len(points):
            if known or (values and isinstance(values[0], (int, float, list))):
                raise MalformedFile(f'"{key}" has {len(values)} entries, but there are {len(points)} points.')
            continue
        columns[key] = _numbers(key, values, width=width)
    return assemble(columns)


def _check_size(data: memoryview, options: Options) -> None:
    """Refuse, before it is parsed, a body with far more values than the points that are allowed may have."""
    commas = 0
    for start in range(0, len(data), _BLOCK):
        commas += int(np.count_nonzero(np.frombuffer(data[start : start + _BLOCK], np.uint8) == ord(",")))
    if commas > options.max_points * MOST_VALUES_A_POINT:
        raise TooLarge(f"The JSON holds {commas} values, too many for {options.max_points} points, the most accepted.")


def _kind(value: Any) -> str:
    """Return what a JSON value is, for a message."""
    names = {dict: "an object", list: "a list", str: "a text", bool: "true or false", type(None): "null"}
    return names.get(type(value), "a number")


def _numbers(name: str, values: list[Any], *, width: int | None) -> NDArray[Any]:
    """Return a member's values as an array (N,) or (N, k); null becomes NaN."""
    try:
        array = np.array(values)
    except (ValueError, OverflowError) as error:
        raise _wrong_row(name, values, width) or MalformedFile(f'"{name}" is no table of numbers: {error}.') from error
    if array.dtype.kind == "O" and _wrong_row(name, values, width) is None:
        array = np.array(values, dtype=np.float64)
    wrong_shape = array.ndim > 2 or (width is not None and (array.ndim != 2 or array.shape[1] != width))
    if wrong_shape or array.dtype.kind not in "iufb" or (name in INTENSITY and array.ndim != 1):
        raise _wrong_row(name, values, 1 if name in INTENSITY else width) or MalformedFile(
            f'"{name}" must hold numbers, {width or "one"} a point; its first entry is {_shown(values[0])}.'
        )
    return array


def _wrong_row(name: str, values: list[Any], width: int | None) -> MalformedFile | None:
    """Return the error that names the first entry that is not `width` numbers (None: as many as the first has)."""
    first = values[0]
    if width is None:
        width = len(first) if isinstance(first, list) else 1
        flat = not isinstance(first, list)
    else:
        flat = width == 1
    for row, entry in enumerate(values):
        parts = [entry] if flat else entry
        good = isinstance(parts, list) and len(parts) == width
        if not good or not all(part is None or (type(part) in (int, float, bool)) for part in parts):
            what = "a number" if flat else f"a list of {width} numbers"
            return MalformedFile(f'"{name}"[{row}] must be {what}; it is {_shown(entry)}.')
    return None


def _shown(value: Any) -> str:
    """Return a value as a message shows it; a list of millions is not made a text first."""
    return reprlib.repr(value)[:60]


FORMAT = Format(
    name="json",
    title="JSON arrays",
    suffixes=(".json",),
    media_types=("application/json", "text/json"),
    matches=matches,
    read=read,
)
