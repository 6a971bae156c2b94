"""What the engine counts of its batches, and of what happened to clouds and workers."""

from __future__ import annotations

from collections import Counter
from typing import Any

from service.engine.channel import Message

SIZES = (1, 2, 4, 8, 16, 32, 64, 128)
"""Upper bounds of the histogram of clouds in a batch."""


class Tally:
    """Counts since the engine began. Not safe to use from many threads.

    Attributes:
        events: what happened to clouds and workers, by name.
    """

    def __init__(self) -> None:
        self.events: Counter[str] = Counter()
        self._sums: Counter[str] = Counter()
        self._sizes: Counter[int] = Counter()
        self._of_models: dict[str, dict[int, Counter[str]]] = {}

    def add(self, report: Message) -> None:
        """Count a batch of which a worker reports: `model`, `clouds`, `points`, `voxels`, `seconds`, `stages`."""
        clouds, seconds = report.get("clouds", 1), report.get("seconds", 0.0)
        self._sums["count"] += 1
        for name in ("clouds", "points", "voxels", "seconds"):
            self._sums[name] += report.get(name, 0)
        self._sizes[next((size for size in SIZES if clouds <= size), SIZES[-1])] += 1
        stages = report.get("stages", {})
        sums = self._of_models.setdefault(report.get("model", ""), {}).setdefault(clouds, Counter())
        sums["count"] += 1
        sums["prepare_s"] += stages.get("prepare", 0.0)
        sums["restore_s"] += stages.get("restore", 0.0)
        # The forward pass, and whatever else the batch took.
        sums["forward_s"] += max(0.0, seconds - stages.get("restore", 0.0))

    def batches(self) -> dict[str, Any]:
        """Return the sums over all batches, and how many there were of each size, as JSON values."""
        return {**self._sums, "sizes": {str(size): self._sizes[size] for size in SIZES}}

    def of_models(self) -> dict[str, list[dict[str, Any]]]:
        """Return, for each model and number of clouds, how many such batches there were and what they took in sum."""
        return {
            model: [{"clouds": clouds, **sums} for clouds, sums in sorted(of_model.items())]
            for model, of_model in self._of_models.items()
        }
