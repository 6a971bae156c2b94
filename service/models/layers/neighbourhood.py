"""Points and those nearest to them: what Point Transformer V1 and V2 attend to. By libs/pointops."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import pointops
import torch

from service.models.batch import Batch

_MOST_NUMBERS = {"cpu": 1 << 20}
"""Numbers of one part of a layer's (points, neighbours, channels) tensors: on a CPU they stay in its caches."""
_MOST_NUMBERS_ELSEWHERE = 1 << 27


@dataclass(frozen=True)
class Neighbours:
    """The k nearest of some points around other ones, always of the same cloud.

    Attributes:
        index: (M, k) int32 rows of the points; 0 where the cloud has fewer than k.
        position: (M, k, 3) float32 metres from the centre to the point; 0 where there is none.
        present: (M, k, 1) bool, whether there is one; None: all are there.
    """

    index: torch.Tensor
    position: torch.Tensor
    present: torch.Tensor | None

    def parts(self, channels: int) -> Iterator[slice]:
        """Yield rows of the centres, as many at a time as have few enough numbers with so many channels."""
        centres, k = self.index.shape
        most = max(1, _MOST_NUMBERS.get(self.index.device.type, _MOST_NUMBERS_ELSEWHERE) // (k * channels))
        for start in range(0, centres, most):
            yield slice(start, min(start + most, centres))

    def gather(self, feat: torch.Tensor, rows: slice) -> torch.Tensor:
        """Return (m, k, C): of (N, C) features those of the neighbours of some centres; 0 where there is none."""
        index = self.index[rows]
        found = feat.index_select(0, index.reshape(-1)).view(*index.shape, -1)
        return found if self.present is None else found * self.present[rows]


@dataclass(frozen=True)
class Points:
    """The points of one level of a network.

    Attributes:
        coord: (M, 3) float32 metres.
        offset: (B,) int64, cumulative counts.
        sizes: points of each cloud, 1 and more.
    """

    coord: torch.Tensor
    offset: torch.Tensor
    sizes: list[int]
    _around: dict[int, Neighbours] = field(default_factory=dict, repr=False, compare=False)

    @classmethod
    def of(cls, batch: Batch) -> Points:
        """Return the points of a batch.

        Raises:
            ValueError: a cloud has none.
        """
        sizes = batch.sizes
        if min(sizes, default=0) < 1:
            raise ValueError("A cloud without points has no neighbours.")
        return cls(batch.coord.float().contiguous(), batch.offset, sizes)

    @property
    def cloud(self) -> torch.Tensor:
        """(M,) int64, the cloud of each point."""
        counts = torch.diff(self.offset, prepend=self.offset.new_zeros(1))
        clouds = torch.arange(len(self.sizes), device=self.offset.device)
        return torch.repeat_interleave(clouds, counts, output_size=len(self.coord))

    def around(self, k: int) -> Neighbours:
        """Return the k nearest points of each point, itself among them; layers with the same k share them."""
        if k not in self._around:
            self._around[k] = self.around_others(k, self)
        return self._around[k]

    def around_others(self, k: int, centres: Points) -> Neighbours:
        """Return the k nearest of these points around each of others."""
        index, _ = pointops.knn_query(k, self.coord, self.offset, centres.coord, centres.offset)
        whole = min(self.sizes) >= k
        present = None if whole else (index >= 0).unsqueeze(2)
        if not whole:
            index = index.clamp_(min=0)
        position = self.coord.index_select(0, index.view(-1)).view(*index.shape, 3) - centres.coord.unsqueeze(1)
        return Neighbours(index, position if present is None else position * present, present)

    def interpolate(self, feat: torch.Tensor, targets: Points) -> torch.Tensor:
        """Return (M', C): the mean of these points' (M, C) features over the three nearest, by inverse distance."""
        found = pointops.interpolation(
            self.coord, targets.coord, feat.float().contiguous(), self.offset, targets.offset
        )
        return found.to(feat.dtype)

    def sample(self, sizes: Sequence[int]) -> Points:
        """Return so many points of each cloud, each the farthest from those before it."""
        offset = torch.tensor(sizes, device=self.offset.device).cumsum(dim=0)
        chosen = pointops.farthest_point_sampling(self.coord, self.offset, offset)
        return Points(self.coord.index_select(0, chosen), offset, list(sizes))


@dataclass(frozen=True)
class Cells:
    """Points shared out to the cells of a grid.

    Attributes:
        points: the means of the cells' points.
        cluster: (M,) int64, the cell of each point.
        order: (M,) int64, the points cell by cell.
        counts: (M',) int64, points of each cell.
    """

    points: Points
    cluster: torch.Tensor
    order: torch.Tensor
    counts: torch.Tensor

    def largest(self, feat: torch.Tensor) -> torch.Tensor:
        """Return (M', C), the largest of (M, C) features in each cell."""
        rows = feat.index_select(0, self.order)
        return torch.segment_reduce(rows, "max", lengths=self.counts, axis=0, unsafe=True)


def share_out(points: Points, size: float) -> Cells:
    """Share points out to cells of `size` metres that begin at each cloud's lowest corner.

    Cells stand in the order of (cloud, z, y, x).

    Raises:
        ValueError: more cells than 64 bits can number.
    """
    coord, cloud = points.coord, points.cloud
    low = torch.stack([part.amin(dim=0) for part in coord.split(points.sizes)])
    # By a tensor: by a number, CUDA would multiply with its inverse, and the last bit may choose the cell.
    cell = torch.div(coord - low.index_select(0, cloud), coord.new_tensor(size)).long()
    x, y, z = (cell.amax(dim=0) + 1).tolist()
    if x * y * z * len(points.sizes) >= 1 << 63:
        raise ValueError(f"The clouds span {x} x {y} x {z} cells of {size} m, more than can be numbered.")
    key = ((cloud * z + cell[:, 2]) * y + cell[:, 1]) * x + cell[:, 0]
    keys, cluster, counts = torch.unique(key, return_inverse=True, return_counts=True)
    order = torch.argsort(cluster, stable=True)
    mean = torch.segment_reduce(coord.index_select(0, order), "mean", lengths=counts, axis=0, unsafe=True)
    of_cloud = torch.bincount(torch.div(keys, x * y * z, rounding_mode="floor"), minlength=len(points.sizes))
    return Cells(Points(mean, of_cloud.cumsum(dim=0), of_cloud.tolist()), cluster, order, counts)
