"""Pointcept's test-time transforms, as a configuration lists them, become a recipe."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from service.models import substitutes
from service.models.substitutes import Substitutes
from service.transforms.augment import Augmentation
from service.transforms.recipe import Recipe
from service.transforms.steps import Step, step

_NOTHING = ("ToTensor", "Copy", "ShufflePoint", "InstanceParser")
"""Transforms that change nothing here: what is true is not carried, and the order of points does not matter."""
_MOVES = (
    "CenterShift",
    "PositiveShift",
    "NormalizeCoord",
    "PointClip",
    "RandomScale",
    "RandomRotateTargetAngle",
    "RandomFlip",
)
_DROPS = {"RandomDropColor": "color", "RandomDropNormal": "normal"}
_BEHIND = "data.test.test_cfg.post_transform"
_WITHOUT_GRID_M = 0.01
"""For networks that read points as they are: fine enough to keep them apart, and coarse enough for a lidar's reach."""
_OTHERS = ("NormalizeColor", "GridSample", "Update", "Collect")


def recipe(config: Mapping[str, Any], signed_colors: bool, width: int | None = None) -> tuple[Recipe, tuple[str, ...]]:
    """Return how clouds become the input of an experiment's model, and sentences about what was left out.

    The transforms are those of `data.test` with its `test_cfg` (before the augmentations, the grid, after it); where
    that is absent, those of `data.val`.

    Args:
        config: the whole configuration.
        signed_colors: whether NormalizeColor means x / 127.5 - 1 (before v1.6.0) or x / 255.
        width: input channels of the network, where they are known. Some configurations were only ever trained and
            validated: where those of `data.test` do not make that many and those of `data.val` do, these are taken.

    Raises:
        ValueError: no transforms, or one that is not supported; the sentence names it and where it stands.
    """
    data = config.get("data")
    if not isinstance(data, Mapping):
        raise ValueError("The configuration has no `data`, which says what the model's input looks like.")
    test, val = data.get("test"), data.get("val")
    if not isinstance(test, Mapping) or not isinstance(test.get("test_cfg"), Mapping):
        return _of_val(val, "data.val", signed_colors) if val else _of_val(test, "data.test", signed_colors)
    behind = test["test_cfg"].get("post_transform")
    if "voxelize" not in test["test_cfg"] and any(entry["type"] == "GridSample" for entry in _list(behind, _BEHIND)):
        return _of_classifier(test, signed_colors)
    found, notes = _of_test(test, signed_colors)
    if width not in (None, found.width) and val:
        other, more = _of_val(val, "data.val", signed_colors)
        if other.width == width:
            said = "The transforms are those of data.val: data.test collects other features than the network reads."
            return other, (said, *more)
    return found, notes


def _of_test(test: Mapping[str, Any], signed_colors: bool) -> tuple[Recipe, tuple[str, ...]]:
    """Return the recipe of `data.test`."""
    reader, testing = _Reader(signed_colors, substitutes.of(test)), test["test_cfg"]
    reader.read_before(test.get("transform"), "data.test.transform")
    grid = testing.get("voxelize")
    if "voxelize" in testing and grid is None:
        grid = {"type": "GridSample", "grid_size": _WITHOUT_GRID_M}
        reader.notes.append(
            f"The configuration has no grid: points in the same {100 * _WITHOUT_GRID_M:g} cm count as one."
        )
    reader.read_grid(grid, "data.test.test_cfg.voxelize")
    reader.read_after(testing.get("post_transform"), _BEHIND)
    reader.read_augmentations(testing.get("aug_transform", ()), "data.test.test_cfg.aug_transform")
    if testing.get("crop"):
        reader.notes.append(
            "The configuration's test_cfg.crop, which cuts large clouds at random places, is not carried out: "
            "clouds of more voxels than one pass can hold are cut into tiles."
        )
    return reader.recipe(), tuple(reader.notes)


def _of_classifier(test: Mapping[str, Any], signed_colors: bool) -> tuple[Recipe, tuple[str, ...]]:
    """Return the recipe of the `data.test` of objects with one class each: its grid is one of the later transforms.

    The votes of Pointcept's tester under augmentations are not offered.
    """
    entries = _list(test.get("transform", ()), "data.test.transform")
    entries += _list(test["test_cfg"]["post_transform"], _BEHIND)
    return _of_val({**test, "transform": entries}, "data.test", signed_colors)


def _of_val(part: Any, where: str, signed_colors: bool) -> tuple[Recipe, tuple[str, ...]]:
    """Return the recipe of a data set whose transforms stand in one list."""
    reader, where = _Reader(signed_colors, substitutes.of(part)), f"{where}.transform"
    entries = _list(part.get("transform") if isinstance(part, Mapping) else None, where)
    at = next((index for index, entry in enumerate(entries) if entry["type"] == "GridSample"), None)
    if at is None:
        raise ValueError(f"The configuration's {where} has no GridSample: the voxel size is unknown.")
    reader.read_before(entries[:at], where)
    reader.read_grid(entries[at], where)
    reader.read_after(entries[at + 1 :], where)
    return reader.recipe(), tuple(reader.notes)


def _list(entries: Any, where: str) -> list[Mapping[str, Any]]:
    if not isinstance(entries, list | tuple) or not all(
        isinstance(entry, Mapping) and isinstance(entry.get("type"), str) for entry in entries
    ):
        raise ValueError(f"The configuration's {where} must be a list of transforms, each a dict with a type.")
    return list(entries)


class _Reader:
    """What has been gathered while a configuration's transforms are gone through in their order."""

    def __init__(self, signed_colors: bool, given: Substitutes) -> None:
        self._signed_colors, self._given = signed_colors, given
        self._before: list[Step] = []
        self._after: list[Step] = []
        self._grid: Mapping[str, Any] | None = None
        self._thin_size: float | None = None
        self._collected: Sequence[str] | None = None
        self._normalised = False
        self._dropped = set(given.zero)
        self._condition: str | None = None
        self._augmentations: tuple[Augmentation, ...] = ()
        self.notes: list[str] = []

    def read_before(self, entries: Any, where: str) -> None:
        """Take the transforms before the grid; a GridSample among them thins the points of the test-time procedure."""
        for entry in _list(entries, where):
            if entry["type"] == "GridSample":
                if self._thin_size is not None:
                    raise ValueError(f"The configuration's {where} has GridSample twice.")
                self._thin_size = _size(entry, where)
            else:
                self._read(entry, where, self._before)

    def read_grid(self, entry: Any, where: str) -> None:
        """Take the grid."""
        if not isinstance(entry, Mapping) or entry.get("type") != "GridSample":
            raise ValueError(f"The configuration's {where} must be a GridSample, not {entry!r:.80}.")
        self._grid = {**entry, "grid_size": _size(entry, where)}

    def read_after(self, entries: Any, where: str) -> None:
        """Take the transforms after the grid."""
        for entry in _list(entries, where):
            self._read(entry, where, self._after)

    def read_augmentations(self, entries: Any, where: str) -> None:
        """Take the test-time augmentations; where chance decides one, the procedure is not offered."""
        try:
            self._augmentations = tuple(Augmentation.from_config(entry) for entry in entries)
        except (ValueError, TypeError) as error:
            self.notes.append(f"The test-time procedure (tta=full) is not offered: {where}: {error}")

    def recipe(self) -> Recipe:
        """Return what the transforms amount to."""
        assert self._grid is not None
        if self._collected is None:
            raise ValueError(
                "The configuration's test transforms have no Collect with feat_keys: the input is unknown."
            )
        return Recipe(
            grid_size=self._grid["grid_size"],
            features=tuple(self._feature(name) for name in self._collected),
            reduce="nearest",
            before=tuple(self._before),
            after=tuple(self._after),
            condition=self._condition,
            augmentations=self._augmentations,
            thin_size=self._thin_size,
            outward=self._given.outward,
            tanh=self._given.tanh,
        )

    def _read(self, entry: Mapping[str, Any], where: str, moves: list[Step]) -> None:
        kind = entry["type"]
        if kind in _NOTHING:
            return
        if kind in _MOVES:
            try:
                moves.extend(step(entry))
            except ValueError as error:
                raise ValueError(f"The configuration's {where}: {error}") from error
        elif kind == "NormalizeColor":
            if self._normalised:
                raise ValueError(f"The configuration's {where} has NormalizeColor a second time.")
            self._normalised = True
        elif kind in _DROPS:
            self._drop(entry, where)
        elif kind in ("Update", "Add"):
            self._update(entry, where)
        elif kind == "Collect":
            self._collect(entry, where)
        else:
            known = ", ".join((*_MOVES, *_OTHERS, *_NOTHING))
            raise ValueError(
                f"The configuration's {where} has the unsupported transform {kind!r:.80}; there are: {known}."
            )

    def _drop(self, entry: Mapping[str, Any], where: str) -> None:
        share, chance = entry.get("drop_ratio", 0.2), entry.get("drop_application_ratio", 0.5)
        if share == 0 or chance == 0:
            return
        if share != 1 or chance != 1:
            raise ValueError(
                f"The configuration's {where} has {entry['type']} by chance, which would decide the labels."
            )
        self._dropped.add(_DROPS[entry["type"]])

    def _update(self, entry: Mapping[str, Any], where: str) -> None:
        values = entry.get("keys_dict") or {}
        unknown = sorted(set(values) - {"condition", "index_valid_keys"})
        if unknown:
            raise ValueError(f"The configuration's {where} sets {', '.join(unknown)}, which is not supported.")
        if "condition" in values:
            self._condition = str(values["condition"])

    def _collect(self, entry: Mapping[str, Any], where: str) -> None:
        keys = entry.get("feat_keys")
        other = sorted(key for key in entry if key.endswith("_keys") and key not in ("feat_keys", "offset_keys"))
        if other:
            raise ValueError(
                f"The configuration's {where} collects {', '.join(other)}, which no supported model reads."
            )
        if isinstance(keys, str):
            keys = (keys,)
        if not isinstance(keys, list | tuple) or not keys:
            raise ValueError(f"The configuration's {where} has a Collect with the feat_keys {keys!r:.80}.")
        self._collected = [str(key) for key in keys]

    def _feature(self, name: str) -> str:
        if name in self._dropped:
            return "blank"
        if name == "color":
            return ("color_signed" if self._signed_colors else "color") if self._normalised else "color_255"
        if name == "strength":
            return "intensity"
        if name == "displacement" and self._grid is not None and not self._grid.get("project_displacement"):
            return "residual"
        if name in ("coord", "normal"):
            return name
        raise ValueError(
            f"The model reads the feature {name!r}; there are: coord, color, normal, strength, displacement."
        )


def _size(entry: Mapping[str, Any], where: str) -> float:
    """Return the edge of a grid's cells."""
    size = entry.get("grid_size", 0.05)
    edges = list(size) if isinstance(size, list | tuple) else [size]
    fine = all(isinstance(edge, int | float) and 0 < edge < math.inf and edge == edges[0] for edge in edges)
    if not edges or not fine:
        raise ValueError(f"The configuration's {where} has the grid_size {size!r:.80}; it must be one positive number.")
    return float(edges[0])
