"""Blocks, pooling and unpooling of the transformers that attend along space-filling curves."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from service.models.batch import Batch
from service.models.layers.engine import Engine
from service.models.layers.fold import fold_linear, fold_linear_after
from service.models.layers.prompt_norm import Chain, NormLayer
from service.models.layers.stages import Down, Stage


@dataclass(frozen=True)
class Flow:
    """Features on the cells of a stage.

    Attributes:
        feat: (M, C).
        seen: (M, C), what the next convolution of the stage sees: mostly `feat` itself.
        coord: (M, 3) float32 where each cell's points lie, in metres; None: no block asks for it.
    """

    feat: torch.Tensor
    seen: torch.Tensor
    coord: torch.Tensor | None = None


class MLP(nn.Module):
    """Two linear layers with a GELU between them."""

    def __init__(self, channels: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(channels, hidden)
        self.act = nn.GELU()
        self.fc2 = nn.Linear(hidden, channels)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return (M, C) of (M, C) features."""
        y: torch.Tensor = self.fc2(self.act(self.fc1(x)))
        return y


class LayerScale(nn.Module):
    """A factor for each channel."""

    def __init__(self, channels: int, value: float) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.full((channels,), float(value)))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return (M, C) of (M, C) features."""
        return x * self.gamma


class Block(nn.Module):
    """A convolution that tells where a cell stands, attention, and a perceptron, each beside a shortcut.

    Args:
        engine: makes the convolution.
        attention: of the block's channels.
        channels: of the features.
        hidden: channels inside the perceptron.
        norm: makes the norms.
        stage_key: name of the stage, by which its convolutions share their kernel map.
        pre_norm: whether norms stand before attention and perceptron, and not behind their shortcuts.
        passes_branch: whether the next convolution sees the perceptron's result without its shortcut: weights of
            Pointcept up to v1.5.1 were trained so.
        layer_scale: first value of the factors behind attention and perceptron; None: there are none.
    """

    def __init__(
        self,
        engine: Engine,
        attention: nn.Module,
        channels: int,
        hidden: int,
        norm: NormLayer,
        stage_key: str,
        pre_norm: bool = True,
        passes_branch: bool = False,
        layer_scale: float | None = None,
    ) -> None:
        super().__init__()
        self.engine, self.pre_norm, self.passes_branch = engine, pre_norm, passes_branch
        self.cpe = Chain(
            engine.subm_conv(channels, channels, 3, bias=True, indice_key=stage_key),
            nn.Linear(channels, channels),
            norm(channels),
        )
        self.norm1 = Chain(norm(channels))
        if layer_scale is not None:
            self.ls1 = Chain(LayerScale(channels, layer_scale))
        self.attn = attention
        self.norm2 = Chain(norm(channels))
        if layer_scale is not None:
            self.ls2 = Chain(LayerScale(channels, layer_scale))
        self.mlp = Chain(MLP(channels, hidden))
        self.scaled = layer_scale is not None

    def fold(self) -> None:
        """Make one convolution of the first one and the linear layer behind it; inference only."""
        fold_linear_after(self.cpe[0], self.cpe[1])
        self.cpe[1] = nn.Identity()

    def forward(self, x: Flow, stage: Stage, batch: Batch) -> Flow:
        """Return the features behind the block."""
        y = self.cpe[0](stage.sparse(self.engine, x.seen)).features
        feat = x.feat + self.cpe(y, batch, first=1)
        branch = self.attn(self.norm1(feat, batch) if self.pre_norm else feat, stage, x.coord)
        feat = feat + (self.ls1(branch, batch) if self.scaled else branch)
        if not self.pre_norm:
            feat = self.norm1(feat, batch)
        branch = self.mlp(self.norm2(feat, batch) if self.pre_norm else feat, batch)
        if self.scaled:
            branch = self.ls2(branch, batch)
        feat = feat + branch
        if not self.pre_norm:
            feat = self.norm2(feat, batch)
        return Flow(feat, branch if self.passes_branch else feat, x.coord)


class Pooling(nn.Module):
    """To a coarser stage: a linear layer, the largest of each coarse cell, a norm, a GELU."""

    def __init__(self, in_channels: int, out_channels: int, norm: NormLayer) -> None:
        super().__init__()
        self.proj = nn.Linear(in_channels, out_channels)
        self.norm = Chain(norm(out_channels))
        self.act = Chain(nn.GELU())

    def fold(self) -> None:
        """Fold a batch norm into the linear layer, where its factors are positive and keep the largest the largest."""
        norm = self.norm[0]
        if isinstance(norm, nn.BatchNorm1d) and (not norm.affine or bool((norm.weight > 0).all())):
            fold_linear(self.proj, norm)
            self.norm[0] = nn.Identity()

    def forward(self, x: Flow, stage: Stage, batch: Batch) -> Flow:
        """Return the features on the cells of the stage after this one."""
        assert stage.down is not None
        y = reduce(self.proj(x.feat), stage.down, "max")
        y = self.act(self.norm(y, batch), batch)
        return Flow(y, y, None if x.coord is None else reduce(x.coord, stage.down, "mean"))


class Unpooling(nn.Module):
    """Back to a finer stage: linear layers with norm and GELU on both stages' features, added.

    Args:
        in_channels: of the coarse features.
        skip_channels: of the fine ones.
        out_channels: of the sum.
        norm: makes the norms.
        convolves_sum: whether the next convolution sees the sum; else the fine features alone, as in PT-v3m1.
    """

    def __init__(
        self, in_channels: int, skip_channels: int, out_channels: int, norm: NormLayer, convolves_sum: bool
    ) -> None:
        super().__init__()
        self.convolves_sum = convolves_sum
        self.proj = Chain(nn.Linear(in_channels, out_channels), norm(out_channels), nn.GELU())
        self.proj_skip = Chain(nn.Linear(skip_channels, out_channels), norm(out_channels), nn.GELU())

    def fold(self) -> None:
        """Fold batch norms into the linear layers."""
        for chain in (self.proj, self.proj_skip):
            if isinstance(chain[1], nn.BatchNorm1d):
                fold_linear(chain[0], chain[1])
                chain[1] = nn.Identity()

    def forward(self, coarse: Flow, fine: Flow, stage: Stage, batch: Batch) -> Flow:
        """Return the features on the cells of `stage`, the fine one."""
        assert stage.down is not None
        skip = self.proj_skip(fine.feat, batch)
        total = skip + self.proj(coarse.feat, batch).index_select(0, stage.down.cluster)
        return Flow(total, total if self.convolves_sum else skip, fine.coord)


def reduce(rows: torch.Tensor, down: Down, how: str) -> torch.Tensor:
    """Return the max or mean of (M, C) rows over each coarse cell: (M', C)."""
    if down.order is not None:
        rows = rows.index_select(0, down.order)
    return torch.segment_reduce(rows, how, offsets=down.starts, axis=0, unsafe=True)


def gather_up(flows: list[torch.Tensor], stages: list[Stage]) -> torch.Tensor:
    """Return (M, sum of channels): each cell's features of all stages, the finest first.

    Args:
        flows: (M_s, C_s) features of each stage, the finest first.
        stages: the same stages.
    """
    total = flows[-1]
    for feat, stage in zip(reversed(flows[:-1]), reversed(stages[:-1]), strict=True):
        assert stage.down is not None
        total = torch.cat([feat, total.index_select(0, stage.down.cluster)], dim=1)
    return total


def fold_all(network: nn.Module) -> None:
    """Fold what can be folded in all blocks, poolings and unpoolings inside a network."""
    for module in network.modules():
        if isinstance(module, (Block, Pooling, Unpooling)):
            module.fold()
