"""Real files, changed at random, sent to a real service: what came back, and what became of its processes."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import requests

from tests.formats.test_odd_files import mutated, small_files

GRACE_S = 5.0
"""Seconds past its deadline after which an answer counts as late."""
REASONED = (400, 413, 415, 422)


@dataclass
class Run:
    """What became of the files.

    Attributes:
        statuses: how many answers of each status; 0: none came.
        strange: what should not have come back, in sentences.
        late: answers past their deadline.
        slowest_s: seconds of the slowest answer.
        refusals: the beginnings of the reasons, counted.
    """

    statuses: Counter[int] = field(default_factory=Counter)
    strange: list[str] = field(default_factory=list)
    late: int = 0
    slowest_s: float = 0.0
    refusals: Counter[str] = field(default_factory=Counter)


def sources(shared: Path | None, largest: int = 1 << 20) -> list[tuple[str, bytes]]:
    """Return files to change: those of other readers' test suites where they are, and small ones of every format."""
    found = [(name, data) for name, data in small_files().items()]
    if shared is not None:
        paths = sorted(path for path in (shared / "data" / "odd").rglob("*") if path.is_file())
        found += [(path.name, path.read_bytes()) for path in paths if path.stat().st_size <= largest]
    return found


def bodies(files: Sequence[tuple[str, bytes]], count: int, seed: int = 0) -> Iterator[tuple[str, bytes]]:
    """Yield each file as it is, then so many changed ones: name and body. The same seed gives the same bodies."""
    yield from files
    rng = np.random.default_rng(seed)
    for _ in range(count):
        name, data = files[int(rng.integers(len(files)))]
        yield name, mutated(data, rng) or b"\0"


def send(url: str, files: Iterator[tuple[str, bytes]], deadline_s: float, clients: int, key: str | None = None) -> Run:
    """Send the files, some asking for labels in their own format, and return what came of it."""
    run = Run()
    headers = {"X-API-Key": key} if key else {}

    def one(entry: tuple[int, tuple[str, bytes]]) -> tuple[str, int, float, str]:
        number, (name, body) = entry
        own = {**headers, "Content-Disposition": f"attachment; filename={name.encode('ascii', 'replace').decode()}"}
        query = "?output=same" if number % 2 else "?output=npz"
        started = time.monotonic()
        try:
            answer = requests.post(f"{url}/v1/segment{query}", body, headers=own, timeout=4 * deadline_s)
        except requests.RequestException as error:
            return name, 0, time.monotonic() - started, repr(error)
        text = "" if answer.status_code == 200 else answer.text
        return name, answer.status_code, time.monotonic() - started, text

    with ThreadPoolExecutor(clients) as pool:
        for name, status, seconds, text in pool.map(one, enumerate(files)):
            run.statuses[status] += 1
            run.slowest_s = max(run.slowest_s, seconds)
            run.late += seconds > deadline_s + GRACE_S
            if status != 200:
                run.refusals[text.partition('"detail":"')[2][:60]] += 1
            if status not in (200, *REASONED) or (status != 200 and '"detail":"' not in text):
                run.strange.append(f"{name}: {status} after {seconds:.1f} s: {text[:300]}")
    return run
