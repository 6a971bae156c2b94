"""PPT-v1m3: one backbone for several datasets with a head of texts, as Sonata's joint training has it.

Pointcept does not save what CLIP made of the classes' names (its buffer `class_embeddings` is not persistent) but makes
it anew each time. Here it is read: from the checkpoint where somebody put it there, or from a file beside it; see
`service.models.texts`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

from service.models.batch import Batch
from service.models.layers.prompt_norm import index
from service.models.layers.text_head import check_conditions, compare, new_scale, text_channels
from service.models.site import Site

TEXTS = "class_embeddings"
CLASS_NAMES = (
    (
        *("wall", "floor", "cabinet", "bed", "chair", "sofa", "table", "door", "window", "picture", "desk", "shelves"),
        *("curtain", "dresser", "pillow", "mirror", "ceiling", "refrigerator", "television", "nightstand", "sink"),
        *("lamp", "otherstructure", "otherfurniture", "otherprop"),
    ),
    (
        *("wall", "floor", "cabinet", "bed", "chair", "sofa", "table", "door", "window", "bookshelf", "picture"),
        *("counter", "desk", "curtain", "refridgerator", "shower curtain", "toilet", "sink", "bathtub"),
        "otherfurniture",
    ),
    (
        *("ceiling", "floor", "wall", "beam", "column", "window", "door", "table", "chair", "sofa", "bookcase"),
        *("board", "clutter"),
    ),
)


class LanguageGuidedJoint(nn.Module):
    """A backbone and a head of texts; names of the state_dict are Pointcept's.

    Args:
        backbone: of features.
        backbone_out_channels: of its features.
        conditions: names of the datasets.
        clip_model: by which the texts are made; says how many channels they have.
        class_names: of each dataset; None: those of Structured3D, ScanNet and S3DIS.
        backbone_mode: whether the features come out, and there is no head.
        template: what stands around a name when the texts are made.
        freeze_backbone: for training alone.

    Raises:
        ValueError: there are not as many lists of classes as conditions, or an unknown CLIP.
    """

    def __init__(
        self,
        backbone: nn.Module,
        backbone_out_channels: int = 96,
        conditions: Sequence[str] = ("Structured3D", "ScanNet", "S3DIS"),
        template: str = "[x]",
        clip_model: str = "ViT-B/16",
        class_names: Sequence[Sequence[str]] | None = None,
        freeze_backbone: bool = False,
        backbone_mode: bool = False,
    ) -> None:
        super().__init__()
        names = CLASS_NAMES if class_names is None else class_names
        check_conditions(conditions, "class_names", names)
        self.conditions, self.backbone_mode = tuple(conditions), backbone_mode
        self.classes = {name: tuple(row) for name, row in zip(conditions, names, strict=True)}
        self.texts: tuple[str, ...] = tuple(template.replace("[x]", name) for row in names for name in row)
        self.clip_model = clip_model
        if not backbone_mode:
            channels = text_channels(clip_model)
            self.logit_scale = new_scale()
            self.register_buffer(TEXTS, torch.full((len(self.texts), channels), torch.nan), persistent=False)
        self.backbone = backbone
        if not backbone_mode:
            self.proj_head = nn.Linear(backbone_out_channels, channels)

    def fold(self) -> None:
        """Fold the backbone's norms, where it can."""
        if hasattr(self.backbone, "fold"):
            self.backbone.fold()

    def _load_from_state_dict(self, state: dict[str, Any], prefix: str, *rest: Any) -> None:
        """Take the texts where the weights hold them; without them the logits are not numbers."""
        texts = state.pop(prefix + TEXTS, None)
        if texts is not None and not self.backbone_mode:
            self.class_embeddings: torch.Tensor
            self.class_embeddings.copy_(texts)
        super()._load_from_state_dict(state, prefix, *rest)

    def forward(self, batch: Batch) -> torch.Tensor:
        """Return (M, classes of the batch's condition) logits.

        Raises:
            ValueError: the batch names no condition, or one that the network was not trained for.
        """
        chosen = index(batch.condition, self.conditions)
        feat: torch.Tensor = self.backbone(batch)
        if self.backbone_mode:
            return feat
        texts = self.class_embeddings.split([len(self.classes[name]) for name in self.conditions])[chosen]
        return compare(self.proj_head(feat), texts, self.logit_scale)


def build(config: Mapping[str, Any], site: Site) -> LanguageGuidedJoint:
    """Return the network of a configuration; `criteria` is for training alone."""
    arguments = {key: value for key, value in config.items() if key not in ("backbone", "criteria")}
    return LanguageGuidedJoint(site.build(config["backbone"]), **arguments)
