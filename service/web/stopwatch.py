"""How long each stage of a request took."""

from __future__ import annotations

import time
from collections.abc import Mapping


class Stopwatch:
    """Measures one request, stage after stage, in milliseconds."""

    def __init__(self) -> None:
        self._started = self._last = time.perf_counter()
        self._stages: dict[str, float] = {}

    def lap(self, stage: str) -> None:
        """End a stage that began where the last one ended."""
        now = time.perf_counter()
        self._stages[stage] = (now - self._last) * 1e3
        self._last = now

    def within(self, stage: str, parts: Mapping[str, float]) -> None:
        """End a stage whose parts another process has measured; what they do not explain is left to the total."""
        self.lap(stage)
        del self._stages[stage]
        self._stages.update(parts)

    def read(self) -> dict[str, float]:
        """Return the stages so far, and `total`."""
        total = (time.perf_counter() - self._started) * 1e3
        return {stage: round(ms, 1) for stage, ms in {**self._stages, "total": total}.items()}

    def header(self) -> str:
        """Return the stages as a Server-Timing header (W3C Server Timing)."""
        return ", ".join(f"{stage};dur={ms:g}" for stage, ms in self.read().items())
