"""The test-time procedure's input: a cloud under each augmentation, in fragments that together hold every point.

After Pointcept's tester (pointcept/engines/test.py and GridSample of mode "test" in pointcept/datasets/transform.py).
There the order of a cell's points is whatever an unstable sort leaves; here it is the order of the file.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import torch

from service.transforms import features, grid, points, tiles
from service.transforms.augment import Augmentation
from service.transforms.points import Points
from service.transforms.prepare import Prepared, made_normals, occupied, place, reduce
from service.transforms.recipe import Recipe
from service.transforms.threads import one_thread
from service.values import PointCloud

MAX_FRAGMENTS = 256
"""Most points in a voxel that all take part: without a limit, a cloud of one crowded voxel costs a pass a point."""
_THINNER = 4


@dataclass(frozen=True)
class Look:
    """A cloud under one augmentation.

    Attributes:
        recipe: of the model.
        points: the n points as the augmentation leaves them.
        cells: the M cells in which they lie.
        corner: (3,) float64 where the grid begins.
        means: what stands for the voxels, where that is the mean of their points.
        fragments: how many there are: as many as the fullest cell has points, or one where voxels are means.
        parts: the tiles; each fragment has the same cells in them.
    """

    recipe: Recipe
    points: Points
    cells: grid.Grid
    corner: torch.Tensor
    fragments: int
    parts: tuple[tiles.Cells, ...]
    means: features.Voxels | None

    def rows(self, fragment: int) -> torch.Tensor:
        """Return the (M,) points of a fragment, one for each cell: those of a cell with fewer come again."""
        return self.cells.order[self._first + fragment % self.cells.count]

    @cached_property
    def _first(self) -> torch.Tensor:
        return self.cells.first

    @one_thread()
    def grid_coord(self, part: tiles.Cells) -> torch.Tensor:
        """Return the (m, 3) int32 cells of a tile, from 0 to `align` above it."""
        cells = self.cells.grid_coord[part.rows]
        low = torch.div(grid.bounds(cells)[0], self.recipe.align, rounding_mode="floor") * self.recipe.align
        return cells - low

    @one_thread()
    def input(self, part: tiles.Cells, fragment: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the (m, 3) float32 coordinates and the (m, F) float32 features of a tile of a fragment."""
        if self.means is not None:
            voxels = self.means.rows(part.rows)
        else:
            seen = self.points.rows(self.rows(fragment)[part.rows])
            cells = self.cells.grid_coord[part.rows]
            voxels = features.Voxels(seen.coord, cells, seen.color, seen.normal, seen.intensity, seen.ground)
        coord, normal = place(voxels.coord, voxels.normal, self.recipe)
        # Features measure from the corner of the grid on.
        voxels = dataclasses.replace(voxels, coord=voxels.coord - self.corner, normal=normal)
        return coord, features.build(voxels, self.recipe.features, coord, self.recipe.grid_size)

    @one_thread()
    def vote(self, votes: torch.Tensor, part: tiles.Cells, fragment: int, probabilities: torch.Tensor) -> None:
        """Add a tile's (m, C) probabilities to the (n, C) votes of the points that it was seen by."""
        ballot = probabilities * part.weight.unsqueeze(1)
        if self.means is None:
            # The rows are distinct, so the order of these sums is fixed on every device.
            votes.index_add_(0, self.rows(fragment)[part.rows], ballot)
            return
        whole = votes.new_zeros(len(self.cells), votes.shape[1]).index_copy_(0, part.rows, ballot)
        votes.add_(whole[self.cells.inverse])


@dataclass(frozen=True)
class Scene:
    """A cloud that waits for the test-time procedure.

    Attributes:
        points: the n points that take part, about the zero of the augmentations: where the recipe's `before` puts it,
            else the middle of the cloud's box in x and y, and its bottom in z.
        prepared: what it takes to bring their labels back to the cloud's points; it has no tiles.
    """

    recipe: Recipe
    points: Points
    prepared: Prepared

    def looks(self) -> Iterator[Look]:
        """Yield the cloud under each of the recipe's augmentations; one at a time is kept.

        Raises:
            UnusableCloud: under an augmentation it is too wide for the grid.
        """
        for augmentation in self.recipe.augmentations:
            yield self._look(augmentation)

    @one_thread()
    def _look(self, augmentation: Augmentation) -> Look:
        recipe = self.recipe
        coord, normal = augmentation.apply(self.points.coord, self.points.normal)
        floor, _ = augmentation.apply(coord.new_tensor([[0.0, 0.0, self.points.ground]]))
        ground = float(floor[0, 2])
        if recipe.before is None:
            # In z from a whole cell on: the ground of a levelled cloud stays in the middle of its layer.
            low = grid.bounds(coord)[0]
            low[2] = torch.floor(low[2] / recipe.grid_size) * recipe.grid_size
            coord, ground = coord - low, ground - float(low[2])
        cells, corner = occupied(coord, recipe, recipe.grid_size)
        moved = dataclasses.replace(self.points, coord=coord, normal=normal, ground=ground)
        parts = tuple(tiles.split(cells.grid_coord, recipe.max_voxels, recipe.overlap))
        if recipe.reduce == "mean":
            return Look(recipe, moved, cells, corner, 1, parts, reduce(moved, cells, recipe, []))
        return Look(recipe, moved, cells, corner, int(cells.count.max()), parts, None)


@one_thread()
def scene(cloud: PointCloud, recipe: Recipe, device: torch.device) -> Scene:
    """Return a cloud ready for the test-time procedure.

    Args:
        cloud: N points.
        recipe: with augmentations.
        device: where the tensors are wanted.

    Raises:
        UnusableCloud: as `prepare` raises it.
    """
    part = points.read(cloud, recipe, device)
    warnings = list(part.warnings)
    cells, _ = occupied(part.coord, recipe, recipe.grid_size)
    if part.normal is None and "normal" in recipe.features:
        middle = part.coord[grid.nearest(part.coord, cells)]
        found = made_normals(middle, recipe)
        part = dataclasses.replace(part, normal=found[cells.inverse])
        warnings.append("The cloud has no normals, which the model needs: they were computed.")
    thin_size, fullest = recipe.thin_size, int(cells.count.max())
    if thin_size is None and recipe.reduce == "nearest" and fullest > MAX_FRAGMENTS:
        thin_size = recipe.grid_size / _THINNER
        warnings.append(
            f"A voxel has {fullest} points: one point for each cell of {thin_size:g} m took part in the test-time "
            "procedure, and the others got its label."
        )
    inverse = torch.arange(len(part), device=device)
    if thin_size is not None:
        fine, _ = occupied(part.coord, recipe, thin_size)
        part, inverse = part.rows(grid.nearest(part.coord, fine)), fine.inverse
    if recipe.before is None:
        low, high = grid.bounds(part.coord)
        part = dataclasses.replace(part, coord=part.coord - (low + high) / 2 * low.new_tensor([1.0, 1.0, 0.0]))
    prepared = Prepared(
        (), len(cloud), part.valid, inverse, len(part), tuple(warnings), metres_per_unit=part.metres_per_unit
    )
    return Scene(recipe, part, prepared)
