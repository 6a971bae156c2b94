"""A batch of clouds: rows one after another, and where each cloud ends."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol, TypeVar

import torch

T = TypeVar("T")


class Rows(Protocol):
    """One cloud's voxels, as a transform makes them."""

    @property
    def coord(self) -> torch.Tensor:
        """(m, 3) float32."""

    @property
    def grid_coord(self) -> torch.Tensor:
        """(m, 3) int32."""

    @property
    def feat(self) -> torch.Tensor:
        """(m, F) float32."""

    @property
    def superpoint(self) -> torch.Tensor | None:
        """(m,) int64, or None."""


@dataclass(frozen=True)
class Batch:
    """Voxels of one or more clouds, concatenated.

    Attributes:
        coord: (M, 3) float32 metres, after centring.
        grid_coord: (M, 3) int32 cells, from 0 in each cloud; each cell once in a cloud.
        feat: (M, F) float32 or float16, the network's inputs.
        offset: (B,) int64, cumulative row counts: cloud i is rows offset[i - 1] to offset[i].
        made: what `once` has made.
        condition: the dataset whose norms and head shall be used, where a network was trained for several.
        context: (1, K) float, what such a network has learnt of that dataset; the network itself fills it in.
        superpoint: (M,) int64, which superpoint of its cloud a row is of, each cloud's from 0 on and none left out;
            None where the network does not ask for them.
    """

    coord: torch.Tensor
    grid_coord: torch.Tensor
    feat: torch.Tensor
    offset: torch.Tensor
    made: dict[Hashable, Any] = field(default_factory=dict, repr=False, compare=False)
    condition: str | None = None
    context: torch.Tensor | None = None
    superpoint: torch.Tensor | None = None

    def once(self, key: Hashable, make: Callable[[], T]) -> T:
        """Return what `make` returns, which is called once for all batches of the same cells; see `with_features`.

        Args:
            key: of the maker's own; a module may take itself.
            make: makes what follows from `grid_coord` and `offset` alone: kernel maps, orders, the grid's extent.
        """
        if key not in self.made:
            self.made[key] = make()
        found: T = self.made[key]
        return found

    def with_features(self, coord: torch.Tensor, feat: torch.Tensor) -> Batch:
        """Return a batch of the same cells with other points in them; what `once` made serves both."""
        return replace(self, coord=coord, feat=feat)

    def __len__(self) -> int:
        """Number of clouds."""
        return len(self.offset)

    @property
    def sizes(self) -> list[int]:
        """Rows of each cloud."""
        ends = self.offset.tolist()
        return [end - start for start, end in zip([0, *ends], ends, strict=False)]

    @property
    def cloud(self) -> torch.Tensor:
        """(M,) int64, the cloud of each row."""
        sizes = torch.diff(self.offset, prepend=self.offset.new_zeros(1))
        rows = len(self.grid_coord)
        return torch.repeat_interleave(torch.arange(len(sizes), device=sizes.device), sizes, output_size=rows)

    def to(self, device: torch.device, dtype: torch.dtype | None = None) -> Batch:
        """Return the batch on a device, with features in a precision."""
        moved = {name: getattr(self, name).to(device) for name in ("coord", "grid_coord", "offset")}
        superpoint = None if self.superpoint is None else self.superpoint.to(device)
        context = None if self.context is None else self.context.to(device, dtype)
        feat = self.feat.to(device, dtype)
        return replace(self, feat=feat, made={}, context=context, superpoint=superpoint, **moved)


def means(rows: torch.Tensor, sizes: Sequence[int]) -> torch.Tensor:
    """Return (B, C): the mean of (M, C) rows over each cloud, of whose rows there are `sizes`; summed in float32."""
    return torch.stack([part.float().mean(dim=0) for part in rows.split(list(sizes))]).to(rows.dtype)


def collate(tiles: Sequence[Rows]) -> Batch:
    """Put clouds one after another; none is padded and none changes."""
    sizes = torch.tensor([len(tile.coord) for tile in tiles], dtype=torch.int64)
    superpoints = [tile.superpoint for tile in tiles if tile.superpoint is not None]
    return Batch(
        torch.cat([tile.coord for tile in tiles]),
        torch.cat([tile.grid_coord for tile in tiles]),
        torch.cat([tile.feat for tile in tiles]),
        torch.cumsum(sizes, dim=0).to(tiles[0].coord.device),
        superpoint=torch.cat(superpoints) if superpoints else None,
    )
