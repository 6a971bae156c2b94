"""Pointcept's own modules out of a checkout, to measure against; what its packages import besides is stood in for.

Its packages are entered without their `__init__`, which import every data set and model. flash_attn is torch's
scaled_dot_product_attention and torch_scatter torch's segment_reduce, where a machine lacks them.
"""

from __future__ import annotations

import importlib
import importlib.machinery
import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import torch

_PACKAGES = (
    "",
    ".datasets",
    ".engines",
    ".models",
    ".models.point_prompt_training",
    ".models.point_transformer_v3",
    ".models.sparse_unet",
    ".utils",
)


def load(checkout: Path, networks: bool = True) -> dict[str, Any]:
    """Return Pointcept's TRANSFORMS, `Compose`, `collate_fn`, and with its networks MODELS and `Point`.

    Args:
        checkout: the repository; `pointcept/datasets`, `pointcept/models` and `pointcept/utils` of it are read.
        networks: whether to import SpUNet-v1m1, v1m2 and PT-v3m1, m2, m3 too, which needs spconv, timm and addict.
    """
    root = checkout / "pointcept"
    if not (root / "datasets" / "transform.py").is_file():
        raise SystemExit(f"{checkout} is no checkout of Pointcept.")
    for name in _PACKAGES:
        package = _module(f"pointcept{name}")
        package.__path__ = [str(root / name.strip(".").replace(".", "/"))]
    _module("pointcept.engines.hooks", HookBase=object)
    _stand_in("torch_scatter", segment_csr=_segment_csr, scatter_min=None)
    _stand_in("torch_geometric.utils", scatter=None)
    _stand_in("flash_attn", flash_attn_varlen_qkvpacked_func=_attend)
    _stand_in("torchvision", transforms=None)
    transform = importlib.import_module("pointcept.datasets.transform")
    found = {
        "TRANSFORMS": transform.TRANSFORMS,
        "Compose": transform.Compose,
        "collate_fn": importlib.import_module("pointcept.datasets.utils").collate_fn,
    }
    if not networks:
        return found
    norm = importlib.import_module("pointcept.models.point_prompt_training.prompt_driven_normalization")
    sys.modules["pointcept.models.point_prompt_training"].PDNorm = norm.PDNorm  # type: ignore[attr-defined]
    for family in (
        "sparse_unet.spconv_unet_v1m1_base",
        "sparse_unet.spconv_unet_v1m2_bn_momentum",
        "point_transformer_v3.point_transformer_v3m1_base",
        "point_transformer_v3.point_transformer_v3m2_sonata",
        "point_transformer_v3.point_transformer_v3m3_utonia",
    ):
        importlib.import_module(f"pointcept.models.{family}")
    found["MODELS"] = importlib.import_module("pointcept.models.builder").MODELS
    found["Point"] = importlib.import_module("pointcept.models.utils.structure").Point
    return found


def _module(name: str, **attributes: Any) -> ModuleType:
    """Put a module of these attributes in the place of the named one."""
    made = ModuleType(name)
    made.__spec__ = importlib.machinery.ModuleSpec(name, None)
    for attribute, value in attributes.items():
        setattr(made, attribute, value)
    sys.modules[name] = made
    return made


def _stand_in(name: str, **attributes: Any) -> None:
    """Make a module where the machine has none of that name."""
    top = name.split(".")[0]
    if top in sys.modules or importlib.util.find_spec(top) is not None:
        return
    if top != name:
        _module(top).__path__ = []
    _module(name, **attributes)


def _segment_csr(src: torch.Tensor, indptr: torch.Tensor, reduce: str = "sum") -> torch.Tensor:
    return torch.segment_reduce(src, reduce, offsets=indptr, axis=0, unsafe=True)


def _attend(
    qkv: torch.Tensor, _cu_seqlens: torch.Tensor, max_seqlen: int, dropout_p: float, softmax_scale: float
) -> torch.Tensor:
    """Return (T, H, D) of (T, 3, H, D): patches of `max_seqlen` rows, or one shorter patch."""
    length = max_seqlen if len(qkv) % max_seqlen == 0 else len(qkv)
    query, key, value = qkv.view(-1, length, *qkv.shape[1:]).permute(2, 0, 3, 1, 4).unbind(dim=0)
    found = torch.nn.functional.scaled_dot_product_attention(query, key, value, scale=softmax_scale)
    return found.transpose(1, 2).reshape(len(qkv), *qkv.shape[2:])
