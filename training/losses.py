"""What a network pays for its answers: of classes, of votes for centres, of what the votes gather."""

from __future__ import annotations

import torch
from torch import Tensor

from service.transforms.instances import Votes, decode, membership
from training.batches import Lesson

_DICE, _CENTERS = 0.5, 0.5
_LEAST = 12
"""Voxels that a box must show to count as one."""
_PAIRS = 600_000
"""Pairs of voxel and box of one cloud that are compared; of more, every second, third, ... voxel is."""


def classes(logits: Tensor, lesson: Lesson) -> Tensor:
    """Return the classes' loss: cross entropy against the voxels' shares of box points, 1 - each cloud's soft Dice.

    Args:
        logits: (M, 2) float32.
        lesson: the batch that they answer.
    """
    target = torch.stack([1 - lesson.share, lesson.share], dim=1)
    entropy = -(target * logits.log_softmax(dim=1)).sum(dim=1)
    entropy = (entropy * lesson.weight).sum() / lesson.weight.sum()
    probability, cloud = logits.softmax(dim=1)[:, 1], lesson.batch.cloud

    def per_cloud(values: Tensor) -> Tensor:
        return values.new_zeros(len(lesson.batch)).index_add(0, cloud, values * lesson.weight)

    both, there = per_cloud(probability * lesson.share), per_cloud(lesson.share)
    dice = 1 - (2 * both + 20) / (per_cloud(probability) + there + 20)
    return entropy + _DICE * dice.mean()


def total(output: Tensor, lesson: Lesson) -> Tensor:
    """Return the whole loss of the network's output (M, 2 + instances.CHANNELS) float32."""
    loss = classes(output[:, :2], lesson)
    rows = (lesson.instance >= 0).nonzero().squeeze(1)
    if len(rows) < _LEAST:
        return loss + 0 * output.sum()
    votes = decode(lesson.batch.coord[rows], output[rows, 2:])
    return loss + _CENTERS * centers(votes, lesson, rows) + gathering(votes, lesson, rows)


def centers(votes: Votes, lesson: Lesson, rows: Tensor) -> Tensor:
    """Return by how much the votes of the rows (n,) miss their boxes' centres, in halves of the boxes' edges.

    A box counts by the square root of its voxels: small ones are not lost beside large ones.
    """
    instance = lesson.instance[rows]
    weight = torch.bincount(instance)[instance].float().rsqrt()
    missed = (votes.center - lesson.center[rows]).abs().sum(dim=1) / lesson.size[rows]
    return (missed * weight).sum() / weight.sum()


def gathering(votes: Votes, lesson: Lesson, rows: Tensor) -> Tensor:
    """Return how badly the votes of the rows (n,) gather their boxes.

    For each box one minus the soft Dice of its voxels and what lies within its spread of its votes' mean; and, weighted
    by a fifth, how much the spreads of one box differ.
    """
    cloud, parts = lesson.batch.cloud[rows], list[Tensor]()
    for number in range(len(lesson.batch)):
        own = (cloud == number).nonzero().squeeze(1)
        if len(own) == 0:
            continue
        instance, index = torch.unique(lesson.instance[rows[own]], return_inverse=True)
        step = 1 + len(own) * len(instance) // _PAIRS
        own, index = own[::step], index[::step]
        true = torch.nn.functional.one_hot(index, len(instance)).float()
        count = true.sum(dim=0)
        seen = count >= max(3, _LEAST // step)
        if not bool(seen.any()):
            continue
        one = votes.rows(own)
        center = (true.T @ one.center) / count.clamp(min=1)[:, None]
        spread = (true.T @ one.log_spread) / count.clamp(min=1)[:, None]
        belongs = membership(center, one.center, spread)
        dice = 1 - (2 * (belongs * true).sum(dim=0) + 1) / (belongs.square().sum(dim=0) + count + 1)
        uneven = (one.log_spread - spread[index]).square().mean()
        parts.append(dice[seen].mean() + 0.2 * uneven)
    return torch.stack(parts).mean() if parts else 0 * votes.center.sum()
