"""What the engine says of itself, as Prometheus metrics. It is asked anew for each scrape."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from prometheus_client import Metric
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, InfoMetricFamily

from service import __version__
from service.engine.client import EngineClient
from service.errors import ServiceError

TIMEOUT_S = 3.0


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
            yield from _of_processes(status)


def _of_queue(status: dict[str, Any]) -> Iterator[Metric]:
    queue = status.get("queue") or {}
    yield _gauge("pointserve_queue_requests", "Clouds that wait for the device.", queue.get("requests"))
    yield _gauge("pointserve_queue_points", "Points that wait for the device.", queue.get("points"))


def _of_processes(status: dict[str, Any]) -> Iterator[Metric]:
    yield _counter("pointserve_worker_starts", "Workers started.", status.get("worker_starts"))
    readers = status.get("readers") or {}
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
