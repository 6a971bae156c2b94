"""SpUNet-v1m1, Pointcept's SparseUNet."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import nn

from service.models.batch import Batch
from service.models.layers.engine import Engine
from service.models.layers.unet import UNet
from service.models.site import Site

_MARGIN = 96
"""Cells that Pointcept leaves free above the largest coordinate: no level of the network cuts an odd edge off."""


class SpUNet(UNet):
    """The backbone; see `UNet` for the arguments.

    Raises:
        ValueError: layers and channels do not pair.
    """

    def __init__(
        self,
        engine: Engine,
        in_channels: int,
        num_classes: int,
        base_channels: int = 32,
        channels: Sequence[int] = (32, 64, 128, 256, 256, 128, 96, 96),
        layers: Sequence[int] = (2, 3, 4, 6, 2, 2, 2, 2),
        decodes: bool = True,
    ) -> None:
        norm = partial(nn.BatchNorm1d, eps=1e-3, momentum=0.01)
        super().__init__(engine, norm, _MARGIN, in_channels, num_classes, base_channels, channels, layers, decodes)


class SpUNetEncoder(SpUNet):
    """The encoder alone: one answer for a cloud."""

    per_cloud = True

    def summarise(self, batch: Batch) -> torch.Tensor:
        """Return (B, C): what a classifier's head reads."""
        return self.mean(batch)

    def forward(self, batch: Batch) -> torch.Tensor:
        """Return the same."""
        return self.mean(batch)


def build(config: Mapping[str, Any], site: Site) -> SpUNet:
    """Return the network of a configuration: the arguments of `SpUNet` by their names, and `enc_mode`.

    With `enc_mode` (up to v1.6.0 `cls_mode`) it is the encoder alone.
    """
    arguments = dict(config)
    if any([arguments.pop("enc_mode", False), arguments.pop("cls_mode", False)]):
        return SpUNetEncoder(site.engine, **arguments, decodes=False)
    return SpUNet(site.engine, **arguments)
