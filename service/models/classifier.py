"""DefaultClassifier: one class for a cloud, from the mean of a backbone's features."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from service.models.batch import Batch
from service.models.layers.cloud_head import head
from service.models.site import Site


class Classifier(nn.Module):
    """A backbone that summarises clouds, and a head.

    Args:
        backbone: its `summarise` returns (B, backbone_embed_dim).
        backbone_embed_dim: channels of that.
        num_classes: classes it tells apart.

    Raises:
        ValueError: the backbone has one answer for each point only.
    """

    tasks = ("classify",)

    def __init__(self, backbone: nn.Module, backbone_embed_dim: int = 256, num_classes: int = 40) -> None:
        super().__init__()
        if not hasattr(backbone, "summarise"):
            raise ValueError(
                "its backbone has an answer for each point, and none for a cloud as a whole, which a DefaultClassifier "
                "needs: SpUNet-v1m1 with enc_mode, PT-v3m1, PT-v3m2, PT-v3m3 and PointTransformer-Cls have one."
            )
        self.backbone = backbone
        self.cls_head = head(backbone_embed_dim, num_classes)

    def fold(self) -> None:
        """Fold the backbone's batch norms, where it can."""
        if hasattr(self.backbone, "fold"):
            self.backbone.fold()

    def forward(self, batch: Batch) -> torch.Tensor:
        """Return (B, num_classes) logits, one row for each cloud."""
        logits: torch.Tensor = self.cls_head(self.backbone.summarise(batch))
        return logits


def build(config: Mapping[str, Any], site: Site) -> Classifier:
    """Return the network of a configuration; `criteria` and `freeze_backbone` are for training alone."""
    arguments = {key: value for key, value in config.items() if key not in ("backbone", "criteria", "freeze_backbone")}
    return Classifier(site.build(config["backbone"]), **arguments)
