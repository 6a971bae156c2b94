"""The Flask application."""

from __future__ import annotations

import random
import re
import time
from collections.abc import Callable
from typing import Any

import structlog
from apiflask import APIFlask
from flask import Response, g, request
from werkzeug.sansio.utils import get_host

from service import __version__, keys, logs
from service.engine.client import EngineClient
from service.errors import NotReady
from service.settings import Settings
from service.web import (
    access,
    compression,
    docs,
    headers,
    health,
    measure,
    metrics,
    models,
    openapi,
    page,
    problems,
    progress,
    room,
    segment,
    summary,
    v2,
)
from service.web.body import SharedFileRequest

_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
log = structlog.get_logger()


class _App(APIFlask):
    def ensure_sync(self, func: Callable[..., Any]) -> Callable[..., Any]:
        """Return the function: none here is a coroutine, and Flask would look at eleven of them in each request."""
        return func


def create_app(settings: Settings, engine: EngineClient | None = None) -> APIFlask:
    """Return the application.

    Args:
        settings: limits, and where the engine is.
        engine: the engine's client; one at the settings' socket when absent.
    """
    app = _App(__name__, title="PointServe", version=__version__, static_folder="static", docs_path=None)
    app.request_class = SharedFileRequest
    app.extensions["settings"] = settings
    app.extensions["engine"] = engine or EngineClient(settings.socket_path)
    app.config["TRUSTED_HOSTS"] = [name.strip() for name in settings.hosts.split(",") if name.strip()] or None
    _describe(app)
    problems.install(app)
    for module in (segment, measure, summary, models, v2, health, metrics, docs, page, progress):
        app.register_blueprint(module.blueprint)
    app.before_request(_begin)
    access.install(app, _keys(settings), settings)
    room.install(app, settings)
    # These run in the opposite order.
    app.after_request(_end)
    app.after_request(compression.compress)
    app.after_request(headers.secure)
    app.teardown_request(metrics.leave)
    return app


def _describe(app: APIFlask) -> None:
    app.config["OPENAPI_VERSION"] = "3.1.0"
    app.config["INFO"] = {"description": "Labels point clouds: POST a cloud, get back a class for each point."}
    app.spec_processor(openapi.complete)  # type: ignore[arg-type]  # the description is JSON here, so never a string


def _keys(settings: Settings) -> keys.Keys:
    """Return the keys that clients need.

    Raises:
        NotReady: others can reach the service, and nobody has decided who may use it.
    """
    found = keys.load(settings)
    if not found.entries and keys.exposed(settings) and settings.api_keys.strip() != keys.NONE:
        raise NotReady(
            f"{settings.address} can be reached from other machines and there are no API keys: set API_KEYS "
            "(none: everybody may use the service), or start with `pointserve serve`, which makes a key"
        )
    logs.hide(key for _name, key in found.entries)
    return found


def _begin() -> None:
    given = request.headers.get("X-Request-ID", "")
    g.request_id = given if _REQUEST_ID.fullmatch(given) else f"{random.getrandbits(128):032x}"
    g.started = time.perf_counter()
    g.bytes_in = request.content_length
    metrics.begin()
    structlog.contextvars.clear_contextvars()
    structlog.contextvars.bind_contextvars(process="web", request_id=g.request_id)
    # A SecurityError, which is a 400, where HOSTS does not name the host.
    get_host(request.scheme, request.headers.get("Host"), request.server, request.trusted_hosts)


def _end(response: Response) -> Response:
    response.headers["X-Request-ID"] = g.get("request_id", "")
    seconds = time.perf_counter() - g.get("started", time.perf_counter())
    metrics.observe(response, seconds)
    log.info(
        "request",
        method=request.method,
        path=request.path,
        status=response.status_code,
        ms=round(seconds * 1e3, 1),
        bytes_in=g.get("bytes_in"),
        bytes_out=response.content_length,
    )
    return response
