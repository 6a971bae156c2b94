"""SGIFormer's decoder: queries that look at a cloud's superpoints and become masks over them (Yao et al., TMM 2025).

Some queries are learnt, others are made of the cloud's most object-like points. The state_dict's names are Pointcept's.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import nn


@dataclass(frozen=True)
class Told:
    """What the decoder says of one cloud of m voxels and S superpoints.

    Attributes:
        point_logits: (m, K + 1) of the voxels' classes; training never teaches the last one.
        logits: (Q, K + 1) of the queries' classes, the last one: no object.
        masks: (Q, S) logits.
        quality: (Q, 1) how good the masks are, or None.
    """

    point_logits: torch.Tensor
    logits: torch.Tensor
    masks: torch.Tensor
    quality: torch.Tensor | None


class FourierPosition(nn.Module):
    """Places as sines and cosines of random directions, which the weights hold (Tancik et al., NeurIPS 2020)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.register_buffer("gauss_B", torch.randn(3, channels // 2))

    def forward(self, place: torch.Tensor) -> torch.Tensor:
        """Return (S, channels) of (S, 3) float32 places, of which only where in their box they are counts."""
        low, high = place.amin(dim=0), place.amax(dim=0)
        # A box without extent, as of one superpoint, has no inside: Pointcept divides 0 by 0 there.
        share = (place - low) / torch.where(high > low, high - low, 1)
        turned = (2 * math.pi * share) @ self.get_buffer("gauss_B").float()
        return torch.cat([turned.sin(), turned.cos()], dim=1)


class Attention(nn.Module):
    """Rows that look at others, or at themselves, with the shortcut and the norm after it."""

    def __init__(self, channels: int, heads: int) -> None:
        super().__init__()
        self.attn = nn.MultiheadAttention(channels, heads, batch_first=True)
        self.norm = nn.LayerNorm(channels)

    def forward(
        self, rows: torch.Tensor, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, mask: torch.Tensor | None
    ) -> torch.Tensor:
        """Return (n, C) of rows (n, C), which ask as query (n, C); True in mask (n, k) hides a key."""
        found, _ = self.attn(query, key, value, attn_mask=mask, need_weights=False)
        done: torch.Tensor = self.norm(found + rows)
        return done


class Perceptron(nn.Module):
    """Two layers with the shortcut and the norm after it."""

    def __init__(self, channels: int, hidden: int, activation: type[nn.Module]) -> None:
        super().__init__()
        # Where Pointcept has a dropout nothing is done; the layers' numbers count it.
        self.net = nn.Sequential(
            nn.Linear(channels, hidden), activation(), nn.Identity(), nn.Linear(hidden, channels), nn.Identity()
        )
        self.norm = nn.LayerNorm(channels)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return (n, C) of (n, C)."""
        done: torch.Tensor = self.norm(self.net(x) + x)
        return done


class MaskDecoder(nn.Module):
    """The decoder; one cloud at a time.

    Args:
        dec_num_layer: rounds in which queries look at superpoints; between them superpoints look at queries.
        num_sample_query, num_learn_query: queries made of the cloud's points, and learnt ones.
        num_classes: of objects, K.
        in_channel: of the backbone's features.
        d_model, nhead, hidden_dim: channels and heads of the attention, channels inside the perceptrons.
        dropout: for training alone.
        activation_fn: relu, or else GELU, as Pointcept has it.
        attn_mask: whether a query looks only at superpoints that its mask so far holds.
        use_score: whether queries also say how good their masks are.
        alpha: share of the points, the most object-like ones, of which queries are made.

    Raises:
        ValueError: channels that the heads cannot share, or a share that is none.
    """

    def __init__(
        self,
        dec_num_layer: int = 3,
        num_sample_query: int = 200,
        num_learn_query: int = 200,
        num_classes: int = 18,
        in_channel: int = 32,
        d_model: int = 256,
        nhead: int = 8,
        hidden_dim: int = 1024,
        dropout: float = 0.0,
        activation_fn: str = "relu",
        attn_mask: bool = True,
        use_score: bool = False,
        alpha: float = 0.4,
    ) -> None:
        super().__init__()
        if d_model % 2 or d_model % nhead:
            raise ValueError(f"its decoder's d_model is {d_model}; it must be even and a multiple of nhead, {nhead}.")
        if not 0 <= alpha <= 1:
            raise ValueError(f"its decoder's alpha is {alpha}; a share of the points is between 0 and 1.")
        self.num_classes, self.alpha, self.masked = num_classes, alpha, attn_mask
        activation = nn.ReLU if activation_fn == "relu" else nn.GELU
        self.seg_head = _head(in_channel, num_classes + 1)
        self.bias_head = _head(in_channel, 3)
        self.feat_proj = _projection(in_channel, d_model)
        self.rep_layer = _projection(d_model, num_sample_query)
        self.query_learn = nn.Embedding(num_learn_query, d_model)
        self.sp_feat_proj = _projection(in_channel, d_model)
        self.x_mask = nn.Sequential(nn.Linear(d_model, d_model), nn.ReLU())
        self.sp_pos = FourierPosition(d_model)
        rounds, between = range(dec_num_layer), range(dec_num_layer - 1)
        self.feat_query_attn_layers = nn.ModuleList(Attention(d_model, nhead) for _ in between)
        self.feat_self_attn_layers = nn.ModuleList(Attention(d_model, nhead) for _ in between)
        self.cross_attn_layers = nn.ModuleList(Attention(d_model, nhead) for _ in rounds)
        self.self_attn_layers = nn.ModuleList(Attention(d_model, nhead) for _ in rounds)
        self.ffn_layers = nn.ModuleList(Perceptron(d_model, hidden_dim, activation) for _ in rounds)
        self.out_norm = nn.LayerNorm(d_model)
        self.out_cls = nn.Sequential(nn.Linear(d_model, d_model), nn.ReLU(), nn.Linear(d_model, num_classes + 1))
        self.out_score = (
            nn.Sequential(nn.Linear(d_model, d_model), nn.ReLU(), nn.Linear(d_model, 1)) if use_score else None
        )

    def forward(self, feat: torch.Tensor, coord: torch.Tensor, superpoint: torch.Tensor) -> Told:
        """Return what becomes of one cloud.

        Args:
            feat: (m, in_channel) of the backbone.
            coord: (m, 3) float32 metres.
            superpoint: (m,) int64, from 0 on and none left out.
        """
        point_logits = self.seg_head(feat)
        query = torch.cat([self._sampled(feat, point_logits), self.query_learn.weight])
        rows, sizes = torch.argsort(superpoint, stable=True), torch.bincount(superpoint)
        pos = self.sp_pos(_means(coord + self.bias_head(feat).float(), rows, sizes)).to(feat.dtype)
        sp = self.sp_feat_proj(_means(feat, rows, sizes))
        mask_feat = self.x_mask(sp)
        hidden = self._hidden(query, mask_feat)
        last = len(self.cross_attn_layers) - 1
        for i in range(last + 1):
            source = sp + pos
            query = self.cross_attn_layers[i](query, query, source, source, hidden)
            query = self.self_attn_layers[i](query, query, query, query, None)
            query = self.ffn_layers[i](query)
            if i < last:
                sp = self.feat_query_attn_layers[i](sp, sp + pos, query, query, None)
                sp = self.feat_self_attn_layers[i](sp, sp + pos, sp + pos, sp, None)
                hidden = self._hidden(query, mask_feat)
        normed = self.out_norm(query)
        quality = None if self.out_score is None else self.out_score(normed).float()
        return Told(point_logits, self.out_cls(normed).float(), (normed @ mask_feat.t()).float(), quality)

    def _sampled(self, feat: torch.Tensor, point_logits: torch.Tensor) -> torch.Tensor:
        """Return the (num_sample_query, d_model) queries made of the points that are most surely an object's."""
        sure = point_logits.float().softmax(dim=1)[:, :-1].amax(dim=1)
        _, best = sure.topk(int(self.alpha * len(feat)))
        seen = self.feat_proj(feat[best])
        # Shares of thousands of points are past what half precision holds.
        share = self.rep_layer(seen).float().softmax(dim=0)
        return (share.t() @ seen.float()).to(feat.dtype)

    def _hidden(self, query: torch.Tensor, mask_feat: torch.Tensor) -> torch.Tensor | None:
        """Return which superpoints (Q, S) a query does not look at; one whose mask is empty looks at all."""
        if not self.masked:
            return None
        hidden = (self.out_norm(query) @ mask_feat.t()).sigmoid() < 0.5
        return hidden & ~hidden.all(dim=1, keepdim=True)


def _head(channels: int, out: int) -> nn.Sequential:
    norm = nn.BatchNorm1d(channels, eps=1e-3, momentum=0.01)
    return nn.Sequential(nn.Linear(channels, channels), norm, nn.ReLU(), nn.Linear(channels, out))


def _projection(channels: int, out: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(channels, out), nn.LayerNorm(out), nn.ReLU())


def _means(values: torch.Tensor, rows: torch.Tensor, sizes: torch.Tensor) -> torch.Tensor:
    """Return (S, C): the mean of (m, C) values over the rows of each superpoint, summed in their order in float32."""
    return torch.segment_reduce(values[rows].float(), "mean", lengths=sizes).to(values.dtype)
