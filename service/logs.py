"""JSON logs on standard error, one line an event, with the request's id where there is one."""

from __future__ import annotations

import logging
import sys

import structlog


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
            structlog.processors.JSONRenderer(),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(number),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )
    structlog.contextvars.bind_contextvars(process=process)
    logging.basicConfig(level=max(number, logging.WARNING), stream=sys.stderr, format="%(message)s")
