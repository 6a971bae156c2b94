"""SpUNet-v1m3: a residual U-Net with norms of several datasets (Point Prompt Training, Wu et al., CVPR 2024)."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import nn

from service.models.batch import Batch
from service.models.layers.apart import in_batch_order, ordered_cells
from service.models.layers.engine import Engine
from service.models.layers.prompt_norm import index
from service.models.site import Site

_MARGIN = 96
"""Cells that Pointcept leaves free above the largest coordinate: no level of the network cuts an odd edge off."""


class PromptBatchNorm(nn.Module):
    """A batch norm for each dataset or one for all, and where it is adaptive a scale and a shift from the context.

    Args:
        channels: of the features.
        conditions: names of the datasets.
        context_channels: of the context.
        decouple: whether each dataset has its own.
        adaptive: whether there are scale and shift.
        affine: whether the norms themselves have weights.
    """

    def __init__(
        self,
        channels: int,
        conditions: Sequence[str],
        context_channels: int,
        decouple: bool,
        adaptive: bool,
        affine: bool,
    ) -> None:
        super().__init__()
        self.conditions = tuple(conditions) if decouple else ()
        norm = partial(nn.BatchNorm1d, channels, eps=1e-3, momentum=0.01, affine=affine)
        if decouple:
            self.bns = nn.ModuleList([norm() for _ in conditions])
        else:
            self.bn = norm()
        self.modulation: nn.Module | None = None
        if adaptive:
            self.modulation = nn.Sequential(nn.SiLU(), nn.Linear(context_channels, 2 * channels))

    def forward(self, x: torch.Tensor, batch: Batch) -> torch.Tensor:
        """Return (M, C) features, normed as those of the batch's condition.

        Raises:
            ValueError: the batch names no condition, or one that the network was not trained for, or there is no
                context for an adaptive norm.
        """
        norm: Any = self.bns[index(batch.condition, self.conditions)] if self.conditions else self.bn
        # One pass over the features instead of two: the norm's numbers and the context's are multiplied first.
        scale = torch.rsqrt(norm.running_var.float() + norm.eps)
        shift = -norm.running_mean.float() * scale
        if norm.affine:
            scale, shift = scale * norm.weight.float(), shift * norm.weight.float() + norm.bias.float()
        if self.modulation is not None:
            if batch.context is None:
                raise ValueError("This network's norms are adaptive: it runs inside a network that makes a context.")
            moved, stretched = self.modulation(batch.context).float().chunk(2, dim=1)
            scale, shift = scale * (1 + stretched[0]), shift * (1 + stretched[0]) + moved[0]
        return torch.addcmul(shift.to(x.dtype), x, scale.to(x.dtype))


Norm = Callable[[int], PromptBatchNorm]


class Step(nn.Module):
    """A sparse convolution, a norm and a ReLU."""

    def __init__(self, conv: nn.Module, norm: PromptBatchNorm) -> None:
        super().__init__()
        self.conv, self.bn = conv, norm
        self.relu = nn.ReLU()

    def forward(self, x: Any, batch: Batch) -> Any:
        y = self.conv(x)
        return y.replace_feature(self.relu(self.bn(y.features, batch)))


class BasicBlock(nn.Module):
    """Two 3x3x3 submanifold convolutions and a shortcut."""

    def __init__(self, in_channels: int, channels: int, indice_key: str, engine: Engine, norm: Norm) -> None:
        super().__init__()
        self.projects = in_channels != channels
        if self.projects:
            self.proj_conv = engine.subm_conv(in_channels, channels, 1)
            self.proj_norm = norm(channels)
        self.conv1 = engine.subm_conv(in_channels, channels, 3, indice_key=indice_key)
        self.bn1 = norm(channels)
        self.relu = nn.ReLU()
        self.conv2 = engine.subm_conv(channels, channels, 3, indice_key=indice_key)
        self.bn2 = norm(channels)

    def forward(self, x: Any, batch: Batch) -> Any:
        y = self.conv1(x)
        y = self.conv2(y.replace_feature(self.relu(self.bn1(y.features, batch))))
        beside = self.proj_norm(self.proj_conv(x).features, batch) if self.projects else x.features
        return y.replace_feature(self.relu(self.bn2(y.features, batch) + beside))


class SpUNetV1m3(nn.Module):
    """The backbone; names and shapes of its state_dict are Pointcept's.

    Args:
        engine: sparse convolution engine.
        in_channels: features of a voxel.
        num_classes: channels of the result; 0: the decoder's features as they are.
        base_channels: channels of the stem.
        context_channels, conditions, norm_decouple, norm_adaptive, norm_affine: of the norms; see `PromptBatchNorm`.
        channels: of each stage, down and then up again.
        layers: blocks of each stage; as many as channels, and an even number.
        zero_init: for training alone.

    Raises:
        ValueError: layers and channels do not pair.
    """

    def __init__(
        self,
        engine: Engine,
        in_channels: int,
        num_classes: int = 0,
        base_channels: int = 32,
        context_channels: int = 256,
        channels: Sequence[int] = (32, 64, 128, 256, 256, 128, 96, 96),
        layers: Sequence[int] = (2, 3, 4, 6, 2, 2, 2, 2),
        conditions: Sequence[str] = ("ScanNet", "S3DIS", "Structured3D"),
        zero_init: bool = True,
        norm_decouple: bool = True,
        norm_adaptive: bool = True,
        norm_affine: bool = False,
    ) -> None:
        super().__init__()
        if len(layers) % 2 or len(layers) != len(channels):
            raise ValueError(f"A U-Net needs as many layers as channels and an even number: {layers}, {channels}.")
        self.engine = engine
        norm: Norm = partial(
            PromptBatchNorm,
            conditions=conditions,
            context_channels=context_channels,
            decouple=norm_decouple,
            adaptive=norm_adaptive,
            affine=norm_affine,
        )

        def blocks(count: int, first: int, width: int, key: str) -> nn.ModuleDict:
            made = [
                (f"block{i}", BasicBlock(first if i == 0 else width, width, key, engine, norm)) for i in range(count)
            ]
            return nn.ModuleDict(OrderedDict(made))

        # No other layer has a kernel of 5: its large map is not kept.
        self.conv_input = Step(engine.subm_conv(in_channels, base_channels, 5), norm(base_channels))
        self.down, self.up = nn.ModuleList(), nn.ModuleList()
        self.enc, self.dec = nn.ModuleList(), nn.ModuleList()
        skip, last = base_channels, len(channels) - 1
        for s in range(len(layers) // 2):
            width, up_width, key = channels[s], channels[last - s], f"spconv{s + 1}"
            self.down.append(Step(engine.down_conv(skip, width, 2, indice_key=key), norm(width)))
            self.enc.append(blocks(layers[s], width, width, f"subm{s + 1}"))
            up = engine.inverse_conv(channels[last - s - 1], up_width, 2, indice_key=key)
            self.up.append(Step(up, norm(up_width)))
            self.dec.append(blocks(layers[last - s], up_width + skip, up_width, f"subm{s}"))
            skip = width
        self.final: nn.Module = nn.Identity()
        if num_classes > 0:
            self.final = engine.subm_conv(channels[-1], num_classes, 1, bias=True)

    def _cells(self, batch: Batch) -> tuple[torch.Tensor, torch.Tensor | None, list[int]]:
        shape = [largest + _MARGIN for largest in batch.grid_coord.amax(dim=0).tolist()]
        return *ordered_cells(batch, self.engine, shape), shape

    def forward(self, batch: Batch) -> torch.Tensor:
        """Return (M, num_classes) logits, or the decoder's (M, channels[-1]) features.

        Raises:
            ValueError: what `PromptBatchNorm` lacks in the batch.
        """
        indices, order, shape = batch.once(self, lambda: self._cells(batch))
        feat = batch.feat if order is None else batch.feat[order]
        x = self.engine.tensor(feat, indices, shape, len(batch), batch.once((self, "maps"), dict))
        x = self.conv_input(x, batch)
        skips = []
        for down, enc in zip(self.down, self.enc, strict=True):
            skips.append(x)
            x = _through(enc, down(x, batch), batch)
        for up, dec in zip(reversed(self.up), reversed(self.dec), strict=True):
            x = up(x, batch)
            x = x.replace_feature(torch.cat([x.features, skips.pop().features], dim=1))
            x = _through(dec, x, batch)
        y: torch.Tensor = x.features if isinstance(self.final, nn.Identity) else self.final(x).features
        return in_batch_order(y, order)


def _through(blocks: nn.Module, x: Any, batch: Batch) -> Any:
    for block in blocks.children():
        x = block(x, batch)
    return x


def build(config: Mapping[str, Any], site: Site) -> SpUNetV1m3:
    """Return the network of a configuration: the arguments of `SpUNetV1m3` by their names.

    Raises:
        ValueError: it is an encoder alone (`enc_mode`, up to v1.6.0 `cls_mode`), with one answer for a cloud.
    """
    arguments = dict(config)
    for name in ("enc_mode", "cls_mode"):
        if arguments.pop(name, False):
            raise ValueError(
                f"its SpUNet-v1m3 has {name}: an encoder alone has one answer for a cloud, not one a point."
            )
    return SpUNetV1m3(site.engine, **arguments)
