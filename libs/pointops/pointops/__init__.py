"""Neighbour queries, sampling and grouping of point clouds: Pointcept's operators, forward only, for CPU and CUDA.

A batch of clouds is rows one after another with an `offset`: cumulative counts of points, one number a cloud.
"""

import torch  # noqa: F401 - loads the libraries that _C is linked with

from . import _C, fakes  # type: ignore[attr-defined]
from .ops import (
    aggregation,
    attention_fusion_step,
    attention_relation_step,
    ball_query,
    ball_query_and_group,
    batch2offset,
    farthest_point_sampling,
    grouping,
    grouping2,
    interpolation,
    interpolation2,
    knn_query,
    knn_query_and_group,
    offset2batch,
    query_and_group,
    random_ball_query,
    subtraction,
)

__all__ = [
    "_C",
    "aggregation",
    "attention_fusion_step",
    "attention_relation_step",
    "ball_query",
    "ball_query_and_group",
    "batch2offset",
    "fakes",
    "farthest_point_sampling",
    "grouping",
    "grouping2",
    "interpolation",
    "interpolation2",
    "knn_query",
    "knn_query_and_group",
    "offset2batch",
    "query_and_group",
    "random_ball_query",
    "subtraction",
]
