"""What the versions of Point Transformer V3 share: an encoder and a decoder of stages (Wu et al., CVPR 2024)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import nn

from service.models.batch import Batch, means
from service.models.layers.prompt_norm import NormLayer
from service.models.layers.serialization import ORDERS
from service.models.layers.stages import Stage, Stages
from service.models.layers.transformer import Block, Flow, Pooling, Unpooling, fold_all, gather_up

TRAINING_ONLY = ("attn_drop", "proj_drop", "drop_path", "shuffle_orders", "upcast_attention", "upcast_softmax")
"""Arguments of Pointcept's that change nothing here; `PatchAttention` says so of the last two."""


@dataclass(frozen=True)
class Row:
    """One stage's numbers: of blocks, channels, heads, and cells of a patch."""

    depth: int
    channels: int
    heads: int
    patch_size: int


class PointTransformer(nn.Module):
    """Stages of blocks, down and up again; the versions differ in their stem, their blocks and their pooling.

    A version sets `embedding` first and then calls `assemble`: that is the order of Pointcept's state_dict.

    Attributes:
        tasks: what such a network is good for by itself, without a head.
    """

    tasks = ("embed",)

    def assemble(
        self,
        encoder: Sequence[Row],
        decoder: Sequence[Row],
        norm: NormLayer,
        block: Callable[[str, Row, int, bool], Block],
        convolves_sum: bool,
    ) -> None:
        """Make the stages.

        Args:
            encoder: rows, the finest stage first.
            decoder: rows, the finest stage first; empty: there is none.
            norm: makes the norms of pooling and unpooling.
            block: makes a block from the stage's name, its row, the block's number in it, and whether it decodes.
            convolves_sum: see `Unpooling`.
        """
        self.enc = nn.ModuleDict()
        for s, row in enumerate(encoder):
            stage = nn.ModuleDict()
            if s > 0:
                stage["down"] = Pooling(encoder[s - 1].channels, row.channels, norm)
            for i in range(row.depth):
                stage[f"block{i}"] = block(f"stage{s}", row, i, False)
            self.enc[f"enc{s}"] = stage
        if not decoder:
            return
        self.dec = nn.ModuleDict()
        channels = encoder[-1].channels
        for s, row in reversed(list(enumerate(decoder))):
            up = Unpooling(channels, encoder[s].channels, row.channels, norm, convolves_sum)
            stage = nn.ModuleDict({"up": up})
            for i in range(row.depth):
                stage[f"block{i}"] = block(f"stage{s}", row, i, True)
            self.dec[f"dec{s}"] = stage
            channels = row.channels

    def fold(self) -> None:
        """Fold batch norms into the layers before them, and linear layers into convolutions; inference only."""
        fold_all(self)

    def stages(self, batch: Batch) -> Stages:
        """Return the stages' cells, curves and kernel maps, made once for all batches of the same cells."""
        raise TypeError(f"{type(self).__name__} does not say how its stages are made.")

    def embed(self, batch: Batch, made: Stages) -> Flow:
        """Return the features on the cells of the first stage."""
        raise TypeError(f"{type(self).__name__} does not say how its features are embedded.")

    def encode(self, batch: Batch) -> tuple[list[Flow], Stages]:
        """Return the encoder's features of every stage, the finest first."""
        made = self.stages(batch)
        flows = [self.embed(batch, made)]
        for s, modules in enumerate(self.enc.values()):
            if s > 0:
                flows.append(modules["down"](flows[-1], made.stages[s - 1], batch))
            flows[-1] = _through(modules, flows[-1], made.stages[s], batch)
        return flows, made

    def forward(self, batch: Batch) -> torch.Tensor:
        """Return (M, channels of the finest decoder) features, or without a decoder those of all stages, side by side.

        Raises:
            ValueError: a cloud of the batch is empty, or too large for the curves; or the batch names no condition, and
                the norms ask for one.
        """
        flows, made = self.encode(batch)
        if not hasattr(self, "dec"):
            return made.give(gather_up([flow.feat for flow in flows], made.stages))
        return made.give(self._decode(flows, made, batch))

    def features(self, batch: Batch) -> torch.Tensor:
        """Return what `forward` returns."""
        return self.forward(batch)

    def summarise(self, batch: Batch) -> torch.Tensor:
        """Return (B, C): each cloud's mean of what the finest decoder gives, or without one the coarsest stage.

        Errors as in `forward`.
        """
        flows, made = self.encode(batch)
        if not hasattr(self, "dec"):
            return means(flows[-1].feat, made.stages[-1].sizes)
        return means(self._decode(flows, made, batch), made.stages[0].sizes)

    def _decode(self, flows: list[Flow], made: Stages, batch: Batch) -> torch.Tensor:
        x = flows.pop()
        for modules in self.dec.values():
            stage = made.stages[len(flows) - 1]
            x = modules["up"](x, flows.pop(), stage, batch)
            x = _through(modules, x, stage, batch)
        return x.feat


def _through(modules: nn.ModuleDict, x: Flow, stage: Stage, batch: Batch) -> Flow:
    """Return the features behind the blocks among a stage's modules."""
    for name, module in modules.items():
        if name.startswith("block"):
            x = module(x, stage, batch)
    return x


def rows(part: str, stages: int, *lists: Sequence[int]) -> list[Row]:
    """Return the rows of an encoder ("enc") or decoder ("dec") from depths, channels, heads and patch sizes.

    Raises:
        ValueError: a list has not one number for each stage.
    """
    for what, values in zip(("depths", "channels", "num_head", "patch_size"), lists, strict=True):
        if len(values) != stages:
            raise ValueError(f"{part}_{what} has {len(values)} numbers; by the length of stride it must be {stages}.")
    return [Row(*numbers) for numbers in zip(*lists, strict=True)]


def curves(order: str | Sequence[str]) -> tuple[str, ...]:
    """Return the names of the curves.

    Raises:
        ValueError: one is unknown.
    """
    orders = (order,) if isinstance(order, str) else tuple(order)
    for name in orders:
        if name not in ORDERS:
            raise ValueError(f"order has {name!r}; known are {', '.join(ORDERS)}.")
    return orders


def check_patches(encoder: Sequence[Row], decoder: Sequence[Row]) -> None:
    """Refuse stages whose patches Pointcept would mix up.

    Raises:
        ValueError: encoder and decoder have patches of other sizes on the same stage.
    """
    for s, (down, up) in enumerate(zip(encoder, decoder, strict=False)):
        # Pointcept keeps a stage's patches without their size: the decoder's attention would run on the encoder's.
        if down.depth and up.depth and down.patch_size != up.patch_size:
            sizes = f"enc_patch_size[{s}] is {down.patch_size}, dec_patch_size[{s}] is {up.patch_size}"
            raise ValueError(f"{sizes}; they must be equal.")
