"""An experiment folder of a network in its full size, its weights at random: as fast as a trained one."""

from __future__ import annotations

from pathlib import Path

import torch

from service.models.catalogue import FAMILIES
from service.models.layers.engine import engine
from service.models.site import Site

GRID_SIZE = 0.02
_CONFIG = """model = dict(type='DefaultSegmentor', backbone=dict(type='SpUNet-v1m1', in_channels=3, num_classes=20))
data = dict(
    num_classes=20,
    ignore_index=-1,
    names=[{names}],
    test=dict(
        type='ScanNetDataset',
        transform=[dict(type='CenterShift', apply_z=True)],
        test_mode=True,
        test_cfg=dict(
            voxelize=dict(
                type='GridSample', grid_size={grid_size}, hash_type='fnv', mode='test', return_grid_coord=True),
            crop=None,
            post_transform=[
                dict(type='CenterShift', apply_z=False),
                dict(type='ToTensor'),
                dict(type='Collect', keys=('coord', 'grid_coord', 'index'), feat_keys=('coord', ))
            ],
            aug_transform=[[dict(type='RandomFlip', p=1)]])))
"""


def write(folder: Path) -> Path:
    """Write the experiment of SpUNet-v1m1, 39 million parameters, 20 classes, of coordinates alone; return it."""
    torch.manual_seed(0)
    backbone = {"type": "SpUNet-v1m1", "in_channels": 3, "num_classes": 20}
    network = Site(engine("native", torch.device("cpu")), FAMILIES).build(
        {"type": "DefaultSegmentor", "backbone": backbone}
    )
    (folder / "model").mkdir(parents=True)
    torch.save({"state_dict": network.state_dict()}, folder / "model" / "model_best.pth")
    names = ", ".join(f"'class {number}'" for number in range(20))
    (folder / "config.py").write_text(_CONFIG.format(names=names, grid_size=GRID_SIZE))
    return folder
