"""The head with which Pointcept's networks classify clouds."""

from __future__ import annotations

from itertools import pairwise

from torch import nn


def head(channels: int, classes: int) -> nn.Sequential:
    """Return layers from (B, channels) features to (B, classes) logits."""
    layers: list[nn.Module] = []
    for before, behind in pairwise((channels, 256, 128)):
        layers += [nn.Linear(before, behind), nn.BatchNorm1d(behind), nn.ReLU(), nn.Dropout(0.5)]
    return nn.Sequential(*layers, nn.Linear(128, classes))
