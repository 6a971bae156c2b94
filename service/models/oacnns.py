"""OACNNs, sparse convolutions that gather from regions of several sizes (Peng et al., CVPR 2024).

Two things of Pointcept's depend on the whole batch: the largest weight, which is subtracted before an exponential whose
sum then has 1e-6 added to it, and the grid's extent, as in SpUNet-v1m2. Here each cloud runs by itself.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import nn

from service.models.batch import Batch
from service.models.layers.apart import each_cloud, in_batch_order, ordered_cells, tight_shape
from service.models.layers.engine import Engine, Sequential
from service.models.layers.fold import fold, fold_linear, fold_relu
from service.models.site import Site

_NOTHING = 1e-6
_norm = partial(nn.BatchNorm1d, eps=1e-3, momentum=0.01)


@dataclass(frozen=True)
class Regions:
    """A partition of one cloud's cells into cubes.

    Attributes:
        own: (M,) int64, the region of each cell.
        order: (M,) int64, cells sorted by their region.
        starts: (R + 1,) int64, where each region's part begins in that order.
    """

    own: torch.Tensor
    order: torch.Tensor
    starts: torch.Tensor

    def spread(self, rows: torch.Tensor, how: str) -> torch.Tensor:
        """Return (M, C): each row's region's `mean` or `sum` of (M, C) rows."""
        found = torch.segment_reduce(rows.index_select(0, self.order), how, offsets=self.starts, axis=0, unsafe=True)
        return found.index_select(0, self.own)


def regions(cells: torch.Tensor, size: float) -> Regions:
    """Part (M, 3) int32 cells into cubes of `size` cells, which begin at the smallest coordinates."""
    place = cells - cells.amin(dim=0)
    at = (place / size).long()
    extent = at.amax(dim=0) + 1
    key = (at[:, 2] * extent[1] + at[:, 1]) * extent[0] + at[:, 0]
    _, own, counts = torch.unique(key, return_inverse=True, return_counts=True)
    starts = torch.nn.functional.pad(counts.cumsum(dim=0), (1, 0))
    return Regions(own, torch.argsort(own, stable=True), starts)


def _linear(in_channels: int, channels: int, bias: bool = False) -> list[nn.Module]:
    return [nn.Linear(in_channels, channels, bias=bias), _norm(channels), nn.ReLU()]


class BasicBlock(nn.Module):
    """What regions of each size say of a cell, weighed by the cell itself; then two convolutions with a shortcut."""

    def __init__(self, channels: int, sizes: int, groups: int, indice_key: str, engine: Engine) -> None:
        super().__init__()
        if channels % groups:
            raise ValueError(f"{groups} groups cannot share {channels} channels.")
        self.proj = nn.ModuleList([nn.Sequential(*_linear(channels, channels)) for _ in range(sizes + 1)])
        self.weight = nn.ModuleList([nn.Linear(channels, channels, bias=False) for _ in range(sizes)])
        self.l_w = nn.ModuleList([nn.Sequential(*_linear(channels, channels)) for _ in range(sizes)])
        self.adaptive = nn.Linear(channels, sizes, bias=False)
        self.fuse = nn.Sequential(*_linear(2 * channels, channels))
        self.voxel_block = Sequential(
            engine.subm_conv(channels, channels, 3, indice_key=indice_key),
            _norm(channels),
            nn.ReLU(),
            engine.subm_conv(channels, channels, 3, indice_key=indice_key),
            _norm(channels),
        )
        self.act = nn.ReLU()

    def fold(self, fuses: bool) -> None:
        """Fold the norms into the layers before them; inference only."""
        for sequence in (*self.proj, *self.l_w, self.fuse):
            _fold_linear(sequence)
        _fold(self.voxel_block, fuses)

    def forward(self, x: Any, found: Sequence[Regions]) -> Any:
        feat: torch.Tensor = x.features
        share = self.adaptive(feat).softmax(dim=1)
        gathered = torch.zeros_like(feat)
        for i, part in enumerate(found):
            weight = self.l_w[i](feat)
            weight = self.weight[i](weight - part.spread(weight, "mean"))
            # Float32 in any network: where all of a region is far below the cloud's largest, its sum is near 1e-6.
            weight = weight.float()
            weight = (weight - weight.max()).exp_()
            weight = weight / (part.spread(weight, "sum") + _NOTHING)
            gathered.addcmul_(part.spread(self.proj[i](feat) * weight.to(feat.dtype), "sum"), share[:, i : i + 1])
        own = self.fuse(torch.cat([self.proj[-1](feat), gathered], dim=1)) + feat
        y = self.voxel_block(x.replace_feature(own))
        return y.replace_feature(self.act(y.features + own))


class DownBlock(nn.Module):
    """A strided convolution, and blocks."""

    def __init__(
        self,
        in_channels: int,
        channels: int,
        depth: int,
        groups: int,
        sizes: Sequence[float],
        stage: int,
        engine: Engine,
    ) -> None:
        super().__init__()
        self.sizes = tuple(sizes)
        down = engine.down_conv(in_channels, channels, 2, indice_key=f"spconv{stage}")
        self.down = Sequential(down, _norm(channels), nn.ReLU())
        key = f"subm{stage + 1}"
        self.blocks = nn.ModuleList([BasicBlock(channels, len(sizes), groups, key, engine) for _ in range(depth)])

    def forward(self, x: Any, batch: Batch) -> Any:
        x = self.down(x)
        if len(x.indices) == 0:
            # Every cell was on an edge that the convolution cuts off: the way back is all zeros.
            return x
        found = batch.once((self, "regions"), lambda: [regions(x.indices[:, 1:], size) for size in self.sizes])
        for block in self.blocks:
            x = block(x, found)
        return x


class UpBlock(nn.Module):
    """Back to a finer stage, whose features are joined by two linear layers."""

    def __init__(self, in_channels: int, skip_channels: int, channels: int, stage: int, engine: Engine) -> None:
        super().__init__()
        up = engine.inverse_conv(in_channels, channels, 2, indice_key=f"spconv{stage}")
        self.up = Sequential(up, _norm(channels), nn.ReLU())
        joined = _linear(skip_channels + channels, channels, bias=True)
        self.fuse = nn.Sequential(*joined, *_linear(channels, channels, bias=True))

    def forward(self, x: Any, skip: Any) -> Any:
        x = self.up(x)
        return x.replace_feature(self.fuse(torch.cat([x.features, skip.features], dim=1)) + x.features)


class OACNNs(nn.Module):
    """The network; names and shapes of its state_dict are Pointcept's.

    Args:
        engine: sparse convolution engine.
        in_channels: features of a cell.
        num_classes: channels of the result.
        embed_channels: of the stem.
        enc_channels, groups, enc_depth: of each stage of the encoder; `groups` only have to divide the channels.
        dec_channels: of each stage of the decoder, the finest first.
        point_grid_size: of each stage of the encoder, edges of the regions in its cells.
        enc_num_ref, down_ratio, dec_depth: without effect, as in Pointcept; a decoder has no blocks.

    Raises:
        ValueError: lists that do not fit together.
    """

    def __init__(
        self,
        engine: Engine,
        in_channels: int,
        num_classes: int,
        embed_channels: int = 64,
        enc_num_ref: Sequence[int] = (16, 16, 16, 16),
        enc_channels: Sequence[int] = (64, 64, 128, 256),
        groups: Sequence[int] = (2, 4, 8, 16),
        enc_depth: Sequence[int] = (2, 3, 6, 4),
        down_ratio: Sequence[int] = (2, 2, 2, 2),
        dec_channels: Sequence[int] = (96, 96, 128, 256),
        point_grid_size: Sequence[Sequence[float]] = ((16, 32, 64), (8, 16, 24), (4, 8, 12), (2, 4, 6)),
        dec_depth: Sequence[int] = (2, 2, 2, 2),
    ) -> None:
        super().__init__()
        stages = len(enc_channels)
        lists = {"groups": groups, "enc_depth": enc_depth, "dec_channels": dec_channels}
        for name, values in {**lists, "point_grid_size": point_grid_size}.items():
            if len(values) < stages:
                raise ValueError(
                    f"{name} has {len(values)} entries; by the length of enc_channels it must be {stages}."
                )
        self.engine, self.num_stages = engine, stages
        stem: list[nn.Module] = []
        for width in (in_channels, embed_channels, embed_channels):
            stem += [engine.subm_conv(width, embed_channels, 3, indice_key="stem"), _norm(embed_channels), nn.ReLU()]
        self.stem = Sequential(*stem)
        skips = (embed_channels, *enc_channels[: stages - 1])
        self.enc = nn.ModuleList(
            [
                DownBlock(skips[s], enc_channels[s], enc_depth[s], groups[s], point_grid_size[s], s, engine)
                for s in range(stages)
            ]
        )
        coarse = (*dec_channels[1:stages], enc_channels[-1])
        self.dec = nn.ModuleList(
            [UpBlock(coarse[s], skips[s], dec_channels[s], s, engine) for s in range(stages)],
        )
        self.final = engine.subm_conv(dec_channels[0], num_classes, 1, bias=True)

    def fold(self) -> None:
        """Fold all batch norms into the layers before them; the network then only infers."""
        fuses = self.engine.fuses
        _fold(self.stem, fuses)
        for module in self.modules():
            if isinstance(module, BasicBlock):
                module.fold(fuses)
            elif isinstance(module, DownBlock):
                _fold(module.down, fuses)
            elif isinstance(module, UpBlock):
                _fold(module.up, fuses)
                _fold_linear(module.fuse)

    def forward(self, batch: Batch) -> torch.Tensor:
        """Return (M, num_classes) logits."""
        return each_cloud(self, batch, self._forward)

    def _cells(self, batch: Batch) -> tuple[torch.Tensor, torch.Tensor | None, list[int]]:
        shape = tight_shape(batch.grid_coord, self.num_stages)
        return *ordered_cells(batch, self.engine, shape), shape

    def _forward(self, batch: Batch) -> torch.Tensor:
        indices, order, shape = batch.once(self, lambda: self._cells(batch))
        feat = batch.feat if order is None else batch.feat[order]
        x = self.stem(self.engine.tensor(feat, indices, shape, 1, batch.once((self, "maps"), dict)))
        skips = []
        for down in self.enc:
            skips.append(x)
            x = down(x, batch)
        for up in reversed(self.dec):
            x = up(x, skips.pop())
        y: torch.Tensor = self.final(x).features
        return in_batch_order(y, order)


def _fold(sequence: nn.Sequential, fuses: bool) -> None:
    """Fold the norms of a sequence into the convolutions before them, and a ReLU behind one where the engine fuses."""
    for i, module in enumerate(sequence):
        if isinstance(module, nn.BatchNorm1d):
            fold(sequence[i - 1], module)
            sequence[i] = nn.Identity()
        elif isinstance(module, nn.ReLU) and fuses:
            fold_relu(sequence[i - 2])
            sequence[i] = nn.Identity()


def _fold_linear(sequence: nn.Module) -> None:
    """Fold the norms of a sequence into the linear layers before them."""
    assert isinstance(sequence, nn.Sequential)
    for i, module in enumerate(sequence):
        if isinstance(module, nn.BatchNorm1d):
            fold_linear(sequence[i - 1], module)
            sequence[i] = nn.Identity()


def build(config: Mapping[str, Any], site: Site) -> OACNNs:
    """Return the network of a configuration: the arguments of `OACNNs` by their names."""
    return OACNNs(site.engine, **config)
