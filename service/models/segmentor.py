"""Pointcept's segmentors at inference: a backbone and, in V2, a linear head on its features."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from service.models.batch import Batch
from service.models.site import Site


class Segmentor(nn.Module):
    """DefaultSegmentor: the backbone's logits.

    Raises:
        ValueError: the backbone has one answer for a cloud (SpUNet-v1m1 with `enc_mode`, PointTransformer-Cls).
    """

    def __init__(self, backbone: nn.Module) -> None:
        super().__init__()
        if getattr(backbone, "per_cloud", False):
            raise ValueError("its backbone is an encoder alone, which has one answer for a cloud, not one a point.")
        self.backbone = backbone

    def fold(self) -> None:
        """Fold the backbone's batch norms, where it can."""
        if hasattr(self.backbone, "fold"):
            self.backbone.fold()

    def forward(self, batch: Batch) -> torch.Tensor:
        """Return (M, C) logits."""
        logits: torch.Tensor = self.backbone(batch)
        return logits


class SegmentorV2(Segmentor):
    """DefaultSegmentorV2: a linear layer from the backbone's features to logits; without classes, the features."""

    tasks = ("segment", "embed")

    def __init__(self, backbone: nn.Module, backbone_out_channels: int, num_classes: int) -> None:
        super().__init__(backbone)
        # Pointcept's order of the state_dict: the head stands before the backbone.
        del self.backbone
        self.seg_head = nn.Linear(backbone_out_channels, num_classes) if num_classes > 0 else nn.Identity()
        self.backbone = backbone

    def forward(self, batch: Batch) -> torch.Tensor:
        """Return (M, C) logits."""
        logits: torch.Tensor = self.seg_head(self.backbone(batch))
        return logits

    def features(self, batch: Batch) -> torch.Tensor:
        """Return (M, backbone_out_channels), what the head reads."""
        features: torch.Tensor = self.backbone(batch)
        return features


def build(config: Mapping[str, Any], site: Site) -> Segmentor:
    """Return a DefaultSegmentor; `criteria` is for training alone."""
    return Segmentor(site.build(config["backbone"]))


def build_v2(config: Mapping[str, Any], site: Site) -> SegmentorV2:
    """Return a DefaultSegmentorV2; `criteria` and `freeze_backbone` are for training alone."""
    return SegmentorV2(site.build(config["backbone"]), config["backbone_out_channels"], config["num_classes"])
