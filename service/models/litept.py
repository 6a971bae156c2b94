"""LitePT-v1: convolutions on the fine stages, attention on the coarse ones (Yue et al., 2025).

What differs from Pointcept's own code on purpose is what differs in PT-v3m1; but queries, keys and values are rounded
to 16 bits as there, in a network of whatever precision.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import nn

from service.models.batch import Batch
from service.models.layers.attention import PatchAttention
from service.models.layers.engine import Engine
from service.models.layers.fold import fold, fold_linear_after
from service.models.layers.point_transformer import TRAINING_ONLY, PointTransformer, curves
from service.models.layers.prompt_norm import Chain
from service.models.layers.stages import Stage, Stages, by_grid
from service.models.layers.transformer import MLP, Flow, Pooling, Unpooling
from service.models.site import Site

_norm = partial(nn.BatchNorm1d, eps=1e-3, momentum=0.01)


class RoundedAttention(PatchAttention):
    """Attention with a rotary embedding of the cells, whose queries, keys and values are rounded to float16.

    Args:
        channels, heads, patch_size, qkv_bias, qk_scale, curve: see `PatchAttention`.
        base: of the rotary embedding's frequencies, which fall from 1 to about 1 / base.

    Raises:
        ValueError: the heads cannot share the channels, or a head's channels not be shared out to three axes.
    """

    def __init__(
        self,
        channels: int,
        heads: int,
        patch_size: int,
        qkv_bias: bool,
        qk_scale: float | None,
        curve: int,
        base: float,
    ) -> None:
        super().__init__(channels, heads, patch_size, qkv_bias, qk_scale, curve)
        width = channels // heads
        if width % 6:
            raise ValueError(f"A rotary embedding in space needs heads of a multiple of 6 channels, not {width}.")
        part = width // 3
        self.frequencies = [1.0 / base ** (i / part) for i in range(0, part, 2)]

    def forward(self, x: torch.Tensor, stage: Stage, coord: torch.Tensor | None = None) -> torch.Tensor:
        """Return (M, C) of (M, C) features on the stage's cells."""
        patches = stage.patches(self.curve, self.patch_size)
        qkv = self.qkv(x).view(len(x), 3, self.heads, -1).half().float()
        qkv = torch.cat([self._turn(qkv[:, :2], stage.cells[:, 1:]).half().float(), qkv[:, 2:]], dim=1)
        y = self._attend(qkv.to(x.dtype).index_select(0, patches.gather), None, patches)
        # The result is rounded as its ingredients are.
        y = y.index_select(0, patches.back).half().to(x.dtype)
        result: torch.Tensor = self.proj(y)
        return result

    def _turn(self, qk: torch.Tensor, cells: torch.Tensor) -> torch.Tensor:
        """Return (M, 2, heads, width) queries and keys, a third of their channels turned along each axis."""
        frequencies = torch.tensor(self.frequencies, device=qk.device)
        angle = (cells.float().unsqueeze(2) * frequencies)[:, None, None]  # (M, 1, 1, axis, pair)
        cos, sin = angle.cos(), angle.sin()
        first, second = qk.view(*qk.shape[:3], 3, 2, -1).unbind(4)
        turned = torch.stack([first * cos - second * sin, second * cos + first * sin], dim=4)
        return turned.view(qk.shape)


@dataclass(frozen=True)
class Row:
    """One stage's numbers: blocks, channels, heads, cells of a patch, what its blocks have, the rotation's base."""

    depth: int
    channels: int
    heads: int
    patch_size: int
    convolves: bool
    attends: bool
    base: float


class Block(nn.Module):
    """A convolution with a shortcut or else a norm; and attention and a perceptron, or neither."""

    def __init__(
        self,
        engine: Engine,
        row: Row,
        curve: int,
        key: str,
        mlp_ratio: float,
        qkv_bias: bool,
        qk_scale: float | None,
        pre_norm: bool,
    ) -> None:
        super().__init__()
        channels = row.channels
        self.engine, self.pre_norm = engine, pre_norm
        self.convolves, self.attends = row.convolves, row.attends
        if row.convolves:
            conv = engine.subm_conv(channels, channels, 3, bias=True, indice_key=key)
            self.conv = Chain(conv, nn.Linear(channels, channels), nn.LayerNorm(channels))
        else:
            self.norm0 = Chain(nn.LayerNorm(channels))
        if row.attends:
            self.norm1 = Chain(nn.LayerNorm(channels))
            self.attn = RoundedAttention(channels, row.heads, row.patch_size, qkv_bias, qk_scale, curve, row.base)
            self.norm2 = Chain(nn.LayerNorm(channels))
            self.mlp = Chain(MLP(channels, int(channels * mlp_ratio)))

    def fold(self) -> None:
        """Make one convolution of it and the linear layer behind it; inference only."""
        if self.convolves:
            fold_linear_after(self.conv[0], self.conv[1])
            self.conv[1] = nn.Identity()

    def forward(self, x: Flow, stage: Stage, batch: Batch) -> Flow:
        """Return the features behind the block."""
        if self.convolves:
            y = self.conv[0](stage.sparse(self.engine, x.feat)).features
            feat = x.feat + self.conv(y, batch, first=1)
        else:
            feat = self.norm0(x.feat, batch)
        if self.attends:
            feat = feat + self.attn(self.norm1(feat, batch) if self.pre_norm else feat, stage)
            feat = feat if self.pre_norm else self.norm1(feat, batch)
            feat = feat + self.mlp(self.norm2(feat, batch) if self.pre_norm else feat, batch)
            feat = feat if self.pre_norm else self.norm2(feat, batch)
        return Flow(feat, feat)


class LitePT(PointTransformer):
    """The backbone; names and shapes of its state_dict are Pointcept's.

    Args:
        engine: sparse convolution engine.
        in_channels: features of a cell.
        order: curves, names out of `serialization.ORDERS`; block i of a stage uses curve i modulo their number.
        stride: from each stage to the next.
        enc_depths, enc_channels, enc_num_head, enc_patch_size: of each stage of the encoder.
        enc_conv, enc_attn, enc_rope_freq: whether its blocks convolve and attend; the base of their rotation.
        dec_depths, dec_channels, dec_num_head, dec_patch_size, dec_conv, dec_attn, dec_rope_freq: of each stage of the
            decoder, the finest first.
        mlp_ratio: hidden channels of a block's perceptron, by its channels.
        qkv_bias, qk_scale: see `PatchAttention`.
        pre_norm: whether norms stand before attention and perceptron, and not behind their shortcuts.
        enc_mode: whether there is no decoder.

    Raises:
        ValueError: lists that do not fit together, an unknown curve, heads that do not fit the channels.
    """

    def __init__(
        self,
        engine: Engine,
        in_channels: int = 4,
        order: str | Sequence[str] = ("z", "z-trans", "hilbert", "hilbert-trans"),
        stride: Sequence[int] = (2, 2, 2, 2),
        enc_depths: Sequence[int] = (2, 2, 2, 6, 2),
        enc_channels: Sequence[int] = (36, 72, 144, 252, 504),
        enc_num_head: Sequence[int] = (2, 4, 8, 14, 28),
        enc_patch_size: Sequence[int] = (1024, 1024, 1024, 1024, 1024),
        enc_conv: Sequence[bool] = (True, True, True, False, False),
        enc_attn: Sequence[bool] = (False, False, False, True, True),
        enc_rope_freq: Sequence[float] = (100.0, 100.0, 100.0, 100.0, 100.0),
        dec_depths: Sequence[int] = (0, 0, 0, 0),
        dec_channels: Sequence[int] = (72, 72, 144, 252),
        dec_num_head: Sequence[int] = (4, 4, 8, 14),
        dec_patch_size: Sequence[int] = (1024, 1024, 1024, 1024),
        dec_conv: Sequence[bool] = (False, False, False, False),
        dec_attn: Sequence[bool] = (False, False, False, False),
        dec_rope_freq: Sequence[float] = (100.0, 100.0, 100.0, 100.0),
        mlp_ratio: float = 4,
        qkv_bias: bool = True,
        qk_scale: float | None = None,
        pre_norm: bool = True,
        enc_mode: bool = False,
    ) -> None:
        super().__init__()
        self.engine = engine
        self.orders, self.strides = curves(order), tuple(stride)
        for step in self.strides:
            if step < 1 or step != int(step):
                raise ValueError(f"A stride of {step} leads to no coarser grid; it must be a whole number, 1 or more.")
        lists = (enc_depths, enc_channels, enc_num_head, enc_patch_size, enc_conv, enc_attn, enc_rope_freq)
        encoder = _rows("enc", len(stride) + 1, *lists)
        decoder: list[Row] = []
        if not enc_mode:
            lists = (dec_depths, dec_channels, dec_num_head, dec_patch_size, dec_conv, dec_attn, dec_rope_freq)
            decoder = _rows("dec", len(stride), *lists)
        _check(encoder, decoder)
        block = partial(Block, engine, mlp_ratio=mlp_ratio, qkv_bias=qkv_bias, qk_scale=qk_scale, pre_norm=pre_norm)
        width = encoder[0].channels
        # No other layer has a kernel of 5: its large map is not kept.
        stem = {"conv": engine.subm_conv(in_channels, width, 5), "norm": _norm(width), "act": nn.GELU()}
        self.embedding = nn.ModuleDict({"stem": nn.ModuleDict(stem)})
        self.enc = nn.ModuleDict()
        for s, row in enumerate(encoder):
            modules = nn.ModuleDict()
            if s > 0:
                modules["down"] = Pooling(encoder[s - 1].channels, row.channels, _norm)
            for i in range(row.depth):
                modules[f"block{i}"] = block(row, i % len(self.orders), f"stage{s}")
            self.enc[f"enc{s}"] = modules
        if enc_mode:
            return
        self.dec = nn.ModuleDict()
        coarse = encoder[-1].channels
        for s, row in reversed(list(enumerate(decoder))):
            modules = nn.ModuleDict()
            modules["up"] = Unpooling(coarse, encoder[s].channels, row.channels, _norm, convolves_sum=True)
            for i in range(row.depth):
                modules[f"block{i}"] = block(row, i % len(self.orders), f"stage{s}")
            self.dec[f"dec{s}"] = modules
            coarse = row.channels

    def fold(self) -> None:
        """Fold batch norms into the layers before them, and linear layers into convolutions; inference only."""
        stem = self.embedding["stem"]
        fold(stem["conv"], stem["norm"])
        stem["norm"] = nn.Identity()
        super().fold()
        for module in self.modules():
            if isinstance(module, Block):
                module.fold()

    def stages(self, batch: Batch) -> Stages:
        """Return the stages' cells, curves and kernel maps, made once for all batches of the same cells."""
        return batch.once(self, lambda: by_grid(batch, self.orders, self.strides))

    def embed(self, batch: Batch, made: Stages) -> Flow:
        """Return the features on the cells of the first stage."""
        stem = self.embedding["stem"]
        x = stem["conv"](made.stages[0].sparse(self.engine, made.take(batch.feat))).features
        x = stem["act"](stem["norm"](x))
        return Flow(x, x)


def _rows(part: str, stages: int, *lists: Sequence[Any]) -> list[Row]:
    names = ("depths", "channels", "num_head", "patch_size", "conv", "attn", "rope_freq")
    for what, values in zip(names, lists, strict=True):
        if len(values) != stages:
            raise ValueError(f"{part}_{what} has {len(values)} entries; by the length of stride it must be {stages}.")
    return [Row(*numbers) for numbers in zip(*lists, strict=True)]


def _check(encoder: Sequence[Row], decoder: Sequence[Row]) -> None:
    """Refuse stages that Pointcept cannot run, or whose patches it would mix up."""
    for s, (down, up) in enumerate(zip(encoder, decoder, strict=False)):
        if not (up.depth and up.attends):
            continue
        if not down.attends:
            raise ValueError(f"dec_attn[{s}] is set, but enc_attn[{s}] is not: Pointcept orders no cells there.")
        # Pointcept keeps a stage's patches without their size: the decoder's attention would run on the encoder's.
        if down.depth and down.patch_size != up.patch_size:
            sizes = f"enc_patch_size[{s}] is {down.patch_size}, dec_patch_size[{s}] is {up.patch_size}"
            raise ValueError(f"{sizes}; they must be equal.")


def build(config: Mapping[str, Any], site: Site) -> LitePT:
    """Return the network of a configuration: the arguments of `LitePT` by their names.

    `attn_drop`, `proj_drop` and `drop_path` are for training alone; why `shuffle_orders` changes nothing, the module
    `point_transformer_v3` says.
    """
    return LitePT(site.engine, **{key: value for key, value in config.items() if key not in TRAINING_ONLY})
