"""Point Transformer (Zhao et al., ICCV 2021) as Pointcept has it: PointTransformer-Seg and PointTransformer-Cls.

Attention among each point's nearest neighbours; each level keeps a quarter of the points of the one before it, chosen
by farthest point sampling. One thing differs from Pointcept on purpose: a cloud of fewer than four points keeps one,
where there it would keep none and fail.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn
from torch.nn import functional

from service.models.batch import Batch, means
from service.models.layers.fold import fold_linear
from service.models.layers.neighbourhood import Neighbours, Points

PLANES = (32, 64, 128, 256, 512)
STRIDES = (1, 4, 4, 4, 4)
NEIGHBOURS = (8, 16, 16, 16, 16)
DEPTHS = {26: (1, 1, 1, 1, 1), 38: (1, 2, 2, 2, 2), 50: (1, 2, 3, 5, 2)}
"""Blocks of each level, by the number in a network's name."""
_SHARE = 8
"""Channels that share a weight."""


class NeighbourNorm(nn.BatchNorm1d):
    """A batch norm of the features of neighbours."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return (m, k, C) of (m, k, C) features."""
        y: torch.Tensor = super().forward(x.reshape(-1, x.shape[-1])).view_as(x)
        return y


class VectorAttention(nn.Module):
    """Attention to neighbours with a weight for each channel of an eighth of the channels."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        shared = channels // _SHARE
        self.linear_q = nn.Linear(channels, channels)
        self.linear_k = nn.Linear(channels, channels)
        self.linear_v = nn.Linear(channels, channels)
        self.linear_p = nn.Sequential(nn.Linear(3, 3), NeighbourNorm(3), nn.ReLU(), nn.Linear(3, channels))
        self.linear_w = nn.Sequential(
            NeighbourNorm(channels),
            nn.ReLU(),
            nn.Linear(channels, shared),
            NeighbourNorm(shared),
            nn.ReLU(),
            nn.Linear(shared, shared),
        )

    def fold(self) -> None:
        """Fold the norms behind linear layers into these; inference only."""
        for modules, at in ((self.linear_p, 1), (self.linear_w, 3)):
            fold_linear(modules[at - 1], modules[at])
            modules[at] = nn.Identity()

    def forward(self, x: torch.Tensor, near: Neighbours) -> torch.Tensor:
        """Return (M, C) of (M, C) features and the neighbours of their points."""
        query, key, value = self.linear_q(x), self.linear_k(x), self.linear_v(x)
        y = torch.empty_like(query)
        for rows in near.parts(x.shape[1]):
            position = self.linear_p(near.position[rows].to(x.dtype))
            relation = near.gather(key, rows) - query[rows].unsqueeze(1) + position
            weight = torch.softmax(self.linear_w(relation), dim=1)
            # Pointcept's way: what is not there counts as zeros at the centre's own place.
            found = (near.gather(value, rows) + position).unflatten(2, (_SHARE, -1))
            y[rows] = (found * weight.unsqueeze(2)).sum(dim=1).flatten(1)
        return y


class Bottleneck(nn.Module):
    """Attention between two linear layers, beside a shortcut."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.linear1 = nn.Linear(channels, channels, bias=False)
        self.bn1: nn.Module = nn.BatchNorm1d(channels)
        self.transformer = VectorAttention(channels)
        self.bn2: nn.Module = nn.BatchNorm1d(channels)
        self.linear3 = nn.Linear(channels, channels, bias=False)
        self.bn3: nn.Module = nn.BatchNorm1d(channels)

    def fold(self) -> None:
        """Fold the norms behind linear layers into these; inference only."""
        fold_linear(self.linear1, self.bn1)
        fold_linear(self.linear3, self.bn3)
        self.bn1, self.bn3 = nn.Identity(), nn.Identity()
        self.transformer.fold()

    def forward(self, x: torch.Tensor, near: Neighbours) -> torch.Tensor:
        """Return (M, C) of (M, C) features."""
        y = functional.relu(self.bn1(self.linear1(x)))
        y = functional.relu(self.bn2(self.transformer(y, near)))
        return functional.relu(x + self.bn3(self.linear3(y)))


class TransitionDown(nn.Module):
    """To a level of fewer points: the largest of what the points nearest to each of them have."""

    def __init__(self, in_channels: int, channels: int, stride: int, neighbours: int) -> None:
        super().__init__()
        self.stride, self.neighbours = stride, neighbours
        self.linear = nn.Linear(in_channels + (3 if stride > 1 else 0), channels, bias=False)
        self.bn: nn.Module = nn.BatchNorm1d(channels)

    def fold(self) -> None:
        """Fold the norm into the linear layer."""
        fold_linear(self.linear, self.bn)
        self.bn = nn.Identity()

    def forward(self, x: torch.Tensor, points: Points) -> tuple[torch.Tensor, Points]:
        """Return (M', C) features and their points, of (M, in_channels) features and theirs."""
        if self.stride == 1:
            return functional.relu(self.bn(self.linear(x))), points
        fewer = points.sample([max(1, size // self.stride) for size in points.sizes])
        near = points.around_others(self.neighbours, fewer)
        y = x.new_empty(len(fewer.coord), self.linear.out_features)
        for rows in near.parts(self.linear.out_features):
            found = torch.cat([near.position[rows].to(x.dtype), near.gather(x, rows)], dim=2)
            projected = self.bn(self.linear(found).flatten(0, 1)).view(*found.shape[:2], -1)
            y[rows] = functional.relu(projected.amax(dim=1))
        return y, fewer


class TransitionUp(nn.Module):
    """Back to a level of more points; on the last one, which has none behind it, the cloud's mean to each point."""

    def __init__(self, in_channels: int, channels: int | None = None) -> None:
        super().__init__()
        if channels is None:
            self.linear1 = _normed_linear(2 * in_channels, in_channels)
            self.linear2 = nn.Sequential(nn.Linear(in_channels, in_channels), nn.ReLU())
        else:
            self.linear1 = _normed_linear(channels, channels)
            self.linear2 = _normed_linear(in_channels, channels)

    def fold(self) -> None:
        """Fold the norms into the linear layers."""
        for modules in (self.linear1, self.linear2):
            if isinstance(modules[1], nn.BatchNorm1d):
                fold_linear(modules[0], modules[1])
                modules[1] = nn.Identity()

    def spread(self, x: torch.Tensor, points: Points) -> torch.Tensor:
        """Return (M, C): features, each beside what is made of its cloud's mean."""
        mean = self.linear2(means(x, points.sizes))
        y: torch.Tensor = self.linear1(torch.cat([x, mean.index_select(0, points.cloud)], dim=1))
        return y

    def forward(self, x: torch.Tensor, points: Points, skip: torch.Tensor, targets: Points) -> torch.Tensor:
        """Return (M', channels) of the fewer points' (M, in_channels) features and the more points' own."""
        y: torch.Tensor = self.linear1(skip) + points.interpolate(self.linear2(x), targets)
        return y


class Level(nn.Sequential):
    """A transition, and the blocks behind it."""

    def blocks(self, x: torch.Tensor, points: Points, neighbours: int) -> torch.Tensor:
        """Return (M, C) of (M, C) features."""
        for block in list(self)[1:]:
            x = block(x, points.around(neighbours))
        return x


class VectorTransformer(nn.Module):
    """The encoder that both networks begin with, as enc1 to enc5.

    Args:
        depths: blocks of each level.
        in_channels: features of a point.
    """

    def __init__(self, depths: Sequence[int], in_channels: int) -> None:
        super().__init__()
        channels = in_channels
        for i, (planes, stride, neighbours) in enumerate(zip(PLANES, STRIDES, NEIGHBOURS, strict=True)):
            blocks = [Bottleneck(planes) for _ in range(depths[i])]
            self.add_module(f"enc{i + 1}", Level(TransitionDown(channels, planes, stride, neighbours), *blocks))
            channels = planes

    def fold(self) -> None:
        """Fold batch norms into the linear layers before them; inference only."""
        for module in self.modules():
            if isinstance(module, Bottleneck | TransitionDown | TransitionUp):
                module.fold()

    def encode(self, x: torch.Tensor, batch: Batch) -> list[tuple[torch.Tensor, Points]]:
        """Return the features of every level and its points, the finest first.

        Raises:
            ValueError: a cloud of the batch is empty.
        """
        points, levels = Points.of(batch), []
        for i, neighbours in enumerate(NEIGHBOURS):
            level: Level = self.get_submodule(f"enc{i + 1}")  # type: ignore[assignment]
            x, points = level[0](x, points)
            x = level.blocks(x, points, neighbours)
            levels.append((x, points))
        return levels


def _normed_linear(in_channels: int, channels: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(in_channels, channels), nn.BatchNorm1d(channels), nn.ReLU())
