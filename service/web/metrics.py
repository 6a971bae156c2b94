"""GET /metrics: what the web counts of its requests, and what the engine says of itself, for Prometheus."""

from __future__ import annotations

import functools
from typing import TypeVar

from apiflask import APIBlueprint
from flask import Response, current_app, g, request
from prometheus_client import REGISTRY, CollectorRegistry, Counter, Gauge, Histogram, values
from prometheus_client.exposition import choose_encoder
from prometheus_client.multiprocess import MultiProcessCollector

from service.web import reserved
from service.web.engine_metrics import EngineCollector

reserved.install()
blueprint = APIBlueprint("metrics", __name__, tag="Health")

Metric = TypeVar("Metric", Counter, Gauge, Histogram)
_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120)
_POINTS = (100, 1_000, 10_000, 30_000, 100_000, 300_000, 1_000_000, 3_000_000, 10_000_000, 30_000_000)
_BODY_PROBLEMS = {"malformed-file", "reader-failed", "too-large", "unusable-cloud"}

REQUESTS = Counter("pointserve_requests", "Requests answered.", ["method", "route", "status"])
REQUEST_SECONDS = Histogram(
    "pointserve_request_seconds", "From a request's head to its answer's.", ["route"], buckets=_SECONDS
)
IN_PROGRESS = Gauge("pointserve_requests_in_progress", "Requests being answered.", multiprocess_mode="livesum")
RECEIVED_BYTES = Counter("pointserve_received_bytes", "Bytes of request bodies, as announced.")
STAGE_SECONDS = Histogram("pointserve_stage_seconds", "Stages of labelled requests.", ["stage"], buckets=_SECONDS)
REQUEST_POINTS = Histogram("pointserve_request_points", "Points of labelled clouds.", buckets=_POINTS)
DECODE_FAILURES = Counter("pointserve_decode_failures", "Bodies that could not be decoded.", ["format", "reason"])
CLOUDS = Counter("pointserve_model_clouds", "Clouds asked of a model.", ["model", "outcome"])
MODEL_POINTS = Counter("pointserve_model_points", "Points labelled by a model.", ["model"])
MODEL_SECONDS = Counter("pointserve_model_seconds", "Time in the stages of a model's clouds.", ["model", "stage"])
MODEL_LAST = Gauge("pointserve_model_last_seconds", "Time of the last cloud.", ["model"], multiprocess_mode="max")


@functools.cache
def _of(metric: Metric, *labels: str | int) -> Metric:
    """Return a metric's counter for these labels, of which there are few; finding it takes longer than counting."""
    return metric.labels(*labels)


def begin() -> None:
    """Count a request in."""
    g.counted = True
    IN_PROGRESS.inc()


def leave(_error: BaseException | None) -> None:
    """Count a request out."""
    if g.pop("counted", False):
        IN_PROGRESS.dec()


def observe(response: Response, seconds: float) -> None:
    """Count an answer.

    Of a request that labels a cloud `g` has `watch`, its Stopwatch; `format` and `model` once they are known; `points`
    once there are labels; and `problem`, the code of an error.
    """
    # Not through the proxies, which look for the request again at each of these.
    asked, found = request._get_current_object(), vars(g._get_current_object())  # type: ignore[attr-defined]
    route = str(asked.url_rule) if asked.url_rule is not None else "none"
    method = asked.method if asked.method in ("GET", "POST", "HEAD", "OPTIONS") else "other"
    _of(REQUESTS, method, route, response.status_code).inc()
    _of(REQUEST_SECONDS, route).observe(seconds)
    RECEIVED_BYTES.inc(found.get("bytes_in") or 0)
    problem, model, points = found.get("problem"), found.get("model"), found.get("points")
    stages: dict[str, float] = found["watch"].read() if "watch" in found else {}
    if problem in _BODY_PROBLEMS and "format" in found and "read" not in stages:
        _of(DECODE_FAILURES, found["format"], problem).inc()
    if model is None:
        return
    labelled = points is not None and response.status_code == 200
    _of(CLOUDS, model, "labelled" if labelled else "failed").inc()
    if not labelled:
        _of(MODEL_SECONDS, model, "failed").inc(seconds)
        return
    REQUEST_POINTS.observe(points)
    _of(MODEL_POINTS, model).inc(points)
    _of(MODEL_LAST, model).set_to_current_time()
    for stage, ms in stages.items():
        _of(STAGE_SECONDS, stage).observe(ms / 1e3)
        _of(MODEL_SECONDS, model, stage).inc(ms / 1e3)


def counted() -> CollectorRegistry:
    """Return what all of the web's processes have counted."""
    if not values.ValueClass._multiprocess:
        return REGISTRY
    registry = CollectorRegistry()
    MultiProcessCollector(registry)
    return registry


@blueprint.get("/metrics")
@blueprint.doc(
    summary="Metrics",
    operation_id="metrics",
    responses={200: "Prometheus' text format, or OpenMetrics."},
)
def metrics() -> Response:
    """Return the service's metrics in Prometheus' text format, or as OpenMetrics where that is asked for."""
    registry = CollectorRegistry()
    registry.register(counted())
    registry.register(EngineCollector(current_app.extensions["engine"]))
    encode, content_type = choose_encoder(request.headers.get("Accept", ""))
    return Response(encode(registry), content_type=content_type)
