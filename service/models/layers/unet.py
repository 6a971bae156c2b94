"""A residual U-Net of sparse convolutions (MinkUNet, Choy et al., CVPR 2019), the network of SpUNet families."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn

from service.models.batch import Batch
from service.models.layers.engine import Engine, Sequential
from service.models.layers.fold import fold, fold_relu

Norm = Callable[[int], nn.Module]
"""Makes a batch norm of so many channels."""


def _fold_sequence(modules: Sequential, fuses: bool) -> None:
    """Fold a norm that stands second in a sequence, and a ReLU that stands third, into the convolution before them."""
    if len(modules) > 1:
        fold(modules[0], modules[1])
        modules[1] = nn.Identity()
    if len(modules) > 2 and fuses:
        fold_relu(modules[0])
        modules[2] = nn.Identity()


class BasicBlock(nn.Module):
    """Two 3x3x3 submanifold convolutions and a shortcut."""

    def __init__(self, in_channels: int, channels: int, indice_key: str, engine: Engine, norm: Norm) -> None:
        super().__init__()
        if in_channels == channels:
            self.proj = Sequential(nn.Identity())
        else:
            self.proj = Sequential(engine.subm_conv(in_channels, channels, 1), norm(channels))
        self.conv1 = engine.subm_conv(in_channels, channels, 3, indice_key=indice_key)
        self.bn1 = norm(channels)
        self.relu = nn.ReLU()
        self.conv2 = engine.subm_conv(channels, channels, 3, indice_key=indice_key)
        self.bn2 = norm(channels)
        self.fused = False

    def fold(self, fuses: bool) -> None:
        """Fold the norms into the convolutions, and all else where the engine fuses; inference only."""
        fold(self.conv1, self.bn1)
        fold(self.conv2, self.bn2)
        self.bn1, self.bn2 = nn.Identity(), nn.Identity()
        _fold_sequence(self.proj, fuses)
        self.fused = fuses
        if fuses:
            fold_relu(self.conv1)
            fold_relu(self.conv2)

    def forward(self, x: Any) -> Any:
        y = self.conv1(x)
        if self.fused:
            return self.conv2(y, residual=self.proj(x).features)
        y = y.replace_feature(self.relu(self.bn1(y.features)))
        y = self.conv2(y)
        y = y.replace_feature(self.bn2(y.features) + self.proj(x).features)
        return y.replace_feature(self.relu(y.features))


def _blocks(count: int, in_channels: int, channels: int, indice_key: str, engine: Engine, norm: Norm) -> Sequential:
    """Return blocks named block0, block1, ...; the first one takes `in_channels`."""
    blocks = [
        (f"block{i}", BasicBlock(in_channels if i == 0 else channels, channels, indice_key, engine, norm))
        for i in range(count)
    ]
    return Sequential(OrderedDict(blocks))


class UNet(nn.Module):
    """The network; names and shapes of its state_dict are Pointcept's.

    Args:
        engine: sparse convolution engine.
        norm: makes the batch norms.
        margin: cells that are left free above the largest coordinate.
        in_channels: features of a voxel.
        num_classes: channels of the result; 0: the decoder's features as they are.
        base_channels: channels of the stem.
        channels: of each stage, down and then up again.
        layers: blocks of each stage; as many as channels, and an even number.
        decodes: whether there is a way up again; if not, only `mean` is of use.
    """

    def __init__(
        self,
        engine: Engine,
        norm: Norm,
        margin: int,
        in_channels: int,
        num_classes: int,
        base_channels: int = 32,
        channels: Sequence[int] = (32, 64, 128, 256, 256, 128, 96, 96),
        layers: Sequence[int] = (2, 3, 4, 6, 2, 2, 2, 2),
        decodes: bool = True,
    ) -> None:
        super().__init__()
        if len(layers) % 2 or len(layers) != len(channels):
            raise ValueError(f"A U-Net needs as many layers as channels and an even number: {layers}, {channels}.")
        self.engine, self.margin = engine, margin
        self.num_stages = len(layers) // 2
        # No other layer has a kernel of 5: its large map is not kept.
        self.conv_input = Sequential(engine.subm_conv(in_channels, base_channels, 5), norm(base_channels), nn.ReLU())
        self.down, self.up = nn.ModuleList(), nn.ModuleList()
        self.enc, self.dec = nn.ModuleList(), nn.ModuleList()
        skip, last = base_channels, len(channels) - 1
        for s in range(self.num_stages):
            width, up_width = channels[s], channels[last - s]
            key = f"spconv{s + 1}"
            self.down.append(Sequential(engine.down_conv(skip, width, 2, indice_key=key), norm(width), nn.ReLU()))
            self.enc.append(_blocks(layers[s], width, width, f"subm{s + 1}", engine, norm))
            skip, passed = width, skip
            if not decodes:
                continue
            self.up.append(
                Sequential(
                    engine.inverse_conv(channels[last - s - 1], up_width, 2, indice_key=key), norm(up_width), nn.ReLU()
                )
            )
            self.dec.append(_blocks(layers[last - s], up_width + passed, up_width, f"subm{s}", engine, norm))
        self.final: nn.Module = nn.Identity()
        if num_classes > 0:
            self.final = engine.subm_conv(channels[-1] if decodes else skip, num_classes, 1, bias=True)

    def fold(self) -> None:
        """Fold all batch norms into the convolutions before them; the network then only infers."""
        for sequence in (self.conv_input, *self.down, *self.up):
            _fold_sequence(sequence, self.engine.fuses)
        for block in (block for stage in (*self.enc, *self.dec) for block in stage):
            block.fold(self.engine.fuses)

    def shape(self, grid_coord: torch.Tensor) -> list[int]:
        """Return the extent of the grid for (M, 3) cells."""
        return [largest + self.margin for largest in grid_coord.amax(dim=0).tolist()]

    def _cells(self, batch: Batch) -> tuple[torch.Tensor, list[int], torch.Tensor | None]:
        """Return the cells in the engine's order, the grid's extent, and the order."""
        indices = torch.cat([batch.cloud.unsqueeze(1).int(), batch.grid_coord.int()], dim=1)
        shape = self.shape(batch.grid_coord)
        order = self.engine.order(indices, shape)
        return (indices if order is None else indices[order]).contiguous(), shape, order

    def _encode(self, batch: Batch) -> tuple[list[Any], torch.Tensor | None]:
        """Return the features of the stem and of each stage of the encoder, and the engine's order."""
        indices, shape, order = batch.once(self, lambda: self._cells(batch))
        feat = batch.feat if order is None else batch.feat[order]
        x = self.engine.tensor(feat, indices, shape, len(batch), batch.once((self, "maps"), dict))
        passed = [self.conv_input(x)]
        for down, enc in zip(self.down, self.enc, strict=True):
            passed.append(enc(down(passed[-1])))
        return passed, order

    def _finish(self, x: Any) -> torch.Tensor:
        y: torch.Tensor = x.features if isinstance(self.final, nn.Identity) else self.final(x).features
        return y

    def mean(self, batch: Batch) -> torch.Tensor:
        """Return (B, C): each cloud's mean of the last encoder's features, or of num_classes logits made of them."""
        x = self._encode(batch)[0][-1]
        y, cloud = self._finish(x).float(), x.indices[:, 0].long()
        means = torch.stack([y[cloud == i].mean(dim=0) for i in range(len(batch))])
        return means.to(x.features.dtype)

    def forward(self, batch: Batch) -> torch.Tensor:
        """Return (M, num_classes) logits, or the decoder's (M, channels[-1]) features."""
        skips, order = self._encode(batch)
        x = skips.pop()
        for up, dec in zip(reversed(self.up), reversed(self.dec), strict=True):
            x = up(x)
            x = dec(x.replace_feature(torch.cat([x.features, skips.pop().features], dim=1)))
        y = self._finish(x)
        return y if order is None else torch.empty_like(y).index_copy_(0, order, y)
