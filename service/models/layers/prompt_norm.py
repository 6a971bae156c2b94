"""Norms of networks trained on several datasets (prompt-driven normalisation, Wu et al., CVPR 2024)."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import nn

from service.models.batch import Batch

NormLayer = Callable[[int], nn.Module]
"""Makes a norm of so many channels."""


class PromptNorm(nn.Module):
    """One norm for each dataset, and where it is adaptive a scale and a shift from the dataset's context.

    Args:
        channels: of the features.
        norm: makes the norm of one dataset.
        conditions: names of the datasets.
        adaptive: whether there are scale and shift.
        context_channels: of the context.
    """

    def __init__(
        self,
        channels: int,
        norm: NormLayer,
        conditions: Sequence[str],
        adaptive: bool,
        context_channels: int = 256,
    ) -> None:
        super().__init__()
        self.conditions = tuple(conditions)
        self.norm = nn.ModuleList([norm(channels) for _ in conditions])
        self.modulation: nn.Module | None = None
        if adaptive:
            self.modulation = nn.Sequential(nn.SiLU(), nn.Linear(context_channels, 2 * channels))

    def forward(self, x: torch.Tensor, batch: Batch) -> torch.Tensor:
        """Return (M, C) features, normed as those of the batch's condition.

        Raises:
            ValueError: the batch names no condition, or one that the network was not trained for, or there is no
                context for an adaptive norm.
        """
        x = self.norm[index(batch.condition, self.conditions)](x)
        if self.modulation is not None:
            if batch.context is None:
                raise ValueError("This network's norms are adaptive: it runs inside a network that makes a context.")
            shift, scale = self.modulation(batch.context).chunk(2, dim=1)
            x = torch.addcmul(shift, x, 1 + scale)
        return x


def index(condition: str | None, conditions: Sequence[str]) -> int:
    """Return which of the conditions it is.

    Raises:
        ValueError: it is none of them.
    """
    if condition not in conditions:
        known = ", ".join(conditions)
        raise ValueError(f"The network knows the datasets {known}; condition is {condition!r}, not one of them.")
    return list(conditions).index(str(condition))


class Chain(nn.Sequential):
    """Modules on (M, C) features one after another; those that ask for it see the batch's condition."""

    def forward(self, x: torch.Tensor, batch: Batch, first: int = 0) -> torch.Tensor:  # type: ignore[override]
        """Return (M, C') of (M, C) features, by the modules from `first` on."""
        for module in list(self)[first:]:
            x = module(x, batch) if isinstance(module, PromptNorm) else module(x)
        return x
