"""A head that compares points with texts: cosines with what a language model made of the classes' names."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional

TEXT_CHANNELS = {
    "RN50": 1024,
    "RN101": 512,
    "RN50x4": 640,
    "RN50x16": 768,
    "RN50x64": 1024,
    "ViT-B/32": 512,
    "ViT-B/16": 512,
    "ViT-L/14": 768,
    "ViT-L/14@336px": 768,
}
"""Channels of the text embeddings of CLIP's published models (Radford et al., 2021)."""


def text_channels(clip_model: str) -> int:
    """Return how many channels the text embeddings of a CLIP model have.

    Raises:
        ValueError: the name is not one of CLIP's.
    """
    if clip_model not in TEXT_CHANNELS:
        raise ValueError(f"clip_model is {clip_model!r}; known are {', '.join(TEXT_CHANNELS)}.")
    return TEXT_CHANNELS[clip_model]


def compare(feat: torch.Tensor, texts: torch.Tensor, logit_scale: torch.Tensor) -> torch.Tensor:
    """Return (M, K) cosines of (M, C) features with (K, C) texts of length 1, times exp(logit_scale); float32."""
    return functional.normalize(feat.float(), dim=1) @ texts.float().t() * logit_scale.float().exp()


def check_conditions(conditions: object, name: str, entries: object) -> None:
    """Refuse as many datasets as there are not entries.

    Raises:
        ValueError: the two are not of one length.
    """
    first, second = len(list(conditions)), len(list(entries))  # type: ignore[call-overload]
    if first != second:
        raise ValueError(f"conditions has {first} names, but {name} {second} entries.")


def new_scale() -> nn.Parameter:
    """Return the parameter `logit_scale` as CLIP begins with it."""
    return nn.Parameter(torch.tensor(1 / 0.07).log())
