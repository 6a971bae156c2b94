"""SpUNet-v1m1, Pointcept's SparseUNet."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from torch import nn

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
    ) -> None:
        norm = partial(nn.BatchNorm1d, eps=1e-3, momentum=0.01)
        super().__init__(engine, norm, _MARGIN, in_channels, num_classes, base_channels, channels, layers)


def build(config: Mapping[str, Any], site: Site) -> SpUNet:
    """Return the network of a configuration: the arguments of `SpUNet` by their names.

    Raises:
        ValueError: it is an encoder alone (`enc_mode`; up to v1.6.0 `cls_mode`), with one answer for a cloud.
    """
    arguments = dict(config)
    if any([arguments.pop("enc_mode", False), arguments.pop("cls_mode", False)]):
        raise ValueError("its SpUNet-v1m1 has enc_mode: an encoder alone has one answer for a cloud, not one a point.")
    return SpUNet(site.engine, **arguments)
