"""Which of the clouds that stand ready go through the network together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from service.engine.waiting import Rate

Room = tuple[memoryview, int]


@dataclass(eq=False)
class Item:
    """A cloud in the worker's hands.

    Attributes:
        number: the engine's name for it.
        message: what the engine sent.
        model: the model's name; only clouds of one model make a batch.
        cloud, wishes, ready: what `labelling` takes; `ready` once the cloud was prepared.
        points, voxels: sizes; `voxels` once the cloud was prepared.
        deadline: `time.monotonic()` after which nobody waits for the answer.
        cancelled: whether nobody waits already.
        room: memory that takes the answer, and where in it; None: it gets memory of its own.
    """

    number: int
    message: dict[str, Any]
    model: str
    cloud: Any
    wishes: Any
    points: int
    deadline: float
    ready: Any = None
    voxels: int = 0
    cancelled: bool = False
    room: Room | None = None


class Batches:
    """Forms batches by voxels. Not safe to use from many threads.

    The rule: the cloud that stands ready longest leads, however large it is; others of its model join in their order
    while the batch stays within its voxels, and while all of it is expected to be done before the deadline of any
    member that could be met without them. So nobody is passed over twice by the same cloud, and no batch makes a cloud
    late that would have been in time.

    Attributes:
        voxels_per_s: how fast the network has been lately.
    """

    def __init__(self) -> None:
        self.voxels_per_s = Rate(100_000.0)

    def choose(self, waiting: Sequence[Item], max_voxels: int, now: float) -> list[Item]:
        """Return the next batch out of the clouds that stand ready, first come first; [] when there are none."""
        if not waiting:
            return []
        first = waiting[0]
        batch, voxels = [first], first.voxels
        latest = self._latest(first, voxels, now)
        for item in waiting[1:]:
            if item.model != first.model or voxels + item.voxels > max_voxels:
                continue
            together = voxels + item.voxels
            bound = min(latest, self._latest(item, together, now))
            if self._end(together, now) <= bound:
                batch.append(item)
                voxels, latest = together, bound
        return batch

    def _end(self, voxels: int, now: float) -> float:
        return now + voxels / self.voxels_per_s.per_s()

    def _latest(self, item: Item, voxels: int, now: float) -> float:
        """Return the item's deadline; without bound for one that is late however soon it runs."""
        return item.deadline if self._end(voxels, now) <= item.deadline else float("inf")
