"""JSON logs on standard error, one line an event, with the request's id where there is one."""

from __future__ import annotations

import contextlib
import logging
import sys
from collections.abc import Iterable, Mapping
from typing import Any, TextIO, cast

import structlog

HIDDEN = "[hidden]"
_SECRET_FIELDS = ("authorization", "cookie", "api_key", "api-key", "password", "token")
_secrets: set[str] = set()


def hide(secrets: Iterable[str]) -> None:
    """Keep these texts out of every line that this process logs from now on, wherever they stand in it."""
    _secrets.update(filter(None, secrets))


def _without_secrets(value: Any) -> Any:
    if isinstance(value, str):
        for secret in _secrets:
            value = value.replace(secret, HIDDEN)
        return value
    if isinstance(value, Mapping):
        return {
            key: HIDDEN if str(key).lower().endswith(_SECRET_FIELDS) else _without_secrets(entry)
            for key, entry in value.items()
        }
    if isinstance(value, list | tuple):
        return [_without_secrets(entry) for entry in value]
    return value


def _hide_in_event(_logger: object, _method: str, event: Any) -> Any:
    return _without_secrets(event)


class _Steadfast:
    """Standard error; a line that finds no room there, on a full disk, is lost, and what it tells of goes on."""

    def write(self, text: str) -> None:
        with contextlib.suppress(OSError):
            sys.stderr.write(text)

    def flush(self) -> None:
        with contextlib.suppress(OSError):
            sys.stderr.flush()


class _HideInRecord(logging.Filter):
    """The same for the lines of libraries."""

    def filter(self, record: logging.LogRecord) -> bool:
        record.msg, record.args = _without_secrets(record.getMessage()), None
        if record.exc_info:
            record.exc_text = _without_secrets(logging.Formatter().formatException(record.exc_info))
        return True


def configure(process: str, level: str) -> None:
    """Send this process's log to standard error.

    Args:
        process: which of the service's processes this is; stands in every line.
        level: debug, info, warning or error.
    """
    number = getattr(logging, level.upper())
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            _hide_in_event,
            structlog.processors.JSONRenderer(),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(number),
        # One write a line: print would write the line's end on its own, and the processes share one stream.
        logger_factory=structlog.WriteLoggerFactory(cast(TextIO, _Steadfast())),
        cache_logger_on_first_use=True,
    )
    structlog.contextvars.bind_contextvars(process=process)
    logging.basicConfig(level=max(number, logging.WARNING), stream=sys.stderr, format="%(message)s")
    for name in ("gunicorn.error", None):
        target = logging.getLogger(name)
        for handler in target.handlers:
            handler.addFilter(_HideInRecord())
