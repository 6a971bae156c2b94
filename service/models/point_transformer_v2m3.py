"""PT-v2m3, PT-v2m2 with norms of several datasets, for Point Prompt Training (Wu et al., CVPR 2024)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from torch import nn

from service.models.layers.prompt_norm import PromptBatchNorm
from service.models.site import Site


def build(config: Mapping[str, Any], _site: Site) -> nn.Module:
    """Return the network of a configuration: the arguments of `GroupedTransformer` and of the norms by their names.

    `attn_drop_rate`, `drop_path_rate` and `enable_checkpoint` are for training alone.

    Raises:
        ImportError: libs/pointops is not installed.
    """
    from service.models.layers.grouped_attention import TRAINING_ONLY, GroupedTransformer

    def made(
        conditions: Sequence[str] = ("ScanNet", "S3DIS", "Structured3D"),
        norm_decouple: bool = True,
        norm_adaptive: bool = True,
        norm_affine: bool = False,
        context_channels: int = 256,
        **arguments: Any,
    ) -> nn.Module:
        norm = partial(
            PromptBatchNorm,
            conditions=conditions,
            decouple=norm_decouple,
            adaptive=norm_adaptive,
            affine=norm_affine,
            context_channels=context_channels,
        )
        return GroupedTransformer(**arguments, norm=norm)

    return made(**{key: value for key, value in config.items() if key not in TRAINING_ONLY})
