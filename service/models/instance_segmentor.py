"""A segmentor that also says which voxels are one object: class logits, and votes for the object's centre."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from service.models.batch import Batch
from service.models.site import Site

INSTANCE_CHANNELS = 5
"""What `service.transforms.instances` reads: three of the way to the object's centre, two of the votes' spread."""
_HIDDEN = 64


class InstanceSegmentor(nn.Module):
    """A backbone's features, a linear head for classes and a small one for instances.

    Args:
        backbone: returns (M, backbone_out_channels) features.
        backbone_out_channels: their number.
        num_classes: classes it tells apart.
    """

    def __init__(self, backbone: nn.Module, backbone_out_channels: int, num_classes: int) -> None:
        super().__init__()
        self.backbone = backbone
        self.seg_head = nn.Linear(backbone_out_channels, num_classes)
        self.instance_head = nn.Sequential(
            nn.Linear(backbone_out_channels, _HIDDEN),
            nn.BatchNorm1d(_HIDDEN),
            nn.ReLU(),
            nn.Linear(_HIDDEN, INSTANCE_CHANNELS),
        )

    def fold(self) -> None:
        """Fold the backbone's batch norms, where it can."""
        if hasattr(self.backbone, "fold"):
            self.backbone.fold()

    def forward(self, batch: Batch) -> torch.Tensor:
        """Return (M, num_classes + INSTANCE_CHANNELS): logits, then what `transforms.instances` decodes."""
        features = self.backbone(batch)
        return torch.cat([self.seg_head(features), self.instance_head(features)], dim=1)


def build(config: Mapping[str, Any], site: Site) -> InstanceSegmentor:
    """Return the network of a configuration: `backbone`, `backbone_out_channels`, `num_classes`."""
    return InstanceSegmentor(site.build(config["backbone"]), config["backbone_out_channels"], config["num_classes"])
