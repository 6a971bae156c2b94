"""Attention within patches of serialised cells (Point Transformer V3, Wu et al., CVPR 2024)."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.nn import functional

from service.models.layers.patches import Patches
from service.models.layers.stages import Stage

_MOST_PATCHES = 32768
"""Patches attended to at once: CUDA's kernels count them in 16 bits."""
_MOST_BIASES = 2**25
"""Elements of one tensor of relative position biases, at most."""


class RelativePosition(nn.Module):
    """What a head adds to its scores for the cells' distance along x, y and z.

    Args:
        patch_size: of the configuration; from it follows how far the table reaches.
        heads: of the attention.
    """

    def __init__(self, patch_size: int, heads: int) -> None:
        super().__init__()
        self.reach = int((4 * patch_size) ** (1 / 3) * 2)
        self.rpe_table = nn.Parameter(torch.zeros(3 * (2 * self.reach + 1), heads))
        nn.init.trunc_normal_(self.rpe_table, std=0.02)

    def forward(self, cells: torch.Tensor) -> torch.Tensor:
        """Return (P, heads, K, K) of (P, K, 3) cells."""
        patches, length, _ = cells.shape
        tables = self.rpe_table.view(3, 2 * self.reach + 1, -1)
        total: torch.Tensor | None = None
        for axis, table in enumerate(tables):
            along = cells[..., axis]
            step = (along.unsqueeze(2) - along.unsqueeze(1)).clamp_(-self.reach, self.reach).add_(self.reach)
            bias = table.index_select(0, step.view(-1))
            total = bias if total is None else total.add_(bias)
        assert total is not None
        return total.view(patches, length, length, -1).permute(0, 3, 1, 2)


class Rotary(nn.Module):
    """Turns queries and keys by where their points lie: a third of a head's channels along x, y and z each.

    Args:
        width: channels of a head.
        base: of the frequencies, which fall from 1 to about 1 / base.

    Raises:
        ValueError: the channels cannot be shared out in pairs to three axes.
    """

    inv_freq: torch.Tensor

    def __init__(self, width: int, base: float) -> None:
        super().__init__()
        if width % 6:
            raise ValueError(f"A rotary embedding in space needs heads of a multiple of 6 channels, not {width}.")
        part = width // 3
        self.register_buffer("inv_freq", 1.0 / (base ** (torch.arange(0, part, 2).float() / part)))

    def _apply(self, fn: Any, recurse: bool = True) -> Any:
        """Move to a device, but stay in float32: in half precision angles of some metres would be off by degrees."""
        frequencies = self.inv_freq
        super()._apply(fn, recurse)
        self.inv_freq = frequencies.to(self.inv_freq.device)
        return self

    def forward(self, qkv: torch.Tensor, coord: torch.Tensor) -> torch.Tensor:
        """Return (M, 3, heads, width) queries, keys and values of as many, turned for (M, 3) float32 metres."""
        rows, _, heads, width = qkv.shape
        angle = (coord.unsqueeze(2) * self.inv_freq)[:, None, None]  # (M, 1, 1, axis, pair)
        cos, sin = angle.cos().to(qkv.dtype), angle.sin().to(qkv.dtype)
        first, second = qkv[:, :2].view(rows, 2, heads, 3, 2, width // 6).unbind(4)
        turned = torch.stack([first * cos - second * sin, second * cos + first * sin], dim=4)
        return torch.cat([turned.view(rows, 2, heads, width), qkv[:, 2:]], dim=1)


class PatchAttention(nn.Module):
    """Multi-head attention of every cell to the cells of its patch.

    Pointcept's switches for precision (`upcast_attention`, `upcast_softmax`, and the rounding to 16 bits where it uses
    flash-attention) have no counterpart: torch's scaled_dot_product_attention takes scores and softmax of half
    precision in float32 by itself, and float32 stays float32.

    Args:
        channels: of the features.
        heads: that share them.
        patch_size: cells of a patch.
        qkv_bias: whether queries, keys and values have one.
        qk_scale: factor of the scores; None: 1 / sqrt(channels of a head).
        curve: along which the patches lie: an index into the stage's codes.
        relative: whether there is a relative position bias.
        rotary_base: of a rotary embedding; None: there is none.

    Raises:
        ValueError: the heads cannot share the channels.
    """

    def __init__(
        self,
        channels: int,
        heads: int,
        patch_size: int,
        qkv_bias: bool = True,
        qk_scale: float | None = None,
        curve: int = 0,
        relative: bool = False,
        rotary_base: float | None = None,
    ) -> None:
        super().__init__()
        if channels % heads:
            raise ValueError(f"{heads} heads cannot share {channels} channels.")
        self.heads, self.patch_size, self.curve = heads, patch_size, curve
        self.scale = qk_scale or (channels // heads) ** -0.5
        self.qkv = nn.Linear(channels, 3 * channels, bias=qkv_bias)
        self.proj = nn.Linear(channels, channels)
        self.rpe = RelativePosition(patch_size, heads) if relative else None
        self.rope = Rotary(channels // heads, rotary_base) if rotary_base else None

    def forward(self, x: torch.Tensor, stage: Stage, coord: torch.Tensor | None = None) -> torch.Tensor:
        """Return (M, C) of (M, C) features on the stage's cells; a rotary embedding needs their (M, 3) metres."""
        patches = stage.patches(self.curve, self.patch_size)
        qkv = self.qkv(x.index_select(0, patches.gather))
        qkv = qkv.view(len(qkv), 3, self.heads, -1)
        if self.rope is not None and coord is not None:
            qkv = self.rope(qkv, coord.index_select(0, patches.gather))
        cells = None if self.rpe is None else stage.cells.index_select(0, patches.gather)[:, 1:]
        y = self._attend(qkv, cells, patches)
        result: torch.Tensor = self.proj(y.index_select(0, patches.back))
        return result

    def _attend(self, qkv: torch.Tensor, cells: torch.Tensor | None, patches: Patches) -> torch.Tensor:
        """Return (M', C) of (M', 3, heads, C / heads) queries, keys and values."""
        parts = []
        start = 0
        for patch_count, length in patches.runs:
            most = _MOST_PATCHES
            if self.rpe is not None:
                most = max(1, _MOST_BIASES // (self.heads * length * length))
            for first in range(0, patch_count, most):
                count = min(most, patch_count - first)
                end = start + count * length
                bias = None
                if self.rpe is not None and cells is not None:
                    bias = self.rpe(cells[start:end].view(count, length, 3))
                q, k, v = qkv[start:end].view(count, length, *qkv.shape[1:]).permute(2, 0, 3, 1, 4).unbind(0)
                y = functional.scaled_dot_product_attention(q, k, v, attn_mask=bias, scale=self.scale)
                parts.append(y.transpose(1, 2).reshape(count * length, -1))
                start = end
        return parts[0] if len(parts) == 1 else torch.cat(parts)
