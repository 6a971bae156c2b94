"""Which column of a table of numbers is what, where no names say it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from service.errors import MalformedRequest, UnusableCloud
from service.formats.attributes import Column, unique_names

_POSITION = ("x", "y", "z")
_COLOR = ("red", "green", "blue")
_NORMAL = ("nx", "ny", "nz")
MOST_GUESSED = 16
SKIPPED = ("", "_", "-", "skip")
"""Names in `options.columns` of columns that are not wanted."""


def name_columns(table: NDArray[Any], names: Sequence[str]) -> dict[str, Column]:
    """Return the columns of a table (N, k) by k names, but for those that are SKIPPED; repeated names get numbers.

    Raises MalformedRequest where there are not k names.
    """
    if len(names) != table.shape[1]:
        raise MalformedRequest(
            f"{len(names)} columns are named ({', '.join(names)[:200]}), but the points have {table.shape[1]} values."
        )
    wanted = [index for index, name in enumerate(names) if name.strip().lower() not in SKIPPED]
    new = unique_names(names[index].strip() for index in wanted)
    return {name: table[:, index] for name, index in zip(new, wanted, strict=True)}


def guess_columns(table: NDArray[Any], names: Sequence[str] | None, notes: list[str]) -> dict[str, Column]:
    """Return the columns of a table (N, k) by their names: those given, or guessed, which is noted.

    The guess: x, y, z first. Then, as long as columns are left, three that are unit vectors are the normal, three
    that lie in 0..1 or are whole numbers in 0..255 (or, of six columns, in 0..65535) are the colour, and one that
    follows the position and is neither is the intensity. What remains is called column_4, column_5, ... as counted
    from 1. Raises UnusableCloud for less than three columns.
    """
    if table.dtype.kind not in "iufb":
        raise UnusableCloud(f"The points must be numbers; the array holds {table.dtype}.")
    if names is not None:
        return name_columns(table, names)
    if table.shape[1] < 3:
        raise UnusableCloud(f"A point needs x, y and z; the points have {table.shape[1]} value(s).")
    if table.shape[1] == 3:
        return name_columns(table, _POSITION)
    if table.shape[1] > MOST_GUESSED:
        raise UnusableCloud(
            f"The points have {table.shape[1]} values without names; at most {MOST_GUESSED} are guessed. "
            "Name the columns (columns=x,y,z,...), or is this no point cloud?"
        )
    guessed = [*_POSITION, *_guess_rest(table)]
    notes.append(f"The {len(guessed)} columns are not named; they were taken as {', '.join(guessed)}.")
    return name_columns(table, guessed)


def _guess_rest(table: NDArray[Any]) -> list[str]:
    """Return the names of the columns behind the position."""
    count = table.shape[1]
    guessed: list[str] = []
    index = 3
    while index < count:
        group = table[:, index : index + 3]
        if index + 3 <= count and "nx" not in guessed and is_normal(group):
            guessed += _NORMAL
            index += 3
        elif index + 3 <= count and "red" not in guessed and is_color(group, wide=count == 6):
            guessed += _COLOR
            index += 3
        else:
            guessed.append("intensity" if index == 3 else f"column_{index + 1}")
            index += 1
    return guessed


def is_normal(group: NDArray[Any]) -> bool:
    """Whether nine rows of ten of (N, 3) have the length 1, zeros and NaN not counted, and some are there."""
    if group.dtype.kind != "f":
        return False
    with np.errstate(over="ignore", invalid="ignore"):
        length = np.sqrt(np.square(group, dtype=np.float64).sum(axis=1))
    length = length[np.isfinite(length) & (length > 0)]
    return len(length) > 0 and bool((np.abs(length - 1) < 0.02).mean() > 0.9)


def is_color(group: NDArray[Any], *, wide: bool) -> bool:
    """Whether (N, 3) can be colours: fractions in 0..1, whole numbers in 0..255 or, if `wide`, in 0..65535."""
    finite = group[np.isfinite(group).all(axis=1)] if group.dtype.kind == "f" else group
    if len(finite) == 0 or finite.min() < 0:
        return False
    high = finite.max()
    whole = group.dtype.kind != "f" or bool((finite == np.rint(finite)).all())
    return bool((high <= 1 and not whole) or (1 < high <= (65535 if wide else 255) and whole))
