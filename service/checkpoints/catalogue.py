"""Checkpoints that their makers publish on Hugging Face.

Names, files and licences are those of the repositories' own pages and READMEs. `sha256` is given where somebody else
has published it too; where it is not, the digest that the server sends along is what the bytes are held against.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType


@dataclass(frozen=True)
class Checkpoint:
    """A published checkpoint.

    Attributes:
        name: what users call it.
        repository: "owner/name" on the hub.
        files: paths in the repository; the same paths are made below the model's folder.
        licence: of the weights.
        about: one line.
        sha256: digests of files, as far as they are known.
    """

    name: str
    repository: str
    files: tuple[str, ...]
    licence: str
    about: str
    sha256: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))


_PTV3 = "Pointcept/PointTransformerV3"
_NC = "CC-BY-NC-4.0"


def _experiment(name: str, folder: str, about: str, sha256: str | None = None) -> Checkpoint:
    """Return a Pointcept experiment: config.py and the best weights, trained with Pointcept 1.5.1."""
    weights = f"{folder}/model/model_best.pth"
    digests = MappingProxyType({weights: sha256} if sha256 else {})
    return Checkpoint(name, _PTV3, (f"{folder}/config.py", weights), "see the repository", about, digests)


_ALL = (
    _experiment("ptv3-scannet", "scannet-semseg-pt-v3m1-0-base", "PTv3, ScanNet, 20 classes"),
    _experiment("ptv3-scannet-ppt", "scannet-semseg-pt-v3m1-1-ppt-extreme", "PTv3 with PPT, ScanNet, 20 classes"),
    _experiment("ptv3-scannet200", "scannet200-semseg-pt-v3m1-0-base", "PTv3, ScanNet200, 200 classes"),
    _experiment("ptv3-s3dis", "s3dis-semseg-pt-v3m1-0-rpe", "PTv3 with RPE, S3DIS area 5, 13 classes"),
    _experiment("ptv3-s3dis-ppt", "s3dis-semseg-pt-v3m1-1-ppt-extreme", "PTv3 with PPT, S3DIS area 5, 13 classes"),
    _experiment(
        "ptv3-nuscenes",
        "nuscenes-semseg-pt-v3m1-0-base",
        "PTv3, nuScenes, 16 classes",
        "e2774d2fa1dd33e640a514afe0bd1e5af94eb08be19d08d1f9402f20dfd6db94",
    ),
    Checkpoint("sonata", "facebook/sonata", ("sonata.pth",), _NC, "Sonata encoder, 108 M parameters"),
    Checkpoint("sonata-small", "facebook/sonata", ("sonata_small.pth",), _NC, "Sonata encoder, 39 M parameters"),
    Checkpoint(
        "sonata-scannet",
        "facebook/sonata",
        ("sonata.pth", "sonata_linear_prob_head_sc.pth"),
        _NC,
        "Sonata with a linear head for ScanNet, 20 classes",
    ),
    Checkpoint("concerto-small", "Pointcept/Concerto", ("concerto_small.pth",), _NC, "Concerto encoder, small"),
    Checkpoint("concerto-base", "Pointcept/Concerto", ("concerto_base.pth",), _NC, "Concerto encoder, base"),
    Checkpoint("concerto-large", "Pointcept/Concerto", ("concerto_large.pth",), _NC, "Concerto encoder, large"),
    Checkpoint(
        "concerto-scannet",
        "Pointcept/Concerto",
        ("concerto_large.pth", "concerto_large_linear_prob_head_sc.pth"),
        _NC,
        "Concerto with a linear head for ScanNet, 20 classes",
    ),
    Checkpoint(
        "concerto-outdoor",
        "Pointcept/Concerto",
        ("concerto_large_outdoor.pth",),
        _NC,
        "Concerto encoder, large, for outdoor scenes",
    ),
    Checkpoint("utonia", "Pointcept/Utonia", ("utonia.pth",), _NC, "Utonia encoder, 137 M parameters"),
)
CATALOGUE: Mapping[str, Checkpoint] = MappingProxyType({each.name: each for each in _ALL})
"""Every checkpoint by its name."""
