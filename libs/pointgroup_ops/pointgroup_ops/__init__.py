"""Ball query and clustering of instance segmentation: Pointcept's operators, forward only, for CPU and CUDA."""

import torch  # noqa: F401 - loads the libraries that _C is linked with

from . import _C, fakes  # type: ignore[attr-defined]
from .clustering import Clustering
from .ops import ballquery_batch_p, bfs_cluster

__all__ = ["_C", "Clustering", "ballquery_batch_p", "bfs_cluster", "fakes"]
