"""SpUNet-v1m2: as v1m1 with other norms, and a grid that ends at the largest cell.

A strided convolution cuts an odd edge off: its last plane of cells has no window, and the way back leaves zeros there.
Pointcept's grid is the batch's largest, so that what is cut off a cloud depends on the others; here each cloud has its
own grid, and runs by itself.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import nn

from service.models.batch import Batch
from service.models.layers.apart import each_cloud, tight_shape
from service.models.layers.engine import Engine
from service.models.layers.unet import UNet
from service.models.site import Site


class SpUNetV1m2(UNet):
    """The backbone; see `UNet` for the arguments. `bn_momentum` is for training alone.

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
        bn_momentum: float = 0.1,
    ) -> None:
        norm = partial(nn.BatchNorm1d, eps=1e-5, momentum=bn_momentum)
        super().__init__(engine, norm, 1, in_channels, num_classes, base_channels, channels, layers)

    def shape(self, grid_coord: torch.Tensor) -> list[int]:
        """Return the extent of a cloud's grid; see `tight_shape`."""
        return tight_shape(grid_coord, self.num_stages)

    def forward(self, batch: Batch) -> torch.Tensor:
        """Return (M, num_classes) logits, or the decoder's (M, channels[-1]) features."""
        return each_cloud(self, batch, super().forward)


def build(config: Mapping[str, Any], site: Site) -> SpUNetV1m2:
    """Return the network of a configuration: the arguments of `SpUNetV1m2` by their names."""
    return SpUNetV1m2(site.engine, **config)
