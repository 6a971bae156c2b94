"""PointTransformer-Cls: the encoder of `vector_attention`, and a head on each cloud's mean."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from service.models.batch import Batch, means
from service.models.layers.cloud_head import head
from service.models.layers.vector_attention import PLANES, VectorTransformer


class VectorClassifier(VectorTransformer):
    """The network; names and shapes of its state_dict are Pointcept's.

    Args:
        depths: blocks of each level, those that the name counts; each level has one fewer.
        in_channels: features of a point with its three coordinates, which the network puts before them; 3: the
            coordinates alone, whatever the features are.
        num_classes: channels of the result.
    """

    per_cloud = True

    def __init__(self, depths: Sequence[int], in_channels: int = 6, num_classes: int = 40) -> None:
        super().__init__([depth - 1 for depth in depths], in_channels)
        self.in_channels = in_channels
        self.reads = None if in_channels == len("xyz") else in_channels - len("xyz")
        """Channels of the features that a batch must have; None: any number."""
        self.cls = head(PLANES[-1], num_classes)

    def forward(self, batch: Batch) -> torch.Tensor:
        """Return (B, num_classes), one row for each cloud.

        Raises:
            ValueError: a cloud of the batch is empty.
        """
        coord = batch.coord.to(batch.feat.dtype)
        x, points = self.encode(coord if self.reads is None else torch.cat([coord, batch.feat], dim=1), batch)[-1]
        logits: torch.Tensor = self.cls(means(x, points.sizes))
        return logits

    def summarise(self, batch: Batch) -> torch.Tensor:
        """Return (B, num_classes): what a head of another classifier reads."""
        return self(batch)
