"""Names and colours that data sets give their classes.

Colours are those of each data set's own tools: ScanNet's benchmark (NYU40's palette, which Structured3D shares),
ScanNet200's, PointNet's for S3DIS, nuScenes' devkit, SemanticKITTI's configuration. Waymo publishes none: its classes
have those of SemanticKITTI where they mean the same thing, and others of their own.
"""

from __future__ import annotations

import colorsys
import json
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

from service.values import ClassInfo

Color = tuple[int, int, int]

_SHARE = 0.75
"""Part of a model's classes that a data set must know by name for its colours to be used."""


@lru_cache(maxsize=1)
def _tables() -> dict[str, dict[str, Color]]:
    stored = json.loads((Path(__file__).parent / "conventions.json").read_text(encoding="utf-8"))
    return {dataset: {name: (r, g, b) for name, (r, g, b) in rows} for dataset, rows in stored.items()}


def names(dataset: str) -> tuple[str, ...]:
    """Return the names of a data set's classes in their order; `dataset` is a key of conventions.json."""
    return tuple(_tables()[dataset])


def of_dataset(kind: str) -> tuple[str, ...] | None:
    """Return the class names of a data set by its type in Pointcept ("ScanNetDataset"), or None when not known."""
    bare = _bare(kind.removesuffix("Dataset"))
    return next((names(dataset) for dataset in _tables() if _bare(dataset) == bare), None)


def classes(labels: Sequence[str]) -> tuple[ClassInfo, ...]:
    """Return classes 0, 1, ... of these names, in the colours of the data set that knows most of them.

    A class that it does not know, or each class where no data set knows three quarters of them, gets a colour of its
    own from a palette.
    """
    bare = [_bare(label) for label in labels]
    best: dict[str, Color] = {}
    for table in _tables().values():
        known = {_bare(name): color for name, color in table.items()}
        if sum(label in known for label in bare) > sum(label in best for label in bare):
            best = known
    if sum(label in best for label in bare) < _SHARE * len(bare):
        best = {}
    return tuple(ClassInfo(index, label, best.get(_bare(label), _color(index))) for index, label in enumerate(labels))


def _bare(name: str) -> str:
    """Return a name without case, spaces and the misspelling that ScanNet's configurations are known for."""
    letters = "".join(character for character in name.lower() if character.isalnum())
    return letters.replace("refridgerator", "refrigerator")


def _color(index: int) -> Color:
    """Return a colour for any index: hues a golden angle apart, so that neighbours differ."""
    red, green, blue = colorsys.hsv_to_rgb(
        (0.58 + index * 0.618034) % 1, (0.75, 0.5, 0.95)[index % 3], (0.85, 0.95, 0.65)[index // 3 % 3]
    )
    return round(red * 255), round(green * 255), round(blue * 255)
