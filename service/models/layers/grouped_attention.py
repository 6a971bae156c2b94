"""Point Transformer V2 (Wu et al., NeurIPS 2022), the network of PT-v2m1, PT-v2m2 and PT-v2m3.

Attention among each point's nearest neighbours, with a weight for each group of channels, on grids ever coarser. All
that reads neighbours goes part by part, so that memory does not grow with the number of neighbours.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from service.models.batch import Batch
from service.models.layers.fold import fold_linear
from service.models.layers.neighbourhood import Cells, Neighbours, Points, share_out
from service.models.layers.prompt_norm import NormLayer, PromptNorm

TRAINING_ONLY = ("attn_drop_rate", "drop_path_rate", "enable_checkpoint")
"""Arguments of Pointcept's that change nothing here."""


class PointNorm(nn.Module):
    """A batch norm of features, of points or of their neighbours."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm: nn.Module = nn.BatchNorm1d(channels)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return (..., C) of (..., C) features."""
        if isinstance(self.norm, nn.Identity):
            return x
        y: torch.Tensor = self.norm(x.reshape(-1, x.shape[-1])).view_as(x)
        return y


class GroupedLinear(nn.Module):
    """A weight for each channel, and the sum of each group's channels: the first layer of PT-v2m1's weight encoding."""

    def __init__(self, channels: int, groups: int) -> None:
        super().__init__()
        self.groups = groups
        self.weight = nn.Parameter(torch.empty(1, channels))
        nn.init.kaiming_uniform_(self.weight, a=5**0.5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return (..., groups) of (..., C) features."""
        return (x * self.weight).unflatten(-1, (self.groups, -1)).sum(dim=-1)


class GroupedAttention(nn.Module):
    """Attention to neighbours: each group of channels has a weight for each of them, made from their difference.

    Args:
        channels: of the features.
        groups: of channels.
        qkv_bias: whether queries, keys and values have one.
        pe_multiplier, pe_bias: whether differences are multiplied by, and added to, what is made of the position.
        grouped_linear: whether the weight encoding begins with a `GroupedLinear`.

    Raises:
        ValueError: the groups cannot share the channels.
    """

    def __init__(
        self, channels: int, groups: int, qkv_bias: bool, pe_multiplier: bool, pe_bias: bool, grouped_linear: bool
    ) -> None:
        super().__init__()
        if channels % groups:
            raise ValueError(f"{groups} groups cannot share {channels} channels.")
        self.groups = groups
        self.linear_q = _normed_linear(channels, channels, qkv_bias)
        self.linear_k = _normed_linear(channels, channels, qkv_bias)
        self.linear_v = nn.Linear(channels, channels, bias=qkv_bias)
        self.linear_p_multiplier = _of_position(channels) if pe_multiplier else None
        self.linear_p_bias = _of_position(channels) if pe_bias else None
        first = GroupedLinear(channels, groups) if grouped_linear else nn.Linear(channels, groups)
        self.weight_encoding = nn.Sequential(first, PointNorm(groups), nn.ReLU(), nn.Linear(groups, groups))

    def forward(self, x: torch.Tensor, near: Neighbours) -> torch.Tensor:
        """Return (M, C) of (M, C) features and the neighbours of their points."""
        query, key, value = self.linear_q(x), self.linear_k(x), self.linear_v(x)
        y = torch.empty_like(query)
        for rows in near.parts(x.shape[1]):
            y[rows] = self._attend(query[rows], near.gather(key, rows), near.gather(value, rows), near, rows)
        return y

    def _attend(
        self, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, near: Neighbours, rows: slice
    ) -> torch.Tensor:
        relation = key - query.unsqueeze(1)
        position = near.position[rows].to(query.dtype)
        if self.linear_p_multiplier is not None:
            relation = relation * self.linear_p_multiplier(position)
        if self.linear_p_bias is not None:
            bias = self.linear_p_bias(position)
            relation, value = relation + bias, value + bias
        weight = torch.softmax(self.weight_encoding(relation), dim=1)
        if near.present is not None:
            # Pointcept's way: a neighbour that is not there takes its share of the softmax, and gives nothing for it.
            weight = weight * near.present[rows]
        centres, k, groups = weight.shape
        value = value.view(centres, k, groups, -1)
        return (value * weight.unsqueeze(3)).sum(dim=1).view(centres, -1)


class Block(nn.Module):
    """Attention between two linear layers, beside a shortcut."""

    def __init__(self, channels: int, attention: GroupedAttention, norm: NormLayer) -> None:
        super().__init__()
        self.attn = attention
        self.fc1 = nn.Linear(channels, channels, bias=False)
        self.fc3 = nn.Linear(channels, channels, bias=False)
        self.norm1, self.norm2, self.norm3 = norm(channels), norm(channels), norm(channels)

    def fold(self) -> None:
        """Fold the norms behind linear layers into these; inference only."""
        _fold(self.fc1, self.norm1)
        _fold(self.fc3, self.norm3)

    def forward(self, x: torch.Tensor, near: Neighbours, batch: Batch) -> torch.Tensor:
        """Return (M, C) of (M, C) features."""
        y = functional.relu(_norm(self.norm1, self.fc1(x), batch))
        y = functional.relu(_norm(self.norm2, self.attn(y, near), batch))
        return functional.relu(x + _norm(self.norm3, self.fc3(y), batch))


class Blocks(nn.Module):
    """Blocks that share their points' neighbours."""

    def __init__(self, blocks: Sequence[Block], neighbours: int) -> None:
        super().__init__()
        self.neighbours = neighbours
        self.blocks = nn.ModuleList(blocks)

    def forward(self, x: torch.Tensor, points: Points, batch: Batch) -> torch.Tensor:
        """Return (M, C) of (M, C) features of the points."""
        for block in self.blocks:
            x = block(x, points.around(self.neighbours), batch)
        return x


class Projection(nn.Module):
    """Base of modules that project features: a linear layer, a norm and a ReLU, named as the family names them."""

    def add(self, name: str, in_channels: int, channels: int, bias: bool, norm: NormLayer, in_parts: bool) -> None:
        """Make a projection: as `name`.0 and 1, or where `in_parts` as `name`_linear and `name`_norm."""
        linear, its_norm = nn.Linear(in_channels, channels, bias=bias), norm(channels)
        if in_parts:
            self.add_module(f"{name}_linear", linear)
            self.add_module(f"{name}_norm", its_norm)
        else:
            self.add_module(name, nn.Sequential(linear, its_norm, nn.ReLU()))

    def _parts(self, name: str) -> tuple[nn.Module, nn.Module]:
        whole: Any = getattr(self, name, None)
        if whole is None:
            return getattr(self, f"{name}_linear"), getattr(self, f"{name}_norm")
        return whole[0], whole[1]

    def fold(self, name: str) -> None:
        """Fold a projection's norm into its linear layer."""
        _fold(*self._parts(name))

    def project(self, name: str, x: torch.Tensor, batch: Batch) -> torch.Tensor:
        """Return (M, channels) of (M, in_channels) features."""
        linear, norm = self._parts(name)
        return functional.relu(_norm(norm, linear(x), batch))


class PatchEmbed(Projection):
    """From the batch's features to those of the first level."""

    def __init__(self, in_channels: int, channels: int, blocks: Blocks, norm: NormLayer, in_parts: bool) -> None:
        super().__init__()
        self.add("proj", in_channels, channels, False, norm, in_parts)
        self.blocks = blocks

    def forward(self, x: torch.Tensor, points: Points, batch: Batch) -> torch.Tensor:
        """Return (M, C) of (M, in_channels) features."""
        y: torch.Tensor = self.blocks(self.project("proj", x, batch), points, batch)
        return y


class GridPool(nn.Module):
    """To a coarser level: a linear layer, a norm and a ReLU, then the largest of each cell."""

    def __init__(self, in_channels: int, channels: int, grid_size: float, norm: NormLayer) -> None:
        super().__init__()
        self.grid_size = grid_size
        self.fc = nn.Linear(in_channels, channels, bias=False)
        self.norm = norm(channels)

    def fold(self) -> None:
        """Fold the norm into the linear layer."""
        _fold(self.fc, self.norm)

    def forward(self, x: torch.Tensor, cells: Cells, batch: Batch) -> torch.Tensor:
        """Return (M', C) of (M, in_channels) features."""
        return cells.largest(functional.relu(_norm(self.norm, self.fc(x), batch)))


class Unpool(Projection):
    """Back to a finer level: what was there before pooling, and the coarse features of each point's cell."""

    def __init__(
        self,
        in_channels: int,
        skip_channels: int,
        channels: int,
        interpolates: bool,
        norm: NormLayer,
        in_parts: bool,
    ) -> None:
        super().__init__()
        self.interpolates = interpolates
        self.add("proj", in_channels, channels, True, norm, in_parts)
        self.add("proj_skip", skip_channels, channels, True, norm, in_parts)

    def forward(self, x: torch.Tensor, skip: torch.Tensor, cells: Cells, points: Points, batch: Batch) -> torch.Tensor:
        """Return (M, C) of the cells' (M', in_channels) features and the points' (M, skip_channels)."""
        x = self.project("proj", x, batch)
        x = cells.points.interpolate(x, points) if self.interpolates else x.index_select(0, cells.cluster)
        return x + self.project("proj_skip", skip, batch)


class Stage(nn.Module):
    """The way down to a level (`down`) or up to one (`up`), and the blocks on it."""

    def __init__(self, way: str, module: nn.Module, blocks: Blocks) -> None:
        super().__init__()
        self.add_module(way, module)
        self.blocks = blocks


class GroupedTransformer(nn.Module):
    """The backbone; names and shapes of its state_dict are Pointcept's.

    Args:
        in_channels: features of a point.
        num_classes: channels of the result; 0: the features of the last decoder.
        patch_embed_depth, patch_embed_channels, patch_embed_groups, patch_embed_neighbours: of the first level.
        enc_depths, enc_channels, enc_groups, enc_neighbours: of each coarser level.
        dec_depths, dec_channels, dec_groups, dec_neighbours: of the way back, the finest level first.
        grid_sizes: edge of a cell of each coarser level, in metres.
        attn_qkv_bias, pe_multiplier, pe_bias, grouped_linear: see `GroupedAttention`.
        unpool_backend: `map`, a point gets the features of its cell; `interp`, those of the three nearest cells.
        norm: makes the norms of several datasets, where these have their own; the head is a linear layer then.

    Raises:
        ValueError: lists that do not fit together, a grid size that is not positive, an unknown backend, groups that
            cannot share their channels.
    """

    def __init__(
        self,
        in_channels: int,
        num_classes: int,
        patch_embed_depth: int = 1,
        patch_embed_channels: int = 48,
        patch_embed_groups: int = 6,
        patch_embed_neighbours: int = 8,
        enc_depths: Sequence[int] = (2, 2, 6, 2),
        enc_channels: Sequence[int] = (96, 192, 384, 512),
        enc_groups: Sequence[int] = (12, 24, 48, 64),
        enc_neighbours: Sequence[int] = (16, 16, 16, 16),
        dec_depths: Sequence[int] = (1, 1, 1, 1),
        dec_channels: Sequence[int] = (48, 96, 192, 384),
        dec_groups: Sequence[int] = (6, 12, 24, 48),
        dec_neighbours: Sequence[int] = (16, 16, 16, 16),
        grid_sizes: Sequence[float] = (0.06, 0.12, 0.24, 0.48),
        attn_qkv_bias: bool = True,
        pe_multiplier: bool = False,
        pe_bias: bool = True,
        unpool_backend: str = "map",
        grouped_linear: bool = False,
        norm: NormLayer | None = None,
    ) -> None:
        super().__init__()
        lists: Mapping[str, Sequence[Any]] = {
            "enc_channels": enc_channels,
            "enc_groups": enc_groups,
            "enc_neighbours": enc_neighbours,
            "dec_depths": dec_depths,
            "dec_channels": dec_channels,
            "dec_groups": dec_groups,
            "dec_neighbours": dec_neighbours,
            "grid_sizes": grid_sizes,
        }
        for name, numbers in lists.items():
            if len(numbers) != len(enc_depths):
                raise ValueError(f"{name} has {len(numbers)} numbers; by enc_depths it must be {len(enc_depths)}.")
        if not all(size > 0 for size in grid_sizes):
            raise ValueError(f"grid_sizes are {list(grid_sizes)}; they must be positive.")
        if unpool_backend not in ("map", "interp"):
            raise ValueError(f"unpool_backend is {unpool_backend!r}; it must be map or interp.")
        in_parts = norm is not None
        norms: NormLayer = norm if norm is not None else PointNorm

        def blocks(depth: int, channels: int, groups: int, neighbours: int) -> Blocks:
            settings = (attn_qkv_bias, pe_multiplier, pe_bias, grouped_linear)
            made = [Block(channels, GroupedAttention(channels, groups, *settings), norms) for _ in range(depth)]
            return Blocks(made, neighbours)

        first = blocks(patch_embed_depth, patch_embed_channels, patch_embed_groups, patch_embed_neighbours)
        self.patch_embed = PatchEmbed(in_channels, patch_embed_channels, first, norms, in_parts)
        down, up = [patch_embed_channels, *enc_channels], [*dec_channels, enc_channels[-1]]
        self.enc_stages, self.dec_stages = nn.ModuleList(), nn.ModuleList()
        for i, size in enumerate(grid_sizes):
            pool = GridPool(down[i], down[i + 1], size, norms)
            inner = blocks(enc_depths[i], down[i + 1], enc_groups[i], enc_neighbours[i])
            self.enc_stages.append(Stage("down", pool, inner))
            unpool = Unpool(up[i + 1], down[i], up[i], unpool_backend == "interp", norms, in_parts)
            inner = blocks(dec_depths[i], up[i], dec_groups[i], dec_neighbours[i])
            self.dec_stages.append(Stage("up", unpool, inner))
        self.seg_head = _head(up[0], num_classes, in_parts)

    def fold(self) -> None:
        """Fold batch norms into the linear layers before them; inference only."""
        for module in self.modules():
            if isinstance(module, Block | GridPool):
                module.fold()
            elif isinstance(module, Projection):
                for name in ("proj", "proj_skip")[: 1 + isinstance(module, Unpool)]:
                    module.fold(name)
            elif isinstance(module, nn.Sequential) and len(module) > 1 and isinstance(module[1], PointNorm):
                _fold(module[0], module[1])

    def forward(self, batch: Batch) -> torch.Tensor:
        """Return (M, num_classes) logits, or the last decoder's (M, dec_channels[0]) features.

        Raises:
            ValueError: a cloud of the batch is empty, or too wide for its grids; or the batch names no condition, and
                the norms ask for one.
        """
        points = Points.of(batch)
        x = self.patch_embed(batch.feat, points, batch)
        passed: list[tuple[Points, torch.Tensor, Cells]] = []
        for stage in self.enc_stages:
            cells = share_out(points, stage.down.grid_size)
            passed.append((points, x, cells))
            x, points = stage.down(x, cells, batch), cells.points
            x = stage.blocks(x, points, batch)
        for stage in reversed(self.dec_stages):
            points, skip, cells = passed.pop()
            x = stage.blocks(stage.up(x, skip, cells, points, batch), points, batch)
        logits: torch.Tensor = self.seg_head(x)
        return logits


def _normed_linear(in_channels: int, channels: int, bias: bool = True) -> nn.Sequential:
    return nn.Sequential(nn.Linear(in_channels, channels, bias=bias), PointNorm(channels), nn.ReLU())


def _of_position(channels: int) -> nn.Sequential:
    return nn.Sequential(*_normed_linear(3, channels), nn.Linear(channels, channels))


def _head(channels: int, classes: int, linear: bool) -> nn.Module:
    if classes <= 0:
        return nn.Identity()
    last = nn.Linear(channels, classes)
    return nn.Sequential(last) if linear else nn.Sequential(*_normed_linear(channels, channels), last)


def _norm(norm: nn.Module, x: torch.Tensor, batch: Batch) -> torch.Tensor:
    y: torch.Tensor = norm(x, batch) if isinstance(norm, PromptNorm) else norm(x)
    return y


def _fold(linear: nn.Module, norm: nn.Module) -> None:
    """Fold a norm that follows a linear layer into it, where both are of the kinds that can be."""
    if isinstance(linear, nn.Linear) and isinstance(norm, PointNorm) and isinstance(norm.norm, nn.BatchNorm1d):
        fold_linear(linear, norm.norm)
        norm.norm = nn.Identity()
