"""Instances from semantic scores: connected points of one class."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

from .ops import ballquery_batch_p, bfs_cluster


class Clustering:
    """Clusters one cloud's points by class and nearness, with Pointcept's arguments and results.

    ignored_labels: mapped classes that form no instances; class_mapping: (classes) tensor, a model's class -> the data
    set's; thresh: distance in the unit of the vertices; min_points: smallest cluster; propose_points: an instance has
    more than these; closed_points is not needed here.
    """

    def __init__(
        self,
        ignored_labels: Iterable[int],
        class_mapping: Tensor,
        thresh: float = 0.03,
        closed_points: int = 300,
        min_points: int = 50,
        propose_points: int = 100,
        score_func: Callable[[Tensor], Tensor] = torch.max,
    ) -> None:
        self.ignored_labels = ignored_labels
        self.class_mapping = class_mapping
        self.thresh = thresh
        self.closed_points = closed_points
        self.min_points = min_points
        self.propose_points = propose_points
        self.score_func = score_func

    def cluster(self, vertices: Tensor, scores: Tensor) -> tuple[Tensor, Tensor]:
        """vertices (n, 3), scores (n, classes) -> masks (instances, n) int32 on the CPU, class of each instance."""
        labels = scores.argmax(1)
        members, ends = self.cluster_(vertices, labels)
        counts = torch.diff(ends)
        kept = (counts > self.propose_points).nonzero()[:, 0].tolist()
        masks = torch.zeros(len(kept), len(vertices), dtype=torch.int32)
        for row, cluster in enumerate(kept):
            masks[row, members[ends[cluster] : ends[cluster + 1], 1].long()] = 1
        firsts = members[ends[:-1].long(), 1].long()[kept]
        return masks, labels[firsts.to(labels.device)]

    def cluster_(self, vertices: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """vertices (n, 3), labels (n) -> (points, 2) cluster and point, (clusters + 1) ends; int32 on the CPU."""
        ignored = torch.as_tensor(list(self.ignored_labels), device=labels.device, dtype=self.class_mapping.dtype)
        wanted = ~torch.isin(self.class_mapping.to(labels.device)[labels], ignored)
        rows = wanted.nonzero()[:, 0]
        if len(rows) == 0:
            return torch.zeros(0, 2, dtype=torch.int32), torch.zeros(1, dtype=torch.int32)
        coords = vertices[rows].float().contiguous()
        cloud = torch.zeros(len(rows), dtype=torch.int32, device=coords.device)
        ends = torch.tensor([0, len(rows)], dtype=torch.int32, device=coords.device)
        idx, start_len = ballquery_batch_p(coords, cloud, ends, self.thresh, self.closed_points)
        members, offsets = bfs_cluster(labels[rows].int(), idx, start_len, self.min_points)
        members[:, 1] = rows[members[:, 1].long()].int()
        return members.cpu(), offsets.cpu()

    def get_instances(self, vertices: Tensor, scores: Tensor) -> dict[int, dict[str, Any]]:
        """vertices (n, 3), scores (n, classes) -> by number: conf, label_id, pred_mask (n) as numpy arrays."""
        masks, labels = self.cluster(vertices, scores)
        mapping = self.class_mapping.cpu()
        instances = {}
        for number, (mask, label) in enumerate(zip(masks, labels, strict=True)):
            inside = mask.bool().to(scores.device)
            instances[number] = {
                "conf": self.score_func(scores[inside, label]).cpu().numpy(),
                "label_id": mapping[label.cpu()],
                "pred_mask": mask.numpy(),
            }
        return instances
