"""PG-v1m1 and PG-v1m2: points that vote for the middle of their object (PointGroup, Jiang et al., CVPR 2020).

The network gives classes and votes; `service.transforms.grouping` makes objects of them. Pointcept's own code asks for
the true middles at inference too, and does not use them there.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

from service.models.batch import Batch
from service.models.layers.fold import fold_linear
from service.models.site import Site
from service.transforms.grouping import Grouping


class PointGroup(nn.Module):
    """A backbone of features, a head for votes and one for classes; names of the state_dict are Pointcept's.

    Args:
        backbone: returns (M, backbone_out_channels) features.
        backbone_out_channels: of the features.
        semantic_num_classes: classes it tells apart.
        segment_ignore_index: classes that have no objects.
        cluster_thresh: how near votes of one object are, in units of voxel_size.
        cluster_min_points: voxels of the smallest object.
        cluster_propose_points: an object has more voxels than these, too.
        voxel_size: in metres.

    Raises:
        ValueError: a distance that is not positive.
    """

    def __init__(
        self,
        backbone: nn.Module,
        backbone_out_channels: int = 64,
        semantic_num_classes: int = 20,
        segment_ignore_index: Sequence[int] = (-1, 0, 1),
        cluster_thresh: float = 1.5,
        cluster_min_points: int = 50,
        cluster_propose_points: int = 100,
        voxel_size: float = 0.02,
    ) -> None:
        super().__init__()
        channels = backbone_out_channels
        self.grouping = Grouping(
            radius_m=cluster_thresh * voxel_size,
            ignored=tuple(int(label) for label in segment_ignore_index),
            least_voxels=max(cluster_min_points, cluster_propose_points + 1),
        )
        self.backbone = backbone
        self.bias_head = nn.Sequential(
            nn.Linear(channels, channels),
            nn.BatchNorm1d(channels, eps=1e-3, momentum=0.01),
            nn.ReLU(),
            nn.Linear(channels, 3),
        )
        self.seg_head = nn.Linear(channels, semantic_num_classes)

    def fold(self) -> None:
        """Fold the batch norms, where it can."""
        if hasattr(self.backbone, "fold"):
            self.backbone.fold()
        fold_linear(self.bias_head[0], self.bias_head[1])
        self.bias_head[1] = nn.Identity()

    def forward(self, batch: Batch) -> torch.Tensor:
        """Return (M, semantic_num_classes + 3): logits, then the way in metres to the middle of a voxel's object."""
        feat = self.backbone(batch)
        return torch.cat([self.seg_head(feat), self.bias_head(feat)], dim=1)


_UNUSED = ("semantic_ignore_index", "instance_ignore_index", "cluster_closed_points", "criteria", "freeze_backbone")


def build(config: Mapping[str, Any], site: Site) -> PointGroup:
    """Return the network of a configuration.

    `semantic_ignore_index`, `instance_ignore_index`, `criteria` and `freeze_backbone` are for training alone;
    `cluster_closed_points` is a guess at memory that is not needed here.
    """
    arguments = {key: value for key, value in config.items() if key not in ("backbone", *_UNUSED)}
    return PointGroup(site.build(config["backbone"]), **arguments)
