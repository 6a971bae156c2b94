"""Experiments that classify objects, and checkpoints of encoders alone, as training leaves them; untrained."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from service.models.catalogue import FAMILIES
from service.models.layers.engine import engine
from service.models.site import Site
from tests.models.experiments import V1_6, state

CLASSES = ["cube", "sphere", "cone", "tube"]
ENCODER: dict[str, Any] = {
    "type": "PT-v3m1",
    "in_channels": 3,
    "stride": [2],
    "enc_depths": [1, 1],
    "enc_channels": [12, 24],
    "enc_num_head": [2, 4],
    "enc_patch_size": [64, 64],
    "enc_mode": True,
}
DECODER: dict[str, Any] = {
    **ENCODER,
    "enc_mode": False,
    "dec_depths": [1],
    "dec_channels": [16],
    "dec_num_head": [2],
    "dec_patch_size": [64],
}
SPUNET: dict[str, Any] = {
    "type": "SpUNet-v1m1",
    "in_channels": 3,
    "num_classes": 0,
    "base_channels": 8,
    "channels": [8, 16, 16, 8],
    "layers": [1, 1, 1, 1],
    "enc_mode": True,
}
BACKBONE = """dict(
        type='PT-v3m1',
        in_channels=6,
        stride=(2, ),
        enc_depths=(1, 1),
        enc_channels=(12, 24),
        enc_num_head=(2, 4),
        enc_patch_size=(64, 64),
        enable_flash=False,
        enc_mode=True)"""

# As configs/modelnet40 of Pointcept have it.
_CONFIG = """empty_cache = False
enable_amp = False
{runtime}model = dict(
    type='DefaultClassifier',
    num_classes=4,
    backbone_embed_dim={channels},
    freeze_backbone=False,
    backbone={backbone},
    criteria=[dict(type='CrossEntropyLoss', loss_weight=1.0, ignore_index=-1)])
data = dict(
    num_classes=4,
    names=['cube', 'sphere', 'cone', 'tube'],
    val=dict(
        type='ModelNetDataset',
        transform=[
            dict(type='NormalizeCoord'),
            dict(type='GridSample', grid_size=0.01, hash_type='fnv', mode='train', return_grid_coord=True),
            dict(type='ToTensor'),
            dict(type='Collect', keys=('coord', 'grid_coord', 'category'), feat_keys=('coord', 'normal'))
        ],
        test_mode=False),
    test=dict(
        type='ModelNetDataset',
        transform=[dict(type='NormalizeCoord')],
        test_mode=True,
        test_cfg=dict(
            post_transform=[
                dict(type='GridSample', grid_size=0.01, mode='test-of-objects', return_grid_coord=True),
                dict(type='ToTensor'),
                dict(type='Collect', keys=('coord', 'grid_coord'), feat_keys=('coord', 'normal'))
            ],
            aug_transform=[[dict(type='RandomScale', scale=[0.8, 1.2], anisotropic=True)]])))
test = dict(type='ClsVotingTester', num_repeat=100)
"""
SONATA: dict[str, Any] = {
    "in_channels": 9,
    "order": ("z", "z-trans", "hilbert", "hilbert-trans"),
    "stride": (2, 2),
    "enc_depths": (1, 1, 1),
    "enc_channels": (12, 24, 36),
    "enc_num_head": (2, 4, 6),
    "enc_patch_size": (64, 64, 64),
    "enc_mode": True,
    "traceable": True,
    "mask_token": True,
}
UTONIA: dict[str, Any] = {**SONATA, "enc_num_head": (2, 2, 2), "mask_token": False}
"""What published checkpoints carry, of another size."""


def config(backbone: str = BACKBONE, channels: int = 24) -> str:
    """Return the text of a classifier's config.py."""
    return _CONFIG.format(runtime=V1_6, backbone=backbone, channels=channels)


def network(description: dict[str, Any], seed: int = 0) -> Any:
    """Return a network of random weights."""
    torch.manual_seed(seed)
    return Site(engine("native", torch.device("cpu")), FAMILIES).build(description).eval()


def write(folder: Path, backbone: str = BACKBONE, channels: int = 24) -> Any:
    """Write a classifier's experiment folder; return its network."""
    (folder / "model").mkdir(parents=True)
    (folder / "config.py").write_text(config(backbone, channels), encoding="utf-8")
    inner = eval(backbone, {"__builtins__": {}}, {"dict": dict})
    made = network({"type": "DefaultClassifier", "num_classes": 4, "backbone_embed_dim": channels, "backbone": inner})
    with torch.no_grad():
        made.cls_head[-1].weight.normal_(0, 2.0)
    torch.save(state(made), folder / "model" / "model_best.pth")
    return made


def write_encoder(path: Path, carried: dict[str, Any], family: str = "PT-v3m2") -> Any:
    """Write a checkpoint of an encoder alone, as published ones are; return the network."""
    made = network({"type": family, **carried})
    torch.save({"config": carried, "state_dict": made.state_dict()}, path)
    return made
