"""SGIFormer-v1m1: objects as masks over superpoints (Yao et al., TMM 2025).

`layers.mask_decoder` makes masks, `service.transforms.masks` objects of them. A cloud's objects are its own: Pointcept
infers one cloud at a time.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from service.models.batch import Batch
from service.models.layers.fold import fold_linear
from service.models.layers.mask_decoder import MaskDecoder
from service.models.site import Site
from service.transforms.masks import Masks

_FAR = 50.0
"""Between logits of which the lesser one's probability is nothing in float32."""


class SGIFormer(nn.Module):
    """A backbone of features and the decoder; names of the state_dict are Pointcept's.

    Args:
        backbone: returns (M, in_channel of the decoder) features.
        decoder: arguments of `MaskDecoder`.
        topk_insts, score_thr, npoint_thr, sp_score_thr, nms: how masks become objects, `Masks` in its order.
        semantic_num_classes: classes of objects, those of the decoder.

    Raises:
        ValueError: the decoder tells another number of classes apart.
    """

    superpoints = True

    def __init__(
        self,
        backbone: nn.Module,
        decoder: Mapping[str, Any],
        topk_insts: int = 200,
        score_thr: float = 0.0,
        npoint_thr: int = 100,
        sp_score_thr: float = 0.55,
        nms: bool = True,
        semantic_num_classes: int = 20,
    ) -> None:
        super().__init__()
        self.grouping = Masks(topk_insts, score_thr, npoint_thr, sp_score_thr, nms)
        self.backbone = backbone
        self.decoder = MaskDecoder(**decoder)
        if self.decoder.num_classes != semantic_num_classes:
            raise ValueError(
                f"its semantic_num_classes is {semantic_num_classes} and its decoder's num_classes "
                f"{self.decoder.num_classes}; they must be equal."
            )

    def fold(self) -> None:
        """Fold the batch norms, where it can."""
        if hasattr(self.backbone, "fold"):
            self.backbone.fold()
        for head in (self.decoder.seg_head, self.decoder.bias_head):
            fold_linear(head[0], head[1])
            head[1] = nn.Identity()

    def forward(self, batch: Batch) -> torch.Tensor:
        """Return (M, classes + 1 + 3) float32: logits, the last one of no object, and what `Masks.settle` says.

        Raises:
            ValueError: the batch has no superpoints.
        """
        if batch.superpoint is None:
            raise ValueError("its network reads superpoints, and the batch has none.")
        feat = self.backbone(batch)
        sizes = batch.sizes
        parts = (part.split(sizes) for part in (feat, batch.coord, batch.superpoint))
        return torch.cat([self._cloud(*cloud) for cloud in zip(*parts, strict=True)])

    def _cloud(self, feat: torch.Tensor, coord: torch.Tensor, superpoint: torch.Tensor) -> torch.Tensor:
        told = self.decoder(feat, coord, superpoint)
        voxels = torch.bincount(superpoint)
        choice = self.grouping.choose(told.logits, told.masks, told.quality, voxels)
        rows = self.grouping.settle(choice, voxels)[superpoint]
        # What is not an object's has no class: training teaches the classes of objects' points alone.
        known = told.point_logits[:, :-1].float()
        rest = torch.where(rows[:, 0] < 0, known.amax(dim=1) + _FAR, known.amin(dim=1) - _FAR)
        return torch.cat([known, rest.unsqueeze(1), rows], dim=1)


_UNUSED = ("criteria", "semantic_ignore_index", "segment_ignore_index", "instance_ignore_index")


def build(config: Mapping[str, Any], site: Site) -> SGIFormer:
    """Return the network of a configuration; `criteria` and what is ignored are for training alone."""
    arguments = {key: value for key, value in config.items() if key not in ("backbone", *_UNUSED)}
    return SGIFormer(site.build(config["backbone"]), **arguments)
