"""PPT-v1m2: one backbone for several datasets, a head for each (Point Prompt Training, Wu et al., CVPR 2024)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from service.models.batch import Batch
from service.models.layers.prompt_norm import index
from service.models.site import Site


class PromptTraining(nn.Module):
    """A backbone that is told the dataset, and a linear head for each; names of the state_dict are Pointcept's.

    Args:
        backbone: of features; its adaptive norms see the context that this network makes.
        backbone_out_channels: of its features.
        context_channels: of what is learnt of each dataset.
        conditions: names of the datasets.
        num_classes: of each of them.
        backbone_mode: whether the features come out, and no head is used.

    Raises:
        ValueError: there are not as many numbers of classes as conditions.
    """

    def __init__(
        self,
        backbone: nn.Module,
        backbone_out_channels: int = 96,
        context_channels: int = 256,
        conditions: Sequence[str] = ("Structured3D", "ScanNet", "S3DIS"),
        num_classes: Sequence[int] = (25, 20, 13),
        backbone_mode: bool = False,
    ) -> None:
        super().__init__()
        if len(conditions) != len(num_classes):
            raise ValueError(f"conditions has {len(conditions)} names, but num_classes {len(num_classes)} numbers.")
        self.conditions, self.backbone_mode = tuple(conditions), backbone_mode
        self.backbone = backbone
        self.embedding_table = nn.Embedding(len(conditions), context_channels)
        self.seg_heads = nn.ModuleList([nn.Linear(backbone_out_channels, classes) for classes in num_classes])

    def fold(self) -> None:
        """Fold the backbone's norms, where it can."""
        if hasattr(self.backbone, "fold"):
            self.backbone.fold()

    def forward(self, batch: Batch) -> torch.Tensor:
        """Return (M, classes of the batch's condition) logits.

        Raises:
            ValueError: the batch names no condition, or one that the network was not trained for.
        """
        chosen = index(batch.condition, self.conditions)
        feat: torch.Tensor = self.backbone(replace(batch, context=self.embedding_table.weight[chosen : chosen + 1]))
        return feat if self.backbone_mode else self.seg_heads[chosen](feat)


def build(config: Mapping[str, Any], site: Site) -> PromptTraining:
    """Return the network of a configuration; `criteria` is for training alone."""
    arguments = {key: value for key, value in config.items() if key not in ("backbone", "criteria")}
    return PromptTraining(site.build(config["backbone"]), **arguments)
