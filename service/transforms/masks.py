"""Objects that a network tells as masks over superpoints, each with a class and a score (SGIFormer; Mask3D).

`choose` is Pointcept's `SGIFormer.forward` at inference, by whose rules masks may overlap. An answer has one object for
each point, so `settle` gives a superpoint to the surest mask that it is in.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from service.transforms.instances import NONE, Object

_LEAST_LEFT = 0.5
"""Share of a mask's voxels that no surer object may have taken, or there is no such object."""

_MOST_OVERLAP = 1 - 1e-6


@dataclass(frozen=True)
class Choice:
    """The masks that are objects, the surest first.

    Attributes:
        score: (P,) float32. label: (P,) int64, classes. mask: (P, S) bool, the superpoints of each.
    """

    score: torch.Tensor
    label: torch.Tensor
    mask: torch.Tensor


@dataclass(frozen=True)
class Masks:
    """How masks become objects.

    Attributes:
        most: pairs of a mask and a class that are looked at.
        least_score: an object's score is above it.
        least_voxels: an object has more voxels than these.
        least_share: a superpoint is in a mask that is surer of it than this.
        suppress: whether masks of one class lose score by overlapping surer ones (Matrix NMS of SOLOv2, Wang et al.,
            NeurIPS 2020).
    """

    most: int
    least_score: float
    least_voxels: int
    least_share: float
    suppress: bool

    channels: ClassVar[int] = 3
    whole: ClassVar[bool] = True
    decides: ClassVar[bool] = True

    def choose(
        self, logits: torch.Tensor, masks: torch.Tensor, quality: torch.Tensor | None, voxels: torch.Tensor
    ) -> Choice:
        """Return the objects that a decoder's last word amounts to; they may overlap.

        Args:
            logits: (Q, K + 1) float32, of the classes, and last of no object.
            masks: (Q, S) float32 logits of each superpoint.
            quality: (Q, 1) float32, with which scores are multiplied, or None.
            voxels: (S,) int64, how many voxels each superpoint has.
        """
        score = logits.softmax(dim=1)[:, :-1]
        if quality is not None:
            score = score * quality
        classes = score.shape[1]
        score, pair = score.flatten().sort(descending=True, stable=True)
        score, pair = score[: self.most], pair[: self.most]
        label = pair % classes
        raw = masks[torch.div(pair, classes, rounding_mode="floor")]
        share, inside = raw.sigmoid(), raw > 0
        score = score * ((share * inside).sum(dim=1) / (inside.sum(dim=1) + 1e-6))
        if self.suppress:
            score, order = score.sort(descending=True, stable=True)
            share, label = share[order], label[order]
            score = score * _decay(share, label)
        mask = share > self.least_share
        kept = (score > self.least_score) & (mask.to(torch.float64) @ voxels.to(torch.float64) > self.least_voxels)
        score, order = score[kept].sort(descending=True, stable=True)
        return Choice(score, label[kept][order], mask[kept][order])

    def settle(self, choice: Choice, voxels: torch.Tensor) -> torch.Tensor:
        """Return (S, 3) float32: of each superpoint the number of its object, or NONE, and that one's class and score.

        Args:
            choice: of `choose`. voxels: (S,) int64, how many voxels each superpoint has.
        """
        count = voxels.double().cpu()
        mask = choice.mask.cpu()
        owner = torch.full((len(count),), NONE)
        whole = mask.double() @ count
        for number, one in enumerate(mask):
            free = one & (owner == NONE)
            if float(count[free].sum()) >= _LEAST_LEFT * float(whole[number]):
                owner[free] = number
        owner = owner.to(choice.mask.device)
        if len(mask) == 0:
            return owner.float().unsqueeze(1).repeat(1, self.channels)
        own = owner.clamp(min=0)
        rows = torch.stack([owner.float(), choice.label[own].float(), choice.score[own].float()], dim=1)
        return torch.where(owner.unsqueeze(1) == NONE, float(NONE), rows)

    def objects(
        self, coord: torch.Tensor, raw: torch.Tensor, probability: torch.Tensor, points: torch.Tensor
    ) -> tuple[torch.Tensor, list[Object]]:
        """Return which object each voxel belongs to, and the objects, the one of most points first.

        Args:
            coord, probability: not looked at.
            raw: (M, 3) of each voxel, what `settle` says of its superpoint.
            points: (M,) int64, how many points each voxel has.
        """
        told = raw[:, 0].round().long()
        inside = told != NONE
        if not bool(inside.any()):
            return torch.full_like(told, NONE), []
        _, own = torch.unique(told[inside], return_inverse=True)
        count = int(own.max()) + 1
        size = torch.bincount(own, points[inside].double(), count)
        first = torch.full((count,), len(own), device=own.device)
        first = first.scatter_reduce(0, own, torch.arange(len(own), device=own.device), "amin")
        kind, score = raw[inside][first, 1].round().long(), raw[inside][first, 2].clamp(0, 1)
        order = torch.argsort(-size, stable=True)
        rank = torch.empty_like(order).scatter_(0, order, torch.arange(count, device=order.device))
        owner = torch.full_like(told, NONE)
        owner[inside] = rank[own]
        made = zip(kind[order].tolist(), score[order].tolist(), size[order].tolist(), strict=True)
        return owner, [Object(index, sure, int(n)) for index, sure, n in made]


def _decay(share: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
    """Return what the scores (P,) of masks (P, S), the surest first, are multiplied by for overlapping surer ones."""
    area = share.sum(dim=1)
    common = share @ share.t()
    overlap = (common / (area.unsqueeze(0) + area.unsqueeze(1) - common)).triu(diagonal=1)
    # Of equal masks rounding makes 1 and more, and of the division below infinities of either sign.
    overlap = overlap.clamp(max=_MOST_OVERLAP) * (label.unsqueeze(0) == label.unsqueeze(1))
    # A mask that is itself suppressed suppresses the less.
    already = overlap.amax(dim=0)
    return ((1 - overlap) / (1 - already).unsqueeze(1)).amin(dim=0)
