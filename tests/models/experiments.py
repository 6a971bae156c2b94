"""Experiment folders as Pointcept's training leaves them, small and untrained."""

from __future__ import annotations

from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import torch

from service.models.catalogue import FAMILIES
from service.models.layers.engine import engine
from service.models.site import Generation, Site

SPUNET = """dict(
    type='DefaultSegmentor',
    backbone=dict(
        type='SpUNet-v1m1',
        in_channels=6,
        num_classes=3,
        base_channels=8,
        channels=(8, 16, 24, 16, 16, 8),
        layers=(1, 1, 1, 1, 1, 1)),
    criteria=[
        dict(type='CrossEntropyLoss', loss_weight=1.0, ignore_index=-1)
    ])"""

POINT_TRANSFORMER = """dict(
    type='DefaultSegmentorV2',
    num_classes=3,
    backbone_out_channels=16,
    backbone=dict(
        type='PT-v3m1',
        in_channels=6,
        order=('z', 'z-trans', 'hilbert', 'hilbert-trans'),
        stride=(2, ),
        enc_depths=(1, 1),
        enc_channels=(16, 32),
        enc_num_head=(2, 4),
        enc_patch_size=(64, 64),
        dec_depths=(1, ),
        dec_channels=(16, ),
        dec_num_head=(2, ),
        dec_patch_size=(64, ),
        shuffle_orders=True,
        enable_flash=False,
        upcast_attention=False,
        upcast_softmax=False),
    criteria=[
        dict(type='CrossEntropyLoss', loss_weight=1.0, ignore_index=-1)
    ])"""

# As Pointcept's Config.dump writes it: bases merged in, references gone.
CONFIG = """weight = None
resume = False
evaluate = True
test_only = False
seed = 38873827
save_path = 'exp/scannet/tiny'
num_worker = 24
batch_size = 12
epoch = 800
eval_epoch = 100
sync_bn = False
enable_amp = True
{runtime}empty_cache = False
find_unused_parameters = False
mix_prob = 0.8
param_dicts = [dict(keyword='block', lr=0.0006)]
hooks = [
    dict(type='CheckpointLoader'),
    dict(type='SemSegEvaluator'),
    dict(type='CheckpointSaver', save_freq=None)
]
train = dict(type='DefaultTrainer')
test = dict(type='SemSegTester', verbose=True)
model = {model}
optimizer = dict(type='AdamW', lr=0.006, weight_decay=0.05)
dataset_type = 'ScanNetDataset'
data_root = 'data/scannet'
data = dict(
    num_classes=3,
    ignore_index=-1,
    names=['wall', 'floor', 'cabinet'],
    train=dict(
        type='ScanNetDataset',
        transform=[dict(type='RandomJitter', sigma=0.005, clip=0.02)],
        test_mode=False),
    val=dict(
        type='ScanNetDataset',
        split='val',
        transform=[
            dict(type='CenterShift', apply_z=True),
            dict(
                type='GridSample',
                grid_size=0.02,
                hash_type='fnv',
                mode='train',
                return_grid_coord=True),
            dict(type='CenterShift', apply_z=False),
            dict(type='NormalizeColor'),
            dict(type='ToTensor'),
            dict(
                type='Collect',
                keys=('coord', 'grid_coord', 'segment'),
                feat_keys=('color', 'normal'))
        ],
        test_mode=False),
    test=dict(
        type='ScanNetDataset',
        split='val',
        transform=[
            dict(type='CenterShift', apply_z=True),
            dict(type='NormalizeColor')
        ],
        test_mode=True,
        test_cfg=dict(
            voxelize=dict(
                type='GridSample',
                grid_size=0.02,
                hash_type='fnv',
                mode='test',
                return_grid_coord=True),
            crop=None,
            post_transform=[
                dict(type='CenterShift', apply_z=False),
                dict(type='ToTensor'),
                dict(
                    type='Collect',
                    keys=('coord', 'grid_coord', 'index'),
                    feat_keys=('color', 'normal'))
            ],
            aug_transform=[[{{
                'type': 'RandomRotateTargetAngle',
                'angle': [0.5],
                'axis': 'z',
                'center': [0, 0, 0],
                'p': 1
            }}], [dict(type='RandomFlip', p=1)]])))
num_worker_per_gpu = 6
"""

V1_6 = "amp_dtype = 'float16'\nempty_cache_per_epoch = False\nclip_grad = None\n"
V1_5_2 = "empty_cache_per_epoch = False\n"


def config(model: str = SPUNET, runtime: str = V1_6) -> str:
    """Return the text of a config.py."""
    return CONFIG.format(model=model, runtime=runtime)


def network(model: str = SPUNET, generation: Generation = "v1.6") -> Any:
    """Return the untrained network of a model's text, with weights that tell its classes apart."""
    torch.manual_seed(0)
    description = eval(model, {"__builtins__": {}}, {"dict": dict})
    made = Site(engine("native", torch.device("cpu")), FAMILIES, generation).build(description)
    with torch.no_grad():
        for name, value in made.state_dict().items():
            if name.endswith("running_var"):
                value.uniform_(0.05, 0.15)
            elif name.endswith(("running_mean", "final.weight", "seg_head.weight")):
                value.normal_(0, 0.3)
    return made.eval()


def state(made: torch.nn.Module, prefix: str = "module.") -> dict[str, Any]:
    """Return what Pointcept's CheckpointSaver saves of a network."""
    parameters = [torch.nn.Parameter(torch.zeros(2))]
    optimizer = torch.optim.AdamW(parameters, lr=0.006)
    parameters[0].grad = torch.ones(2)
    optimizer.step()
    scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=[0.006], total_steps=10)
    return {
        "epoch": 100,
        "state_dict": OrderedDict((prefix + key, value) for key, value in made.state_dict().items()),
        "optimizer": optimizer.state_dict(),
        "scheduler": scheduler.state_dict(),
        "scaler": None,
        "best_metric_value": np.float64(0.776),
    }


def write(folder: Path, model: str = SPUNET, runtime: str = V1_6, generation: Generation = "v1.6") -> Any:
    """Write an experiment folder; return its network."""
    (folder / "model").mkdir(parents=True)
    (folder / "config.py").write_text(config(model, runtime), encoding="utf-8")
    made = network(model, generation)
    torch.save(state(made), folder / "model" / "model_best.pth")
    return made
