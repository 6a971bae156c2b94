"""Full load for a long time: the slope of the resident memory of all processes, and answers that are not labels.

    python -m benchmarks.soak [--seconds 600] [--clients 16] [--real]

The slope is the least-squares line through one sample a second, the first fifth left out: until then threads, pools and
caches fill. Issue: 10 minutes, under 1 MB a minute; goal 0.
"""

from __future__ import annotations

import argparse
import threading
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from benchmarks.load import Outcome, closed_loop, infer, post
from benchmarks.running import ROOT, Running, serving, show
from benchmarks.stub_model import points

SAMPLE = ROOT / "samples" / "parcels.ply"


class Memory:
    """Samples of the service's memory, once a second, until the block ends.

    Attributes:
        seconds: when each sample was taken.
        samples: what `Running.memory` said then.
    """

    def __init__(self, running: Running) -> None:
        self._running = running
        self._ended = threading.Event()
        self.seconds: list[float] = []
        self.samples: list[dict[str, tuple[int, int]]] = []

    def __enter__(self) -> Memory:
        self._thread = threading.Thread(target=self._watch)
        self._started = time.monotonic()
        self._thread.start()
        return self

    def _watch(self) -> None:
        while not self._ended.wait(1.0):
            self.samples.append(self._running.memory())
            self.seconds.append(time.monotonic() - self._started)

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    @property
    def rss(self) -> list[int]:
        """Resident memory of all processes in each sample, in bytes."""
        return [sum(rss for rss, _anonymous in sample.values()) for sample in self.samples]

    @property
    def anonymous(self) -> list[int]:
        """What of it is neither a file's nor shared."""
        return [sum(anonymous for _rss, anonymous in sample.values()) for sample in self.samples]

    def by_role(self) -> dict[str, list[int]]:
        """Return the resident memory of each kind of process in each sample, in bytes."""
        roles = dict.fromkeys(role for sample in self.samples for role in sample)
        return {role: [sample.get(role, (0, 0))[0] for sample in self.samples] for role in roles}

    def slope_mb_a_minute(self, sizes: Sequence[int]) -> float:
        """Return the slope of the line through such samples, after the first fifth."""
        start = len(sizes) // 5
        if len(sizes) - start < 3:
            return float("nan")
        return float(np.polyfit(self.seconds[start:], sizes[start:], 1)[0]) * 60 / 1e6

    def minutes_mb(self, sizes: Sequence[int]) -> list[float]:
        """Return the median of such samples in each minute; the last one is what is left."""
        minute = np.array(self.seconds) // 60
        return [float(np.median(np.array(sizes)[minute == number])) / 1e6 for number in range(int(minute[-1]) + 1)]


def mixture(real: bool) -> list[bytes]:
    """Return what clients send: tensors, files in and out, and now and then something that is no cloud."""
    name = "parcels" if real else "stub"
    file = SAMPLE.read_bytes() if Path(SAMPLE).is_file() else b""
    kind = "application/octet-stream"
    good = [infer(points(count, count), name) for count in (2000, 20_000, 100_000)]
    files = [post("/v1/segment", file, kind), post("/v1/segment?output=same", file, kind)]
    return (
        good * 3 + files + [post("/v1/segment", file[:100_000], kind), post("/v1/segment", b"{}", "application/json")]
    )


def soak(running: Running, seconds: float, clients: int, real: bool) -> tuple[Outcome, Memory]:
    """Keep the service at full load for so long and return what came of it."""
    requests = mixture(real)
    with Memory(running) as memory:
        outcome = closed_loop(running.port, requests, clients, seconds)
    return outcome, memory


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=600.0)
    parser.add_argument("--clients", type=int, default=16)
    parser.add_argument("--real", action="store_true", help="the bundled model instead of the stand-in")
    arguments = parser.parse_args()
    with serving(None if arguments.real else 10.0) as running:
        outcome, memory = soak(running, arguments.seconds, arguments.clients, arguments.real)
    refused = outcome.statuses[400]
    odd = {status: number for status, number in outcome.statuses.items() if status not in (200, 400)}
    rows = [
        ("answers with labels", str(outcome.statuses[200]), ""),
        ("refusals of what is no cloud", str(refused), f"{2 / 13:.0%} of all"),
        ("other answers", str(odd or 0), "0"),
        ("memory of all processes, least / most", f"{min(memory.rss) / 1e6:.0f} / {max(memory.rss) / 1e6:.0f} MB", ""),
        ("slope", f"{memory.slope_mb_a_minute(memory.rss):+.2f} MB/min", "1 MB/min"),
        ("slope of anonymous memory", f"{memory.slope_mb_a_minute(memory.anonymous):+.2f} MB/min", ""),
    ]
    show(f"full load for {arguments.seconds:g} s, {arguments.clients} clients", ("figure", "measured", "bound"), rows)
    show_minutes(memory)


def show_minutes(memory: Memory) -> None:
    """Print what each kind of process took, minute by minute."""
    kinds = {**memory.by_role(), "all": memory.rss, "all, anonymous": memory.anonymous}
    rows = [
        (kind, *(f"{size:.1f}" for size in memory.minutes_mb(sizes)), f"{memory.slope_mb_a_minute(sizes):+.2f}")
        for kind, sizes in kinds.items()
    ]
    minutes = [str(number + 1) for number in range(len(rows[0]) - 2)]
    show("resident memory in each minute, median, MB", ("processes", *minutes, "MB/min"), rows)


if __name__ == "__main__":
    main()
