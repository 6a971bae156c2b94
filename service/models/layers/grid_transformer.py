"""Point Transformer V3 with grid pooling, the network of PT-v3m2 (Sonata) and PT-v3m3 (Utonia)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from service.models.batch import Batch
from service.models.layers.attention import PatchAttention
from service.models.layers.engine import Engine
from service.models.layers.point_transformer import PointTransformer, Row, check_patches, curves, rows
from service.models.layers.stages import Stages, by_grid
from service.models.layers.transformer import Block, Flow


class Embedding(nn.Module):
    """A linear layer, a norm and a GELU; and the token that stood for masked points in pretraining, unused."""

    def __init__(self, in_channels: int, channels: int, mask_token: bool) -> None:
        super().__init__()
        stem = {"linear": nn.Linear(in_channels, channels), "norm": nn.LayerNorm(channels), "act": nn.GELU()}
        self.stem = nn.ModuleDict(stem)
        if mask_token:
            self.mask_token = nn.Parameter(torch.zeros(1, channels))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return (M, channels) of (M, in_channels) features."""
        for module in self.stem.values():
            x = module(x)
        return x


class GridTransformer(PointTransformer):
    """The backbone; names and shapes of its state_dict are Pointcept's.

    Args:
        engine: sparse convolution engine.
        in_channels: features of a cell.
        order: curves, names out of `serialization.ORDERS`; block i of a stage uses curve i modulo their number.
        stride: from each stage to the next.
        enc_depths, enc_channels, enc_num_head, enc_patch_size: of each stage of the encoder.
        dec_depths, dec_channels, dec_num_head, dec_patch_size: of each stage of the decoder, the finest first.
        mlp_ratio: hidden channels of a block's perceptron, by its channels.
        qkv_bias, qk_scale, pre_norm, layer_scale: see `PatchAttention` and `Block`.
        enable_rpe: whether scores have a relative position bias.
        enable_flash: chooses Pointcept's implementation; here both give the same.
        traceable, freeze_encoder: for training alone.
        mask_token: whether the weights hold one.
        enc_mode: whether there is no decoder.
        rope_base, dec_rope_enable: of rotary embeddings, and whether the decoder has them; None: nobody has.

    Raises:
        ValueError: lists that do not fit together, an unknown curve, heads that do not fit the channels.
    """

    def __init__(
        self,
        engine: Engine,
        in_channels: int = 6,
        order: str | Sequence[str] = ("z", "z-trans"),
        stride: Sequence[int] = (2, 2, 2, 2),
        enc_depths: Sequence[int] = (2, 2, 2, 6, 2),
        enc_channels: Sequence[int] = (32, 64, 128, 256, 512),
        enc_num_head: Sequence[int] = (2, 4, 8, 16, 32),
        enc_patch_size: Sequence[int] = (48, 48, 48, 48, 48),
        dec_depths: Sequence[int] = (2, 2, 2, 2),
        dec_channels: Sequence[int] = (64, 64, 128, 256),
        dec_num_head: Sequence[int] = (4, 4, 8, 16),
        dec_patch_size: Sequence[int] = (48, 48, 48, 48),
        mlp_ratio: float = 4,
        qkv_bias: bool = True,
        qk_scale: float | None = None,
        layer_scale: float | None = None,
        pre_norm: bool = True,
        enable_rpe: bool = False,
        enable_flash: bool = True,
        traceable: bool = False,
        mask_token: bool = False,
        enc_mode: bool = False,
        freeze_encoder: bool = False,
        rope_base: float | None = None,
        dec_rope_enable: bool = True,
    ) -> None:
        super().__init__()
        self.orders, self.strides, self.turns = curves(order), tuple(stride), bool(rope_base)
        for step in self.strides:
            if step < 1 or step != int(step):
                raise ValueError(f"A stride of {step} leads to no coarser grid; it must be a whole number, 1 or more.")
        encoder = rows("enc", len(stride) + 1, enc_depths, enc_channels, enc_num_head, enc_patch_size)
        decoder: list[Row] = []
        if not enc_mode:
            decoder = rows("dec", len(stride), dec_depths, dec_channels, dec_num_head, dec_patch_size)
        check_patches(encoder, decoder)

        def block(key: str, row: Row, i: int, decodes: bool) -> Block:
            attention = PatchAttention(
                row.channels,
                row.heads,
                row.patch_size,
                qkv_bias,
                qk_scale,
                curve=i % len(self.orders),
                relative=enable_rpe,
                rotary_base=rope_base if dec_rope_enable or not decodes else None,
            )
            hidden = int(row.channels * mlp_ratio)
            return Block(engine, attention, row.channels, hidden, nn.LayerNorm, key, pre_norm, layer_scale=layer_scale)

        self.embedding = Embedding(in_channels, encoder[0].channels, mask_token)
        self.assemble(encoder, decoder, nn.LayerNorm, block, convolves_sum=True)

    def stages(self, batch: Batch) -> Stages:
        """Return the stages' cells, curves and kernel maps, made once for all batches of the same cells."""
        return batch.once(self, lambda: by_grid(batch, self.orders, self.strides))

    def embed(self, batch: Batch, made: Stages) -> Flow:
        """Return the features on the cells of the first stage."""
        x = self.embedding(made.take(batch.feat))
        return Flow(x, x, made.take(batch.coord).float() if self.turns else None)
