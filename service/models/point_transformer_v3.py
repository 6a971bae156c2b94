"""PT-v3m1, Point Transformer V3 as Pointcept's configurations name it (Wu et al., CVPR 2024).

Four things differ from Pointcept's own code, on purpose. Patch size and octree depth are each cloud's own, where
Pointcept takes the smallest cloud's and the largest's of a batch. The order in which blocks use the curves is that of
the configuration at every stage; Pointcept draws a random one in the forward pass (`shuffle_orders`), and one more at
every pooling, whatever `shuffle_orders` says. A flash-attention configuration is computed without rounding to 16 bits.
And the settings that only training reads (dropout, drop path) are accepted and change nothing.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from functools import partial
from typing import Any

from torch import nn

from service.models.batch import Batch
from service.models.layers.attention import PatchAttention
from service.models.layers.engine import Engine
from service.models.layers.fold import fold
from service.models.layers.point_transformer import TRAINING_ONLY, PointTransformer, Row, check_patches, curves, rows
from service.models.layers.prompt_norm import NormLayer, PromptNorm
from service.models.layers.stages import Stages, by_code, grid_depth, shift
from service.models.layers.transformer import Block, Flow
from service.models.site import Generation, Site


class PointTransformerV3(PointTransformer):
    """The backbone; names and shapes of its state_dict are Pointcept's.

    Args:
        engine: sparse convolution engine.
        generation: which Pointcept the weights were trained with.
        in_channels: features of a cell.
        order: curves, names out of `serialization.ORDERS`; block i of a stage uses curve i modulo their number.
        stride: from each stage to the next, powers of two.
        enc_depths, enc_channels, enc_num_head, enc_patch_size: of each stage of the encoder.
        dec_depths, dec_channels, dec_num_head, dec_patch_size: of each stage of the decoder, the finest first.
        mlp_ratio: hidden channels of a block's perceptron, by its channels.
        qkv_bias, qk_scale, pre_norm: see `PatchAttention` and `Block`.
        enable_rpe: whether scores have a relative position bias.
        enable_flash: chooses Pointcept's implementation; here both give the same.
        enc_mode, cls_mode: whether there is no decoder; the second is the name up to v1.6.0.
        pdnorm_bn, pdnorm_ln: whether batch norms and layer norms are one for each dataset.
        pdnorm_decouple, pdnorm_adaptive, pdnorm_affine, pdnorm_conditions: of these norms; see `PromptNorm`.

    Raises:
        ValueError: lists that do not fit together, an unknown curve, a stride that is no power of two.
    """

    def __init__(
        self,
        engine: Engine,
        generation: Generation = "v1.6",
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
        pre_norm: bool = True,
        enable_rpe: bool = False,
        enable_flash: bool = True,
        enc_mode: bool = False,
        cls_mode: bool = False,
        pdnorm_bn: bool = False,
        pdnorm_ln: bool = False,
        pdnorm_decouple: bool = True,
        pdnorm_adaptive: bool = False,
        pdnorm_affine: bool = True,
        pdnorm_conditions: Sequence[str] = ("ScanNet", "S3DIS", "Structured3D"),
    ) -> None:
        super().__init__()
        self.engine, self.generation = engine, generation
        self.orders, self.strides = curves(order), tuple(stride)
        for step in self.strides:
            shift(step)
        encoder = rows("enc", len(stride) + 1, enc_depths, enc_channels, enc_num_head, enc_patch_size)
        decoder: list[Row] = []
        if not (enc_mode or cls_mode):
            decoder = rows("dec", len(stride), dec_depths, dec_channels, dec_num_head, dec_patch_size)
        check_patches(encoder, decoder)
        if (pdnorm_bn or pdnorm_ln) and not pdnorm_decouple:
            raise ValueError("pdnorm_decouple=False is not supported: Pointcept's own network cannot run so.")
        batch_norm: NormLayer = _batch_norm
        layer_norm: NormLayer = nn.LayerNorm
        prompt = partial(PromptNorm, conditions=pdnorm_conditions, adaptive=pdnorm_adaptive)
        if pdnorm_bn:
            batch_norm = partial(prompt, norm=partial(_batch_norm, affine=pdnorm_affine))
        if pdnorm_ln:
            layer_norm = partial(prompt, norm=partial(nn.LayerNorm, elementwise_affine=pdnorm_affine))

        def block(key: str, row: Row, i: int, _decodes: bool) -> Block:
            attention = PatchAttention(
                row.channels,
                row.heads,
                row.patch_size,
                qkv_bias,
                qk_scale,
                curve=i % len(self.orders),
                relative=enable_rpe,
            )
            hidden = int(row.channels * mlp_ratio)
            # A norm behind the last shortcut handed its result on in the old code, unless it was a PromptNorm.
            passes_branch = generation == "v1.5.1" and (pre_norm or pdnorm_ln)
            return Block(engine, attention, row.channels, hidden, layer_norm, key, pre_norm, passes_branch)

        width = encoder[0].channels
        stem = {"conv": engine.subm_conv(in_channels, width, 5), "norm": batch_norm(width), "act": nn.GELU()}
        self.embedding = nn.ModuleDict({"stem": nn.ModuleDict(stem)})
        self.assemble(encoder, decoder, batch_norm, block, convolves_sum=False)

    def fold(self) -> None:
        """Fold batch norms into the layers before them, and linear layers into convolutions; inference only."""
        stem = self.embedding["stem"]
        if isinstance(stem["norm"], nn.BatchNorm1d):
            fold(stem["conv"], stem["norm"])
            stem["norm"] = nn.Identity()
        super().fold()

    def stages(self, batch: Batch) -> Stages:
        """Return the stages' cells, curves and kernel maps, made once for all batches of the same cells."""
        depth = grid_depth if self.generation == "v1.6" else int.bit_length
        return batch.once(self, lambda: by_code(batch, self.orders, self.strides, depth))

    def embed(self, batch: Batch, made: Stages) -> Flow:
        """Return the features on the cells of the first stage."""
        stem = self.embedding["stem"]
        x = stem["conv"](made.stages[0].sparse(self.engine, made.take(batch.feat))).features
        x = stem["norm"](x, batch) if isinstance(stem["norm"], PromptNorm) else stem["norm"](x)
        x = stem["act"](x)
        return Flow(x, x)


def _batch_norm(channels: int, affine: bool = True) -> nn.Module:
    return nn.BatchNorm1d(channels, eps=1e-3, momentum=0.01, affine=affine)


def generation_of(config: Mapping[str, Any], keys: Collection[str] = ()) -> Generation | None:
    """Return which Pointcept wrote an experiment's configuration; None: it does not tell.

    Weights tell nothing: names and shapes are the same in all versions. A configuration does, when it is complete, as
    training writes it into the experiment's folder: every release added names to those that all experiments have.
    `amp_dtype` came with v1.6.0, the release that also changed octree depth and colours; `empty_cache_per_epoch` with
    v1.5.2, the first release with the corrected block (main had it since March 2024: two months of development
    versions are taken for v1.5.1); a backbone with `enc_mode` is later than v1.6.0. A configuration that was
    continued from another version's, or cut down, may mislead.

    Args:
        config: the whole configuration, or its `model` alone.
        keys: names of the checkpoint's weights; they decide nothing, and stand here so that callers need not know it.
    """
    model = config.get("model", config)
    backbone = model.get("backbone", model) if isinstance(model, Mapping) else {}
    if isinstance(backbone, Mapping) and "enc_mode" in backbone:
        return "v1.6"
    if not {"empty_cache", "enable_amp"} <= set(config):
        return None
    if "amp_dtype" in config:
        return "v1.6"
    return "v1.5.2" if "empty_cache_per_epoch" in config else "v1.5.1"


def build(config: Mapping[str, Any], site: Site) -> PointTransformerV3:
    """Return the network of a configuration: the arguments of `PointTransformerV3` by their names.

    `attn_drop`, `proj_drop` and `drop_path` are for training alone; why `shuffle_orders` and the `upcast_` switches
    change nothing, the module and `PatchAttention` say.
    """
    arguments = {key: value for key, value in config.items() if key not in TRAINING_ONLY}
    return PointTransformerV3(site.engine, site.generation, **arguments)
