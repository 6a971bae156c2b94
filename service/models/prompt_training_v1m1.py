"""PPT-v1m1: one backbone for several datasets, whose classes are texts (Point Prompt Training, Wu et al., CVPR 2024).

What CLIP made of the classes' names is in the checkpoint: CLIP itself is not needed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from service.models.batch import Batch
from service.models.layers.prompt_norm import index
from service.models.layers.text_head import check_conditions, compare, new_scale, text_channels
from service.models.site import Site

CLASS_NAME = (
    *("wall", "floor", "cabinet", "bed", "chair", "sofa", "table", "door", "window", "bookshelf", "bookcase"),
    *("picture", "counter", "desk", "shelves", "curtain", "dresser", "pillow", "mirror", "ceiling", "refrigerator"),
    *("television", "shower curtain", "nightstand", "toilet", "sink", "lamp", "bathtub", "garbagebin", "board"),
    *("beam", "column", "clutter", "otherstructure", "otherfurniture", "otherprop"),
)
VALID_INDEX = (
    (0, 1, 2, 3, 4, 5, 6, 7, 8, 11, 13, 14, 15, 16, 17, 18, 19, 20, 21, 23, 25, 26, 33, 34, 35),
    (0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 11, 12, 13, 15, 20, 22, 24, 25, 27, 34),
    (0, 1, 4, 5, 6, 7, 8, 10, 19, 29, 30, 31, 32),
)


class LanguageGuided(nn.Module):
    """A backbone that is told the dataset, and a head of texts; names of the state_dict are Pointcept's.

    Args:
        backbone: of features; its adaptive norms see the context that this network makes.
        backbone_out_channels: of its features.
        context_channels: of what is learnt of each dataset.
        conditions: names of the datasets.
        clip_model: by which the texts were made; says how many channels they have.
        class_name: names of the classes of all datasets.
        valid_index: which of them each dataset has, in its order.
        backbone_mode: whether the features come out, and there is no head.
        template: what stood around a name when the texts were made.

    Raises:
        ValueError: there are not as many lists of classes as conditions, a class that has no name, an unknown CLIP.
    """

    def __init__(
        self,
        backbone: nn.Module,
        backbone_out_channels: int = 96,
        context_channels: int = 256,
        conditions: Sequence[str] = ("Structured3D", "ScanNet", "S3DIS"),
        template: str = "[x]",
        clip_model: str = "ViT-B/16",
        class_name: Sequence[str] = CLASS_NAME,
        valid_index: Sequence[Sequence[int]] = VALID_INDEX,
        backbone_mode: bool = False,
    ) -> None:
        super().__init__()
        check_conditions(conditions, "valid_index", valid_index)
        beyond = next((i for row in valid_index for i in row if not 0 <= i < len(class_name)), None)
        if beyond is not None:
            raise ValueError(f"valid_index has {beyond}, but class_name {len(class_name)} names, counted from 0.")
        self.conditions, self.backbone_mode = tuple(conditions), backbone_mode
        self.valid_index = [list(row) for row in valid_index]
        self.classes = {
            name: tuple(class_name[i] for i in row) for name, row in zip(conditions, valid_index, strict=True)
        }
        if not backbone_mode:
            channels = text_channels(clip_model)
            self.logit_scale = new_scale()
            self.register_buffer("class_embedding", torch.zeros(len(class_name), channels))
        self.backbone = backbone
        self.embedding_table = nn.Embedding(len(conditions), context_channels)
        if not backbone_mode:
            self.proj_head = nn.Linear(backbone_out_channels, channels)

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
        if self.backbone_mode:
            return feat
        embedding: Any = self.class_embedding
        return compare(self.proj_head(feat), embedding[self.valid_index[chosen]], self.logit_scale)


def build(config: Mapping[str, Any], site: Site) -> LanguageGuided:
    """Return the network of a configuration; `criteria` is for training alone."""
    arguments = {key: value for key, value in config.items() if key not in ("backbone", "criteria")}
    return LanguageGuided(site.build(config["backbone"]), **arguments)
