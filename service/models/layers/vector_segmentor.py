"""PointTransformer-Seg: the encoder of `vector_attention`, and a decoder back to the points."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from service.models.batch import Batch
from service.models.layers.vector_attention import (
    NEIGHBOURS,
    PLANES,
    Bottleneck,
    Level,
    TransitionUp,
    VectorTransformer,
)


class VectorSegmentor(VectorTransformer):
    """The network; names and shapes of its state_dict are Pointcept's.

    Args:
        depths: blocks of each level of the encoder.
        in_channels: features of a point.
        num_classes: channels of the result.
    """

    def __init__(self, depths: Sequence[int], in_channels: int = 6, num_classes: int = 13) -> None:
        super().__init__(depths, in_channels)
        for i, planes in reversed(list(enumerate(PLANES))):
            up = TransitionUp(planes) if i + 1 == len(PLANES) else TransitionUp(PLANES[i + 1], planes)
            self.add_module(f"dec{i + 1}", Level(up, Bottleneck(planes)))
        first = PLANES[0]
        self.cls = nn.Sequential(
            nn.Linear(first, first), nn.BatchNorm1d(first), nn.ReLU(), nn.Linear(first, num_classes)
        )

    def forward(self, batch: Batch) -> torch.Tensor:
        """Return (M, num_classes) logits.

        Raises:
            ValueError: a cloud of the batch is empty.
        """
        levels = self.encode(batch.feat, batch)
        x, points = levels.pop()
        level: Level = self.get_submodule(f"dec{len(PLANES)}")  # type: ignore[assignment]
        x = level.blocks(level[0].spread(x, points), points, NEIGHBOURS[-1])
        while levels:
            level = self.get_submodule(f"dec{len(levels)}")  # type: ignore[assignment]
            neighbours = NEIGHBOURS[len(levels) - 1]
            skip, targets = levels.pop()
            x = level.blocks(level[0](x, points, skip, targets), targets, neighbours)
            points = targets
        logits: torch.Tensor = self.cls(x)
        return logits
