"""A PointCloud becomes a model's input."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from service.errors import UnusableCloud
from service.transforms import features, grid, normals, scale, support, tiles
from service.transforms.recipe import Recipe
from service.transforms.threads import one_thread
from service.values import PointCloud


@dataclass(frozen=True)
class Tile:
    """One pass through the network.

    Attributes:
        coord: (m, 3) float32 metres, about the tile's centre.
        grid_coord: (m, 3) int32 cells, from 0 to `align` above it.
        feat: (m, F) float32, the network's inputs.
        cells: which voxels of the cloud these are, and the weight of their votes.
    """

    coord: torch.Tensor
    grid_coord: torch.Tensor
    feat: torch.Tensor
    cells: tiles.Cells


@dataclass(frozen=True)
class Prepared:
    """A cloud made ready, and what it takes to bring a model's answer back to its points.

    Attributes:
        tiles: the passes; one for most clouds.
        points: points of the cloud, N.
        valid: (N,) bool, or None when all points are valid.
        inverse: (n,) int64, the voxel of each valid point.
        voxels: number of voxels of the cloud.
        warnings: sentences for the user, the cloud's own notes first.
    """

    tiles: tuple[Tile, ...]
    points: int
    valid: NDArray[np.bool_] | None
    inverse: torch.Tensor
    voxels: int
    warnings: tuple[str, ...]


@one_thread()
def prepare(cloud: PointCloud, recipe: Recipe, device: torch.device) -> Prepared:
    """Turn a cloud into the input that the recipe describes.

    Args:
        cloud: N points; rows with NaN or infinite coordinates are set aside.
        recipe: the model's.
        device: where the tensors are wanted.

    Raises:
        UnusableCloud: no valid point, a cloud too wide for the grid, or a feature that the cloud lacks.
    """
    valid = np.isfinite(cloud.coord).all(axis=1)
    count = int(np.count_nonzero(valid))
    if len(cloud) == 0:
        raise UnusableCloud("The cloud has no points.")
    if count == 0:
        raise UnusableCloud(f"The cloud has no valid point: each of its {len(cloud)} points has a NaN or an infinity.")
    kept = None if count == len(cloud) else valid
    _require(cloud, recipe)
    warnings = list(cloud.notes)
    if kept is not None:
        warnings.append(f"{len(cloud) - count} of {len(cloud)} points have a NaN or an infinity and got no label.")
    coord, warning = scale.to_metres(_tensor(cloud.coord, kept, device), recipe.max_extent_m)
    if warning:
        warnings.append(warning)
    # Far from zero float32 holds only centimetres: the origin is removed while there are 64 bits.
    coord = coord - grid.bounds(coord)[0]
    ground = 0.0
    try:
        if recipe.level:
            coord, ground = _level(coord, recipe.grid_size)
        cells = grid.sample(coord, recipe.grid_size, torch.zeros_like(coord[0]))
    except ValueError as error:
        raise UnusableCloud(f"{error} Are the coordinates in metres, and is there no stray point?") from error
    voxels = _reduce(cloud, coord, cells, kept, recipe, warnings, ground)
    parts = tiles.split(cells.grid_coord, recipe.max_voxels, recipe.overlap)
    made = tuple(_tile(voxels, part, len(parts) == 1, recipe) for part in parts)
    return Prepared(made, len(cloud), kept, cells.inverse, len(cells), tuple(warnings))


def _level(coord: torch.Tensor, grid_size: float) -> tuple[torch.Tensor, float]:
    """Return the cloud laid level, from its lowest corner on, and the height of its support plane there.

    The corner is lowered by less than a cell, so that the plane runs through the middle of a layer of cells: its noise
    then seldom leaves the layer.
    """
    coord = support.level(coord, support.find(coord))
    low = grid.bounds(coord)[0]
    low[2] = (torch.floor(low[2] / grid_size + 0.5) - 0.5) * grid_size
    return coord - low, -float(low[2])


def _require(cloud: PointCloud, recipe: Recipe) -> None:
    """Refuse a cloud that lacks a feature which cannot be computed."""
    if cloud.color is None and {"color", "color_signed"} & set(recipe.features):
        raise UnusableCloud("The model needs colours (red, green, blue) and the cloud has none.")
    if cloud.intensity is None and "intensity" in recipe.features:
        raise UnusableCloud("The model needs the field intensity and the cloud has none.")


def _tensor(array: NDArray[np.generic], kept: NDArray[np.bool_] | None, device: torch.device) -> torch.Tensor:
    """Return the valid rows of an array on the device."""
    rows = np.ascontiguousarray(array) if kept is None else array[kept]
    # Arrays that arrive through shared memory are read-only, which torch cannot express; a copy is ours to change.
    return torch.from_numpy(rows if rows.flags.writeable else rows.copy()).to(device)


def _reduce(
    cloud: PointCloud,
    coord: torch.Tensor,
    cells: grid.Grid,
    kept: NDArray[np.bool_] | None,
    recipe: Recipe,
    warnings: list[str],
    ground: float,
) -> features.Voxels:
    """Return one representative for each voxel, with what the recipe's features need of it."""
    wanted = set(recipe.features)
    chosen = grid.nearest(coord, cells) if recipe.reduce == "nearest" else None

    def represent(values: torch.Tensor) -> torch.Tensor:
        return grid.mean(values, cells) if chosen is None else values.index_select(0, chosen)

    def finite(values: torch.Tensor, name: str) -> torch.Tensor:
        bad = ~torch.isfinite(values).all(dim=1)
        if not bool(bad.any()):
            return values
        warnings.append(f"The {name} of {int(bad.sum())} points is not a finite number and was taken as 0.")
        return values.masked_fill(bad.unsqueeze(1), 0)

    device, color, normal, intensity = coord.device, None, None, None
    middle = represent(coord)
    if {"color", "color_signed"} & wanted and cloud.color is not None:
        color = represent(_tensor(cloud.color, kept, device).float())
    if "normal" in wanted:
        if cloud.normal is None:
            normal = normals.estimate(middle)
            warnings.append("The cloud has no normals, which the model needs: they were computed.")
        else:
            normal = represent(finite(_tensor(cloud.normal, kept, device), "normal"))
            normal = torch.nn.functional.normalize(normal, dim=1)
    if "intensity" in wanted and cloud.intensity is not None:
        values = finite(_tensor(cloud.intensity, kept, device).unsqueeze(1), "intensity")
        intensity = represent(values / _full_scale(values)).squeeze(1)
    return features.Voxels(middle, cells.grid_coord, color, normal, intensity, ground)


def _full_scale(intensity: torch.Tensor) -> float:
    """Return the value that means full intensity: 1, 255 or 65535, whichever the cloud's largest value fits."""
    largest = float(intensity.max())
    return 1.0 if largest <= 1 else 255.0 if largest <= 255 else max(65535.0, largest)


def _tile(voxels: features.Voxels, cells: tiles.Cells, whole: bool, recipe: Recipe) -> Tile:
    """Return a tile as the network wants it; a tile is centred by itself, as the crops of training are."""
    part = voxels if whole else voxels.rows(cells.rows)
    low = grid.bounds(part.grid_coord)[0]
    low = torch.div(low, recipe.align, rounding_mode="floor") * recipe.align
    coord = features.centre(part.coord, recipe.centre)
    feat = features.build(part, recipe.features, coord, recipe.grid_size)
    return Tile(coord, part.grid_coord - low, feat, cells)
