"""Augmentations do what Pointcept's transforms of the same names do, and refuse what chance decides."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from service.transforms import Recipe
from service.transforms.augment import Augmentation

Z: dict[str, Any] = {"type": "RandomRotateTargetAngle", "axis": "z", "center": [0, 0, 0], "p": 1}
CONFIGURED: list[list[dict[str, Any]]] = [
    *[[{**Z, "angle": [angle]}] for angle in (0, 0.5, 1, 1.5)],
    *[[{**Z, "angle": [angle]}, {"type": "RandomScale", "scale": [s, s]}] for angle in (0, 1.5) for s in (0.95, 1.05)],
    [{"type": "RandomScale", "scale": [0.9, 0.9]}],
    [{"type": "RandomScale", "scale": [1.1, 1.1]}, {"type": "RandomFlip", "p": 1}],
    [{"type": "RandomScale", "scale": [0.8, 0.8], "anisotropic": True}],
    [{**Z, "angle": [0.3], "axis": "x", "center": None}, {**Z, "angle": [0.7], "axis": "y", "center": [1, 2, 3]}],
    [{"type": "RandomFlip", "p": 0}, {**Z, "angle": [0.1, 0.9], "p": 0}],
    [{"type": "RandomRotateTargetAngle", "angle": [1.25], "always_apply": True}],
]
"""The first three kinds stand in Pointcept's own configurations."""


def theirs(
    entry: list[dict[str, Any]], coord: NDArray[np.float64], normal: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Do what an entry means, written after the description of the transforms and not after our code."""
    for step in entry:
        if step["type"] == "RandomScale":
            coord = coord * step["scale"][0]
        elif step["type"] == "RandomFlip":
            if step["p"] == 1:
                coord, normal = coord * [-1, -1, 1], normal * [-1, -1, 1]
        elif step.get("p", 1) == 1:
            angle, axis = step["angle"][0] * np.pi, "xyz".index(step.get("axis", "z"))
            first, second = (axis + 1) % 3, (axis + 2) % 3
            turn = np.eye(3)
            turn[first, first] = turn[second, second] = np.cos(angle)
            turn[first, second], turn[second, first] = -np.sin(angle), np.sin(angle)
            box = (coord.min(axis=0) + coord.max(axis=0)) / 2
            center = box if step.get("center") is None else np.array(step["center"])
            coord, normal = (coord - center) @ turn.T + center, normal @ turn.T
    return coord, normal


@pytest.mark.parametrize("entry", CONFIGURED, ids=str)
def test_each_does_what_its_entry_says(entry: list[dict[str, Any]]) -> None:
    random = np.random.default_rng(0)
    coord, normal = random.normal(size=(500, 3)) * 4, random.normal(size=(500, 3))
    before = coord.copy(), normal.copy()
    augmentation = Augmentation.from_config(entry)
    moved, turned = augmentation.apply(torch.from_numpy(coord), torch.from_numpy(normal))
    assert turned is not None
    wanted = theirs(entry, coord, normal)
    np.testing.assert_allclose(moved.numpy(), wanted[0], atol=1e-12)
    np.testing.assert_allclose(turned.numpy(), wanted[1], atol=1e-12)
    assert all(np.array_equal(old, now) for old, now in zip(before, (coord, normal), strict=True))
    assert augmentation.apply(torch.from_numpy(coord))[1] is None
    assert Augmentation.from_config(json.loads(json.dumps(augmentation.to_list()))) == augmentation


@pytest.mark.parametrize(
    ("entry", "sentence"),
    [
        ([{"type": "RandomJitter"}], "'RandomJitter' is not supported; there are: RandomRotateTargetAngle, "),
        ([{"type": "RandomScale", "scale": [0.8, 1.2], "anisotropic": True}], "RandomScale draws its factor"),
        ([{"type": "RandomScale"}], r"RandomScale draws its factor from \[0.95, 1.05\]"),
        ([{"type": "RandomScale", "scale": [0, 0]}], "factor 0; it must be positive"),
        ([{"type": "RandomScale", "scale": 2}], "scale = 2; it must be a list of numbers"),
        ([{"type": "RandomScale", "scale": [float("nan")] * 2}], "must be a list of numbers"),
        ([{"type": "RandomScale", "scale": [1, 1], "p": 1}], "RandomScale has the unknown argument 'p'"),
        ([{"type": "RandomFlip"}], "RandomFlip happens with p = 0.5"),
        ([{"type": "RandomFlip", "p": "1"}], "RandomFlip happens with p = '1'"),
        ([{**Z, "angle": [0, 1]}], r"chooses among the angles \[0.0, 1.0\]"),
        ([{"type": "RandomRotateTargetAngle", "angle": [1]}], "happens with p = 0.75"),
        ([{**Z, "angle": [1], "axis": "w"}], "axis 'w'; it must be x, y or z"),
        ([{**Z, "angle": [1], "center": [0, 0]}], "must be three numbers"),
        ([{**Z, "angle": []}], "must be a list of numbers"),
        (["RandomFlip"], "must be a dict with a type"),
        ({"type": "RandomFlip", "p": 1}, "must be a list of transforms"),
    ],
)
def test_what_chance_decides_is_refused_by_name(entry: Any, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        Augmentation.from_config(entry)


def test_a_recipe_carries_them() -> None:
    entries = CONFIGURED[:6]
    recipe = Recipe(0.02, ("coord",), augmentations=tuple(map(Augmentation.from_config, entries)), thin_size=0.01)
    again = Recipe.from_dict(json.loads(json.dumps(recipe.to_dict())))
    assert again == recipe
    assert len(again.augmentations) == 6
    assert Recipe.from_dict({"grid_size": 1, "features": ["ones"]}).augmentations == ()
    with pytest.raises(ValueError, match="thin_size is 0"):
        Recipe(0.02, ("coord",), thin_size=0)
    with pytest.raises(ValueError, match="RandomFlip happens"):
        Recipe.from_dict({"grid_size": 1, "features": ["ones"], "augmentations": [[{"type": "RandomFlip"}]]})
