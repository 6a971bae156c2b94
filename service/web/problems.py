"""Errors as HTTP: the one place where an error gets a status. RFC 9457, application/problem+json."""

from __future__ import annotations

import math
from http import HTTPStatus
from typing import Any

import orjson
import structlog
from apiflask import APIFlask
from flask import Response, g, request
from werkzeug.exceptions import HTTPException

from service import errors

MEDIA_TYPE = "application/problem+json"
STATUS: dict[type[errors.ServiceError], int] = {
    errors.MalformedRequest: 400,
    errors.MalformedFile: 400,
    errors.MissingKey: 401,
    errors.InvalidKey: 401,
    errors.UnknownModel: 404,
    errors.NotAcceptable: 406,
    errors.TooLarge: 413,
    errors.UnknownFormat: 415,
    errors.UnusableCloud: 422,
    errors.ReaderFailed: 422,
    errors.Cancelled: 499,
    errors.RateLimited: 429,
    errors.InternalError: 500,
    errors.FatalCloud: 500,
    errors.UnusableModel: 503,
    errors.NotReady: 503,
    errors.Overloaded: 503,
    errors.OutOfMemory: 503,
    errors.DeadlineExceeded: 504,
}
log = structlog.get_logger()


def problem(status: int, code: str, title: str, detail: str, retry_after_s: float | None = None) -> Response:
    """Return a problem document.

    Args:
        status: HTTP status.
        code: end of the problem's type.
        title, detail: the kind of problem, and this one, in a sentence.
        retry_after_s: seconds after which to try again.
    """
    request_id = g.get("request_id", "")
    body: dict[str, Any] = {
        "type": f"urn:pointserve:problem:{code}",
        "title": title,
        "status": status,
        "detail": detail,
        "error": detail,
        "request_id": request_id,
    }
    # Clients of the Open Inference Protocol want JSON with `error`, which this is too.
    media_type = "application/json" if request.path.startswith("/v2") else MEDIA_TYPE
    response = Response(orjson.dumps(body), status, mimetype=media_type)
    if retry_after_s is not None or status == HTTPStatus.SERVICE_UNAVAILABLE:
        response.headers["Retry-After"] = str(max(1, math.ceil(retry_after_s or 1)))
    if status == HTTPStatus.UNAUTHORIZED:
        response.headers["WWW-Authenticate"] = 'Bearer realm="pointserve"'
    return response


def respond(error: errors.ServiceError) -> Response:
    """Return the problem document of one of the service's own errors."""
    g.problem = error.code
    return problem(STATUS[type(error)], error.code, error.title, error.detail, error.retry_after_s)


def _http_error(error: HTTPException) -> Response:
    if isinstance(error.response, Response):
        return error.response
    status = error.code or 500
    title = HTTPStatus(status).phrase if status in HTTPStatus._value2member_map_ else "Error"
    response = problem(status, f"http-{status}", title, error.description or title)
    if status == HTTPStatus.METHOD_NOT_ALLOWED:
        response.headers["Allow"] = ", ".join(getattr(error, "valid_methods", None) or [])
    return response


def _unexpected(error: Exception) -> Response:
    log.exception("request failed")
    failure = errors.InternalError("the service failed on this request; its log knows more under the request id")
    return respond(failure)


def install(app: APIFlask) -> None:
    """Make every error of the app a problem document."""
    app.register_error_handler(errors.ServiceError, respond)
    app.register_error_handler(HTTPException, _http_error)
    app.register_error_handler(Exception, _unexpected)
