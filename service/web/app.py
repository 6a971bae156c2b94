"""The Flask application."""

from __future__ import annotations

import re
import time
import uuid

import structlog
from apiflask import APIFlask
from flask import Response, g, redirect, request, url_for
from werkzeug.wrappers import Response as BaseResponse

from service import __version__
from service.engine.client import EngineClient
from service.settings import Settings
from service.web import health, models, openapi, problems, segment
from service.web.body import SharedFileRequest

_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
log = structlog.get_logger()


def create_app(settings: Settings, engine: EngineClient | None = None) -> APIFlask:
    """Return the application.

    Args:
        settings: limits, and where the engine is.
        engine: the engine's client; one at the settings' socket when absent.
    """
    app = APIFlask(__name__, title="PointServe", version=__version__, static_folder="static")
    app.request_class = SharedFileRequest
    app.extensions["settings"] = settings
    app.extensions["engine"] = engine or EngineClient(settings.socket_path)
    _describe(app)
    problems.install(app)
    for module in (segment, models, health):
        app.register_blueprint(module.blueprint)
    app.before_request(_begin)
    app.after_request(_end)
    app.add_url_rule("/", "root", _root)
    return app


def _describe(app: APIFlask) -> None:
    app.config["OPENAPI_VERSION"] = "3.1.0"
    app.config["INFO"] = {"description": "Labels point clouds: POST a cloud, get back a class for each point."}
    vendor = "/static/vendor/swagger-ui"
    app.config["SWAGGER_UI_CSS"] = f"{vendor}/swagger-ui.css"
    app.config["SWAGGER_UI_BUNDLE_JS"] = f"{vendor}/swagger-ui-bundle.js"
    app.config["SWAGGER_UI_STANDALONE_PRESET_JS"] = f"{vendor}/swagger-ui-standalone-preset.js"
    app.config["DOCS_FAVICON"] = f"{vendor}/favicon-32x32.png"
    app.spec_processor(openapi.complete)  # type: ignore[arg-type]  # the description is JSON here, so never a string


def _root() -> BaseResponse:
    return redirect(url_for("openapi.docs"))


def _begin() -> None:
    given = request.headers.get("X-Request-ID", "")
    g.request_id = given if _REQUEST_ID.fullmatch(given) else uuid.uuid4().hex
    g.started = time.perf_counter()
    structlog.contextvars.clear_contextvars()
    structlog.contextvars.bind_contextvars(process="web", request_id=g.request_id)


def _end(response: Response) -> Response:
    response.headers["X-Request-ID"] = g.get("request_id", "")
    log.info(
        "request",
        method=request.method,
        path=request.path,
        status=response.status_code,
        ms=round((time.perf_counter() - g.get("started", time.perf_counter())) * 1e3, 1),
        bytes_in=request.content_length,
        bytes_out=response.content_length,
    )
    return response
