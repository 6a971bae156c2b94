"""DefaultLORASegmentorV2: a backbone whose attention was tuned by low-rank matrices (Hu et al., ICLR 2022).

The weights have the names that the library peft gives them. What they add is added to the layers that they tune when
the network is folded; peft itself is not needed.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import nn

from service.models.batch import Batch
from service.models.site import Site

_TUNED = "qkv"
"""Name of the layers that Pointcept tunes."""


class LowRank(nn.Module):
    """A linear layer, and two thin matrices whose product is added to its own.

    Args:
        layer: the layer as it was before.
        rank: of the product.
        scale: what the product is multiplied by.
    """

    def __init__(self, layer: nn.Linear, rank: int, scale: float) -> None:
        super().__init__()
        self.scale = scale
        self.base_layer = layer
        self.lora_A = nn.ModuleDict({"default": nn.Linear(layer.in_features, rank, bias=False)})
        self.lora_B = nn.ModuleDict({"default": nn.Linear(rank, layer.out_features, bias=False)})
        nn.init.zeros_(self._thin[1])

    @property
    def _thin(self) -> tuple[torch.Tensor, torch.Tensor]:
        first, second = self.lora_A["default"].weight, self.lora_B["default"].weight
        assert isinstance(first, torch.Tensor)
        assert isinstance(second, torch.Tensor)
        return first, second

    @torch.no_grad()
    def merged(self) -> nn.Linear:
        """Return the layer with what the thin matrices add; it is changed in place."""
        first, second = self._thin
        self.base_layer.weight.add_(second @ first, alpha=self.scale)
        return self.base_layer

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return (M, out) of (M, in) features."""
        y: torch.Tensor = self.base_layer(x)
        return y + self.lora_B["default"](self.lora_A["default"](x)) * self.scale


class Tuned(nn.Module):
    """An encoder's stages under the name that peft gives them."""

    def __init__(self, stages: nn.ModuleDict) -> None:
        super().__init__()
        self.base_model = nn.Module()
        self.base_model.model = stages

    def values(self) -> Iterator[nn.Module]:
        """Return the stages, the finest first."""
        stages = self.base_model.model
        assert isinstance(stages, nn.ModuleDict)
        return iter(stages.values())


def _tune(stages: nn.Module, rank: int, scale: float) -> int:
    """Give every layer named qkv its thin matrices; return how many there are."""
    count = 0
    for module in list(stages.modules()):
        layer = getattr(module, _TUNED, None)
        if isinstance(layer, nn.Linear):
            setattr(module, _TUNED, LowRank(layer, rank, scale))
            count += 1
    return count


class LowRankSegmentor(nn.Module):
    """A linear layer from the backbone's features to logits; names and shapes of the state_dict are Pointcept's.

    Args:
        backbone: of features, with stages `enc` whose attention has layers named qkv.
        backbone_out_channels: of the features.
        num_classes: classes it tells apart; 0: the features come out.
        use_lora: whether there are low-rank matrices.
        lora_r: their rank.
        lora_alpha: their product is multiplied by lora_alpha / lora_r.

    Raises:
        ValueError: the rank is not positive, or the backbone has nothing to tune.
    """

    def __init__(
        self,
        backbone: nn.Module,
        backbone_out_channels: int,
        num_classes: int,
        use_lora: bool = False,
        lora_r: int = 8,
        lora_alpha: float = 16,
    ) -> None:
        super().__init__()
        self.seg_head = nn.Linear(backbone_out_channels, num_classes) if num_classes > 0 else nn.Identity()
        self.backbone = backbone
        if not use_lora:
            return
        if lora_r < 1:
            raise ValueError(f"lora_r is {lora_r}; the rank of low-rank weights must be 1 or more.")
        stages = getattr(backbone, "enc", None)
        if not isinstance(stages, nn.ModuleDict) or not _tune(stages, lora_r, lora_alpha / lora_r):
            raise ValueError(f"use_lora: the backbone's encoder has no layer named {_TUNED} that could be tuned.")
        # Under the same name, so that the order of the weights stays.
        backbone.enc = Tuned(stages)

    def fold(self) -> None:
        """Add the low-rank weights to the layers that they tune, and fold the backbone; inference only."""
        for module in list(self.backbone.modules()):
            tuned = getattr(module, _TUNED, None)
            if isinstance(tuned, LowRank):
                setattr(module, _TUNED, tuned.merged())
        if hasattr(self.backbone, "fold"):
            self.backbone.fold()

    def forward(self, batch: Batch) -> torch.Tensor:
        """Return (M, C) logits."""
        logits: torch.Tensor = self.seg_head(self.backbone(batch))
        return logits


_TRAINING_ONLY = ("criteria", "freeze_backbone", "lora_dropout", "backbone_path", "keywords", "replacements")


def build(config: Mapping[str, Any], site: Site) -> LowRankSegmentor:
    """Return the network of a configuration.

    `criteria`, `freeze_backbone` and `lora_dropout` are for training; `backbone_path` with `keywords` and
    `replacements` say what training started from, which the checkpoint holds.
    """
    arguments = {key: value for key, value in config.items() if key not in ("backbone", *_TRAINING_ONLY)}
    return LowRankSegmentor(site.build(config["backbone"]), **arguments)
