"""A PointCloud becomes a model's input."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray

from service.errors import UnusableCloud
from service.transforms import features, grid, normals, points, steps, superpoints, tiles
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
        superpoint: (m,) int64, the superpoint of each, where the recipe asks for them.
    """

    coord: torch.Tensor
    grid_coord: torch.Tensor
    feat: torch.Tensor
    cells: tiles.Cells
    superpoint: torch.Tensor | None = None


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
        coord: (voxels, 3) float64 metres, where the voxels' representatives are; None where there are no tiles.
        metres_per_unit: what the cloud's unit was taken to be.
    """

    tiles: tuple[Tile, ...]
    points: int
    valid: NDArray[np.bool_] | None
    inverse: torch.Tensor
    voxels: int
    warnings: tuple[str, ...]
    coord: torch.Tensor | None = None
    metres_per_unit: float = 1.0


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
    part = points.read(cloud, recipe, device)
    cells, corner = occupied(part.coord, recipe, recipe.grid_size)
    warnings = list(part.warnings)
    voxels = reduce(part, cells, recipe, warnings)
    parts = tiles.split(cells.grid_coord, recipe.max_voxels, recipe.overlap)
    made = tuple(_tile(voxels, part, len(parts) == 1, recipe, corner) for part in parts)
    if recipe.superpoints and len(made) == 1:
        # Of a cloud in tiles nobody asks for them: its objects are not told.
        own = superpoints.of(cloud, part, cells, voxels, lambda: made_normals(voxels.coord, recipe), warnings)
        made = (replace(made[0], superpoint=own),)
    return Prepared(
        made,
        len(cloud),
        part.valid,
        cells.inverse,
        len(cells),
        tuple(warnings),
        voxels.coord,
        part.metres_per_unit,
    )


def occupied(coord: torch.Tensor, recipe: Recipe, grid_size: float) -> tuple[grid.Grid, torch.Tensor]:
    """Return the cells of points as the recipe has them, and the corner (3,) float64 at which they begin.

    Raises:
        UnusableCloud: the cloud is too wide for the grid.
    """
    corner = torch.zeros_like(coord[0])
    try:
        if recipe.before is None:
            return grid.sample(coord, grid_size, corner), corner
        cells, begin = grid.sample_in_phase(coord, grid_size)
    except ValueError as error:
        raise UnusableCloud(f"{error} Are the coordinates in metres, and is there no stray point?") from error
    return cells, begin.double() * grid_size


def made_normals(coord: torch.Tensor, recipe: Recipe) -> torch.Tensor:
    """Return normals (n, 3) float32 of points, on the side on which those are that a model was trained with.

    Raises:
        UnusableCloud: they cannot be computed; see `normals.estimate`.
    """
    found = normals.estimate(coord, viewpoint(coord, recipe))
    return -found if recipe.outward else found


def viewpoint(coord: torch.Tensor, recipe: Recipe) -> torch.Tensor | None:
    """Return where Pointcept's clouds are seen from: a room from its middle, a lidar's from its zero; else None.

    An object is seen from outside: its normals look away from the point that is returned.
    """
    if recipe.before is None:
        return None
    if recipe.outward:
        return coord.mean(dim=0)
    low, high = grid.bounds(coord)
    return (low + high) / 2 if steps.anchored(recipe.before) else torch.zeros_like(low)


def place(coord: torch.Tensor, normal: torch.Tensor | None, recipe: Recipe) -> steps.Moved:
    """Return the coordinates of one pass as the network sees them, (m, 3) float32, and the normals with them."""
    if recipe.before is None:
        return features.centre(coord, recipe.centre), normal
    coord, normal = steps.apply(recipe.after, coord, normal)
    return coord.float(), normal


def reduce(part: points.Points, cells: grid.Grid, recipe: Recipe, warnings: list[str]) -> features.Voxels:
    """Return one representative for each voxel, with what the recipe's features need of it."""
    chosen = grid.nearest(part.coord, cells) if recipe.reduce == "nearest" else None

    def represent(values: torch.Tensor) -> torch.Tensor:
        return grid.mean(values, cells) if chosen is None else values.index_select(0, chosen)

    middle, normal = represent(part.coord), None
    color = None if part.color is None else represent(part.color)
    intensity = None if part.intensity is None else represent(part.intensity.unsqueeze(1)).squeeze(1)
    if part.normal is not None:
        normal = represent(part.normal)
        # A mean is shorter than what it is of; one point's own normal stays as it is.
        normal = torch.nn.functional.normalize(normal, dim=1) if chosen is None else normal
    elif "normal" in recipe.features:
        normal = made_normals(middle, recipe)
        warnings.append("The cloud has no normals, which the model needs: they were computed.")
    return features.Voxels(middle, cells.grid_coord, color, normal, intensity, part.ground)


def _tile(voxels: features.Voxels, cells: tiles.Cells, whole: bool, recipe: Recipe, corner: torch.Tensor) -> Tile:
    """Return a tile as the network wants it; a tile is centred by itself, as the crops of training are."""
    part = voxels if whole else voxels.rows(cells.rows)
    low = grid.bounds(part.grid_coord)[0]
    low = torch.div(low, recipe.align, rounding_mode="floor") * recipe.align
    coord, normal = place(part.coord, part.normal, recipe)
    part = replace(part, coord=part.coord - corner, normal=normal)
    feat = features.build(part, recipe.features, coord, recipe.grid_size)
    return Tile(coord, part.grid_coord - low, feat, cells)
