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
        x = self.choose(batch)(x)
        if self.modulation is not None:
            if batch.context is None:
                raise ValueError("This network's norms are adaptive: it runs inside a network that makes a context.")
            shift, scale = self.modulation(batch.context).chunk(2, dim=1)
            x = torch.addcmul(shift, x, 1 + scale)
        return x

    def choose(self, batch: Batch) -> nn.Module:
        """Return the norm of the batch's condition; errors as in `forward`."""
        chosen: nn.Module = self.norm[index(batch.condition, self.conditions)]
        return chosen


class PromptBatchNorm(PromptNorm):
    """The batch norm of SpUNet-v1m3 and PT-v2m3, which name its parts otherwise, and may share one for all datasets.

    Args:
        channels: of the features.
        conditions: names of the datasets.
        decouple: whether each has a norm of its own.
        adaptive: whether there are scale and shift from the dataset's context.
        affine: whether the norms have a scale and a shift of their own.
        context_channels: of the context.
    """

    def __init__(
        self,
        channels: int,
        conditions: Sequence[str],
        decouple: bool = True,
        adaptive: bool = False,
        affine: bool = True,
        context_channels: int = 256,
    ) -> None:
        nn.Module.__init__(self)

        def norm() -> nn.Module:
            return nn.BatchNorm1d(channels, eps=1e-3, momentum=0.01, affine=affine)

        self.conditions, self.decouple = tuple(conditions), decouple
        if decouple:
            self.bns = nn.ModuleList([norm() for _ in conditions])
        else:
            self.bn = norm()
        self.modulation = None
        if adaptive:
            self.modulation = nn.Sequential(nn.SiLU(), nn.Linear(context_channels, 2 * channels))

    def choose(self, batch: Batch) -> nn.Module:
        """Return the norm of the batch's condition, or that of all; errors as in `PromptNorm.forward`."""
        if not self.decouple:
            return self.bn
        chosen: nn.Module = self.bns[index(batch.condition, self.conditions)]
        return chosen


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
