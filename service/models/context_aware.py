"""CAC-v1m1: a classifier that is made anew for each cloud (Tian et al., AAAI 2023).

A first guess says which points are probably of which class; their mean features, with the classes' own weights, become
the prototypes that points are compared with.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from service.models.batch import Batch
from service.models.layers.fold import fold_linear
from service.models.site import Site

_NO_POINTS = 1e-7
"""Added to the sum of a class's probabilities, as in Pointcept: a class without any has a prototype of zeros."""


class ContextAware(nn.Module):
    """A backbone of features, and the classifier; names and shapes of the state_dict are Pointcept's.

    Args:
        backbone: returns (M, backbone_out_channels) features.
        num_classes: classes it tells apart.
        backbone_out_channels: of the features.
        cos_temp: what the cosines are multiplied by.
        conf_thresh: points whose first guess is less sure than this do not take part in the prototypes; 0: all do.
    """

    def __init__(
        self,
        backbone: nn.Module,
        num_classes: int,
        backbone_out_channels: int,
        cos_temp: float = 15,
        conf_thresh: float = 0,
    ) -> None:
        super().__init__()
        self.cos_temp, self.conf_thresh = cos_temp, conf_thresh
        channels = backbone_out_channels
        self.backbone = backbone
        self.seg_head = nn.Linear(channels, num_classes)
        self.proj = _perceptron(channels)
        # The weights hold it; only training uses it.
        self.apd_proj = _perceptron(channels)
        self.feat_proj_layer = nn.Sequential(
            nn.Linear(channels, channels, bias=False),
            nn.BatchNorm1d(channels),
            nn.ReLU(),
            nn.Linear(channels, channels),
        )

    def fold(self) -> None:
        """Fold the batch norms, where it can."""
        if hasattr(self.backbone, "fold"):
            self.backbone.fold()
        fold_linear(self.feat_proj_layer[0], self.feat_proj_layer[1])
        self.feat_proj_layer[1] = nn.Identity()

    def forward(self, batch: Batch) -> torch.Tensor:
        """Return (M, num_classes) cosines times cos_temp; each cloud has prototypes of its own."""
        feat: torch.Tensor = self.backbone(batch)
        guess = self.seg_head(feat)
        sizes = batch.sizes
        parts = [self._refine(x, first) for x, first in zip(feat.split(sizes), guess.split(sizes), strict=True)]
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    def _refine(self, feat: torch.Tensor, guess: torch.Tensor) -> torch.Tensor:
        """Return (m, num_classes) of one cloud's (m, C) features and (m, num_classes) first logits."""
        # Sums over all points of a cloud are past what half precision holds.
        share = guess.float().softmax(dim=1)
        if self.conf_thresh > 0:
            share = share * (share.amax(dim=1, keepdim=True) >= self.conf_thresh)
        mean = (share / (share.sum(dim=0) + _NO_POINTS)).t() @ feat.float()
        prototype = self.proj(torch.cat([mean.to(feat.dtype), self.seg_head.weight], dim=1))
        cosine = functional.normalize(self.feat_proj_layer(feat), dim=1) @ functional.normalize(prototype, dim=1).t()
        return cosine * self.cos_temp


def _perceptron(channels: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(2 * channels, 2 * channels, bias=False), nn.ReLU(), nn.Linear(2 * channels, channels)
    )


_TRAINING_ONLY = ("criteria", "main_weight", "pre_weight", "pre_self_weight", "kl_weight", "detach_pre_logits")


def build(config: Mapping[str, Any], site: Site) -> ContextAware:
    """Return the network of a configuration; `criteria`, losses' weights, `detach_pre_logits` are for training."""
    arguments = {key: value for key, value in config.items() if key not in ("backbone", *_TRAINING_ONLY)}
    return ContextAware(site.build(config["backbone"]), **arguments)
