"""A running service, seen from the command line; nothing but the standard library."""

from __future__ import annotations

import contextlib
import http.client
import io
import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import quote, urlencode, urlsplit

from service.errors import MalformedRequest, ServiceError


@dataclass(frozen=True)
class Answer:
    """What came back with a labelled file.

    Attributes:
        filename: as the service calls it.
        points: how many points were labelled, or None when the service does not say.
        warnings: sentences for the user.
    """

    filename: str
    points: int | None
    warnings: tuple[str, ...]


class Remote:
    """A service at a URL.

    Args:
        url: "http://host:port", perhaps with a path under which the service lives.
        timeout_s: seconds to wait for the service to say anything.
        api_key: where the service asks for one.
    """

    def __init__(self, url: str, timeout_s: float = 600.0, *, api_key: str = "") -> None:
        parts = urlsplit(url if "://" in url else f"http://{url}")
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise MalformedRequest(f"{url!r} is not the URL of a service; one looks like http://127.0.0.1:5001")
        self._parts = parts
        self._timeout_s = timeout_s
        if not (api_key.isascii() and api_key.isprintable()):
            raise MalformedRequest("the API key holds characters that no key has; is there a line break in it?")
        self._headers = {"X-API-Key": api_key} if api_key else {}

    def health(self) -> tuple[str, str]:
        """Return the service's state (ready, loading, failed) and why; raises ServiceError when nothing answers."""
        status, body = self._get("/health")
        try:
            answer = json.loads(body)
            return str(answer["status"]), str(answer["reason"])
        except (ValueError, KeyError, TypeError):
            raise _failure(status, body) from None

    def models(self) -> list[dict[str, Any]]:
        """Return the model cards, the default first."""
        status, body = self._get("/v1/models")
        if status != 200:
            raise _failure(status, body)
        cards: list[dict[str, Any]] = json.loads(body)["models"]
        return cards

    def segment(self, path: Path, out: BinaryIO, options: Mapping[str, str]) -> Answer:
        """Send a file and write the answer's body to `out`.

        Args:
            path: the user's file; it is sent as it is.
            out: gets the answer in pieces.
            options: of the query: `output`, `model`, `format`, `scores`.

        Raises:
            ServiceError: the service's own sentence, or that it cannot be reached.
        """
        return self._send("/v1/segment", path, out, options)

    def measure(self, path: Path, out: BinaryIO, options: Mapping[str, str]) -> Answer:
        """Send a file and write the answer of the measurement to `out`; arguments and errors as in `segment`."""
        return self._send("/v1/measure", path, out, options)

    def classify(self, path: Path, options: Mapping[str, str]) -> dict[str, Any]:
        """Send a file and return the answer of /v1/classify; arguments and errors as in `segment`."""
        out = io.BytesIO()
        self._send("/v1/classify", path, out, options)
        answer: dict[str, Any] = json.loads(out.getvalue())
        return answer

    def _send(self, route: str, path: Path, out: BinaryIO, options: Mapping[str, str]) -> Answer:
        query = urlencode({**options, "filename": path.name}, quote_via=quote)
        with path.open("rb") as file:
            headers = {"Content-Length": str(path.stat().st_size), "Content-Type": "application/octet-stream"}
            connection, response = self._ask("POST", f"{route}?{query}", file, headers)
        try:
            if response.status != 200:
                raise _failure(response.status, response.read())
            shutil.copyfileobj(response, out, 1 << 20)
            if response.length:
                raise ServiceError(f"the connection broke {response.length} bytes before the answer's end")
        finally:
            connection.close()
        points = response.headers.get("X-Points")
        return Answer(
            response.headers.get_filename() or "",
            int(points) if points is not None else None,
            _warnings(response.headers),
        )

    def _get(self, path: str) -> tuple[int, bytes]:
        connection, response = self._ask("GET", path, None, {})
        try:
            return response.status, response.read()
        finally:
            connection.close()

    def _ask(
        self, method: str, path: str, body: BinaryIO | None, headers: dict[str, str]
    ) -> tuple[http.client.HTTPConnection, http.client.HTTPResponse]:
        host = self._parts.hostname or ""
        headers = {**self._headers, **headers}
        kind = http.client.HTTPSConnection if self._parts.scheme == "https" else http.client.HTTPConnection
        connection = kind(host, self._parts.port, timeout=self._timeout_s)
        try:
            # The service may answer before it has taken the whole body; when it did not, getresponse says so.
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                connection.request(method, self._parts.path.rstrip("/") + path, body, headers)
            return connection, connection.getresponse()
        except (OSError, http.client.HTTPException) as error:
            connection.close()
            where = f"{self._parts.scheme}://{self._parts.netloc}"
            raise ServiceError(f"no answer from the service at {where}: {error or type(error).__name__}") from error


def _warnings(headers: http.client.HTTPMessage) -> tuple[str, ...]:
    """Return the sentences that came with a file; services before X-Warnings sent one header for each."""
    together = headers.get("X-Warnings")
    return tuple(json.loads(together)) if together is not None else tuple(headers.get_all("X-Warning") or ())


def _failure(status: int, body: bytes) -> ServiceError:
    """Return the error that a problem document describes."""
    try:
        detail = json.loads(body)["detail"]
    except (ValueError, KeyError, TypeError):
        detail = f"the service answered {status} {http.client.responses.get(status, '')}".rstrip()
    return ServiceError(str(detail))
