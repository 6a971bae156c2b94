"""Who may ask: API keys, and how many requests a client may make."""

from __future__ import annotations

import sqlite3
import threading
import time
from pathlib import Path
from urllib.parse import unquote

import structlog
from apiflask import APIFlask
from flask import Response, current_app, g, request
from flask_limiter import ApplicationLimit, Limiter, RequestLimit
from limits.storage import Storage

from service.errors import InvalidKey, MissingKey, RateLimited
from service.keys import Keys
from service.settings import Settings
from service.web.problems import respond

HEADER = "X-API-Key"
ANONYMOUS = "anonymous"
# What shows nothing but the software itself, so that a browser can load the pages before it knows a key.
OPEN = {"page.page", "static", "docs.docs", "openapi.spec"}
HEALTH = {"health.health", "v2.live", "v2.ready"}
METRICS = {"metrics.metrics"}


def install(app: APIFlask, keys: Keys, settings: Settings) -> None:
    """Ask every request for a key, where there are keys, and count it, where there is a limit."""
    app.extensions["keys"] = keys
    app.before_request(_know_client)
    # Wrong keys are counted too, by address: a limit holds against guessing.
    if settings.rate_limit:
        limiter = Limiter(
            _counted_as,
            application_limits=[ApplicationLimit(settings.rate_limit, exempt_when=_is_open)],
            storage_uri=f"{SharedCounts.STORAGE_SCHEME[0]}://{settings.state_dir}/rates-{settings.port}.db",
            on_breach=_refuse,
            swallow_errors=True,  # a full disk must not stop the service; the library logs it
        )
        limiter.init_app(app)
    app.before_request(_ask_for_key)


def _know_client() -> None:
    """Set `g.client` to the name of the key's owner."""
    keys: Keys = current_app.extensions["keys"]
    given = _given_key()
    owner = keys.owner(given) if given is not None else None
    g.client = owner or ANONYMOUS
    if owner is not None:
        structlog.contextvars.bind_contextvars(client=owner)


def _ask_for_key() -> None:
    """Let known clients through, and everybody to what is open.

    Raises:
        MissingKey, InvalidKey: the route asks for a key, and there is none or a wrong one.
    """
    keys: Keys = current_app.extensions["keys"]
    if not keys.entries or g.client != ANONYMOUS or _is_open():
        return
    if _given_key() is None:
        raise MissingKey(f"this service asks for an API key: send it as {HEADER}, or as Authorization: Bearer")
    raise InvalidKey("the API key is not one that this service knows")


def _given_key() -> str | None:
    if given := request.headers.get(HEADER):
        return given.strip()
    scheme, _, token = request.headers.get("Authorization", "").partition(" ")
    return token.strip() if scheme.lower() == "bearer" and token.strip() else None


def _is_open() -> bool:
    settings: Settings = current_app.extensions["settings"]
    endpoint = request.endpoint
    if endpoint in HEALTH:
        # What ?verbose adds tells of the machine, not of the service's health.
        return settings.health_open and "verbose" not in request.args
    return endpoint in OPEN or (endpoint in METRICS and settings.metrics_open)


def _counted_as() -> str:
    return f"key:{g.client}" if g.client != ANONYMOUS else f"address:{request.remote_addr}"


def _refuse(limit: RequestLimit) -> Response:
    wait_s = max(1.0, limit.reset_at - 1 - time.time())  # it is rounded up by one
    return respond(RateLimited(f"you may make {limit.limit} requests", retry_after_s=wait_s))


class SharedCounts(Storage):
    """Flask-Limiter's counters in a file, so that all of the web's processes count together."""

    STORAGE_SCHEME = ["pointserve"]  # noqa: RUF012 # as the library declares it

    def __init__(self, uri: str, wrap_exceptions: bool = False, **options: float | str | bool) -> None:
        super().__init__(uri, wrap_exceptions, **options)
        self._path = Path(unquote(uri.partition("://")[2]))
        self._local = threading.local()

    @property
    def base_exceptions(self) -> type[Exception]:
        return sqlite3.Error

    def _database(self) -> sqlite3.Connection:
        database: sqlite3.Connection | None = getattr(self._local, "database", None)
        if database is None:
            database = sqlite3.connect(self._path, timeout=5, isolation_level=None)
            # What a crash of the machine loses are counts of the last minute.
            database.executescript(
                "PRAGMA synchronous=OFF; PRAGMA journal_mode=MEMORY;"
                "CREATE TABLE IF NOT EXISTS counts (key TEXT PRIMARY KEY, count INTEGER, expires REAL)"
            )
            self._local.database = database
        return database

    def incr(self, key: str, expiry: int, amount: int = 1) -> int:
        now = time.time()
        database = self._database()
        database.execute("BEGIN IMMEDIATE")
        try:
            database.execute("DELETE FROM counts WHERE expires <= ?", (now,))
            database.execute(
                "INSERT INTO counts VALUES (?, ?, ?) ON CONFLICT (key) DO UPDATE SET count = count + ?",
                (key, amount, now + expiry, amount),
            )
            return self.get(key)
        finally:
            database.execute("COMMIT")

    def get(self, key: str) -> int:
        row = self._database().execute("SELECT count FROM counts WHERE key = ? AND expires > ?", (key, time.time()))
        return int((row.fetchone() or (0,))[0])

    def get_expiry(self, key: str) -> float:
        row = self._database().execute("SELECT expires FROM counts WHERE key = ?", (key,)).fetchone()
        return float(row[0]) if row else time.time()

    def check(self) -> bool:
        self._database()
        return True

    def reset(self) -> int:
        return self._database().execute("DELETE FROM counts").rowcount

    def clear(self, key: str) -> None:
        self._database().execute("DELETE FROM counts WHERE key = ?", (key,))
