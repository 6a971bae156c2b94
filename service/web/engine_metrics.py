"""What the engine says of itself, as Prometheus metrics. It is asked anew for each scrape."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from prometheus_client import Metric
from prometheus_client.metrics_core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
)

from service import __version__
from service.engine.client import EngineClient
from service.errors import ServiceError

TIMEOUT_S = 3.0
# What is counted from 0 on, so that a rate of it can be asked for before it has happened.
EVENTS = ("cancelled", "expired", "fatal", "hung", "lost", "out_of_memory", "refused", "refused_fatal", "retried")


class EngineCollector:
    """Turns `EngineClient.status` into metrics; what it does not say is left out."""

    def __init__(self, engine: EngineClient) -> None:
        self._engine = engine

    def collect(self) -> Iterator[Metric]:
        """Yield the metrics; without an engine only that the service is not ready."""
        try:
            status = self._engine.status(TIMEOUT_S)
        except ServiceError:
            status = {}
        yield _gauge("pointserve_ready", "Whether clouds can be labelled now.", status.get("state") == "ready")
        about = status.get("device") or {}
        device = {name: str(about.get(name) or "") for name in ("device", "name", "torch")}
        yield InfoMetricFamily("pointserve_build", "What runs here.", value={"version": __version__, **device})
        if status:
            yield from _of_queue(status)
            yield from _of_batches(status.get("batches") or {})
            yield from _of_workers(status.get("workers") or [])
            yield from _of_readers(status.get("readers") or {})


def _of_queue(status: dict[str, Any]) -> Iterator[Metric]:
    queue = status.get("queue") or {}
    yield _gauge("pointserve_queue_requests", "Clouds that wait for a device.", queue.get("requests"))
    yield _gauge("pointserve_queue_points", "Points that wait for a device.", queue.get("points"))
    yield _gauge(
        "pointserve_points_per_second", "Points that the devices label, as measured.", status.get("points_per_s")
    )
    counts = status.get("counts") or {}
    events = CounterMetricFamily("pointserve_engine_events", "What happened to clouds and workers.", labels=["event"])
    for event in sorted({*EVENTS, *counts}):
        events.add_metric([event], counts.get(event, 0))
    yield events


def _of_batches(batches: dict[str, Any]) -> Iterator[Metric]:
    for name in ("points", "voxels", "seconds"):
        yield _counter(f"pointserve_batch_{name}", f"{name.capitalize()} of all batches.", batches.get(name, 0))
    sizes = {int(size): count for size, count in (batches.get("sizes") or {}).items()}
    so_far, buckets = 0, []
    for size in sorted(sizes):
        so_far += sizes[size]
        buckets.append((str(size), so_far))
    family = HistogramMetricFamily("pointserve_batch_clouds", "Clouds in a batch.")
    family.add_metric([], [*buckets, ("+Inf", so_far)], batches.get("clouds", 0))
    yield family


def _of_workers(workers: list[dict[str, Any]]) -> Iterator[Metric]:
    ready = GaugeMetricFamily("pointserve_worker_ready", "Whether a device's worker is ready.", labels=["device"])
    starts = CounterMetricFamily("pointserve_worker_starts", "Workers started for a device.", labels=["device"])
    resident = GaugeMetricFamily("pointserve_worker_resident_bytes", "Memory of a worker.", labels=["device"])
    memory = GaugeMetricFamily("pointserve_device_memory_bytes", "Memory of a device.", labels=["device", "kind"])
    running = GaugeMetricFamily("pointserve_worker_clouds", "Clouds that a worker holds.", labels=["device"])
    for worker in workers:
        device = str(worker.get("device"))
        ready.add_metric([device], float(worker.get("state") == "ready"))
        starts.add_metric([device], worker.get("starts") or 0)
        resident.add_metric([device], worker.get("rss_bytes") or 0)
        running.add_metric([device], (worker.get("in_flight") or {}).get("requests") or 0)
        for kind, value in (worker.get("memory") or {}).items():
            if isinstance(value, int | float):
                memory.add_metric([device, str(kind).removesuffix("_bytes")], value)
    yield from (ready, starts, resident, running, memory)


def _of_readers(readers: dict[str, Any]) -> Iterator[Metric]:
    yield _gauge("pointserve_readers", "Processes that decode files.", len(readers.get("pids") or ()))
    yield _counter("pointserve_readers_replaced", "Readers that were ended.", readers.get("replaced"))


def _gauge(name: str, text: str, value: float | None) -> Metric:
    family = GaugeMetricFamily(name, text)
    if value is not None:
        family.add_metric([], float(value))
    return family


def _counter(name: str, text: str, value: float | None) -> Metric:
    family = CounterMetricFamily(name, text)
    if value is not None:
        family.add_metric([], float(value))
    return family
