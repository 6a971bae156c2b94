"""Small configurations of the families, for a cloud with colours and normals and three classes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from tests.models import experiments

CONDITIONS = ["ScanNet", "S3DIS"]
UNET: dict[str, Any] = {"in_channels": 6, "base_channels": 8, "channels": [8] * 4, "layers": [1] * 4}
PROMPTED: dict[str, Any] = {"type": "SpUNet-v1m3", **UNET, "context_channels": 8, "conditions": CONDITIONS}
SONATA: dict[str, Any] = {
    "type": "PT-v3m2",
    "in_channels": 6,
    "stride": [2],
    "enc_depths": [1, 1],
    "enc_channels": [16, 32],
    "enc_num_head": [2, 4],
    "enc_patch_size": [32, 32],
    "enc_mode": True,
}
LITEPT: dict[str, Any] = {
    "type": "LitePT-v1",
    "in_channels": 6,
    "stride": [2, 2],
    "enc_depths": [1, 1, 2],
    "enc_channels": [12, 24, 36],
    "enc_num_head": [1, 2, 3],
    "enc_patch_size": [32, 32, 32],
    "enc_conv": [True, True, False],
    "enc_attn": [False, True, True],
    "enc_rope_freq": [100.0] * 3,
    "dec_depths": [0, 1],
    "dec_channels": [24, 24],
    "dec_num_head": [2, 2],
    "dec_patch_size": [32, 32],
    "dec_conv": [False, True],
    "dec_attn": [False, True],
    "dec_rope_freq": [100.0] * 2,
}
OACNN: dict[str, Any] = {
    "type": "OACNNs",
    "in_channels": 6,
    "num_classes": 3,
    "embed_channels": 8,
    "enc_channels": [8, 16],
    "groups": [2, 4],
    "enc_depth": [1, 1],
    "dec_channels": [8, 16],
    "point_grid_size": [[4, 8], [2, 4]],
}
GROUPED: dict[str, Any] = {
    "in_channels": 6,
    "num_classes": 3,
    "patch_embed_channels": 12,
    "patch_embed_groups": 3,
    "enc_depths": [1, 1],
    "enc_channels": [24, 48],
    "enc_groups": [6, 12],
    "enc_neighbours": [8, 8],
    "dec_depths": [1, 1],
    "dec_channels": [12, 24],
    "dec_groups": [3, 6],
    "dec_neighbours": [8, 8],
    "grid_sizes": [0.06, 0.15],
}
PROMPTED_NORMS = {**PROMPTED, "num_classes": 3, "norm_adaptive": False, "norm_affine": True}
PLAIN = {"type": "SpUNet-v1m1", **UNET, "num_classes": 0}
HEAD = {"backbone_out_channels": 8, "num_classes": 3}
LANGUAGE = {"backbone": PROMPTED, "backbone_out_channels": 8, "context_channels": 8, "conditions": CONDITIONS}

SMALL: dict[str, dict[str, Any]] = {
    "SpUNet-v1m1": {"type": "DefaultSegmentor", "backbone": {**PLAIN, "num_classes": 3}},
    "PT-v3m1": {
        "type": "DefaultSegmentorV2",
        "num_classes": 3,
        "backbone_out_channels": 48,
        "backbone": {**SONATA, "type": "PT-v3m1", "enable_flash": False},
    },
    "PT-v3m2": {"type": "DefaultSegmentorV2", "num_classes": 3, "backbone_out_channels": 48, "backbone": SONATA},
    "PT-v3m3": {
        "type": "DefaultSegmentorV2",
        "num_classes": 3,
        "backbone_out_channels": 36,
        "backbone": {**SONATA, "type": "PT-v3m3", "enc_channels": [12, 24], "enc_num_head": [2, 2]},
    },
    "SpUNet-v1m2": {"type": "DefaultSegmentor", "backbone": {"type": "SpUNet-v1m2", **UNET, "num_classes": 3}},
    "SpUNet-v1m3": {"type": "DefaultSegmentor", "backbone": PROMPTED_NORMS},
    "OACNNs": {"type": "DefaultSegmentor", "backbone": OACNN},
    "LitePT-v1": {"type": "DefaultSegmentorV2", "num_classes": 3, "backbone_out_channels": 24, "backbone": LITEPT},
    "PointTransformer-Seg26": {
        "type": "DefaultSegmentor",
        "backbone": {"type": "PointTransformer-Seg26", "in_channels": 6, "num_classes": 3},
    },
    "PT-v2m1": {"type": "DefaultSegmentor", "backbone": {"type": "PT-v2m1", **GROUPED}},
    "PT-v2m2": {"type": "DefaultSegmentor", "backbone": {"type": "PT-v2m2", **GROUPED, "unpool_backend": "interp"}},
    "PT-v2m3": {
        "type": "PPT-v1m2",
        "backbone": {"type": "PT-v2m3", **GROUPED, "num_classes": 0, "context_channels": 8, "conditions": CONDITIONS},
        "backbone_out_channels": 12,
        "context_channels": 8,
        "conditions": CONDITIONS,
        "num_classes": [3, 13],
    },
    "CAC-v1m1": {"type": "CAC-v1m1", **HEAD, "backbone": PLAIN},
    "PPT-v1m1": {
        "type": "PPT-v1m1",
        **LANGUAGE,
        "class_name": ["wall", "floor", "cabinet"],
        "valid_index": [[0, 1, 2], [2, 0]],
    },
    "PPT-v1m2": {"type": "PPT-v1m2", **LANGUAGE, "num_classes": [3, 13]},
    "PPT-v1m3": {
        "type": "PPT-v1m3",
        "backbone": SONATA,
        "backbone_out_channels": 48,
        "conditions": CONDITIONS,
        "class_names": [["wall", "floor", "cabinet"], ["cabinet", "wall"]],
    },
    "DefaultLORASegmentorV2": {
        "type": "DefaultLORASegmentorV2",
        "num_classes": 3,
        "backbone_out_channels": 48,
        "use_lora": True,
        "backbone_path": "exp/pretrained.pth",
        "keywords": "module.student.backbone",
        "replacements": "module.backbone",
        "backbone": SONATA,
    },
    "PG-v1m1": {
        "type": "PG-v1m1",
        "semantic_num_classes": 3,
        "backbone_out_channels": 8,
        "segment_ignore_index": [-1],
        "cluster_propose_points": 10,
        "cluster_min_points": 5,
        "backbone": PLAIN,
    },
    "PG-v1m2": {
        "type": "PG-v1m2",
        "semantic_num_classes": 3,
        "backbone_out_channels": 24,
        "criteria": [{"type": "CrossEntropyLoss", "loss_weight": 1.0, "ignore_index": -1}],
        "freeze_backbone": False,
        "backbone": LITEPT,
    },
    "SGIFormer-v1m1": {
        "type": "SGIFormer-v1m1",
        "semantic_num_classes": 2,
        "segment_ignore_index": [-1, 0],
        "npoint_thr": 5,
        "topk_insts": 90,
        "decoder": {
            "num_classes": 2,
            "in_channel": 48,
            "num_sample_query": 8,
            "num_learn_query": 40,
            "d_model": 24,
            "nhead": 4,
            "hidden_dim": 32,
        },
        "criteria": {"matcher": {"type": "HungarianMatcher"}, "num_classes": 2},
        "backbone": SONATA,
    },
}
"""By family: the whole `model` of a configuration."""


def network(name: str, **change: Any) -> Any:
    """Return a family's network with random weights."""
    made = experiments.network(repr({**SMALL[name], **change}))
    random = torch.Generator().manual_seed(4 if name == "SGIFormer-v1m1" else 1)
    for key, value in made.state_dict().items():
        if key.endswith(("class_embedding", "lora_B.default.weight", "embedding_table.weight")):
            value.copy_(torch.randn(value.shape, generator=random))
        elif name.startswith("PG") and key.startswith("bias_head.3"):
            value.zero_()  # every voxel votes for its own place
        elif key.startswith(("decoder.query_learn", "decoder.x_mask", "decoder.sp_feat_proj")):
            value.copy_(2 * torch.randn(value.shape, generator=random))
        elif key.startswith("decoder.") and ("out_proj" in key or ".net." in key):
            value.mul_(0.2)  # queries that stay apart, so that their masks do
    return made


def write(folder: Path, name: str, **change: Any) -> Any:
    """Write the experiment of a family; return its network."""
    (folder / "model").mkdir(parents=True)
    (folder / "config.py").write_text(experiments.config(repr({**SMALL[name], **change})), encoding="utf-8")
    made = network(name, **change)
    torch.save(experiments.state(made), folder / "model" / "model_best.pth")
    return made
