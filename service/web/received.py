"""The first half of every request with a cloud: its file taken, its options read, its format known."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Generic

import structlog
from flask import current_app, g, request

from service import formats
from service.engine.client import DecodedCloud, EngineClient
from service.formats import Format, Options
from service.settings import Settings
from service.web import client
from service.web.body import receive
from service.web.choice import choose_model
from service.web.schemas import Query, parse_query
from service.web.stopwatch import Stopwatch


@dataclass(frozen=True)
class Received(Generic[Query]):
    """A file in shared memory, and what its request says of it.

    Attributes:
        query: the options.
        source: the file's format, and `options`, how to read it.
        filename: as the client calls it, or None.
        accepted: media types of the Accept header, best first.
        engine: what reads and labels it.
        deadline: `time.monotonic()` by which the request is to be answered.
        calls: what every call of the engine takes besides.
    """

    query: Query
    source: Format
    options: Options
    filename: str | None
    accepted: list[str]
    engine: EngineClient
    deadline: float
    calls: dict[str, Any]
    descriptor: int

    def choose(self, task: str) -> str:
        """Return the name of the model that shall do a task; raises as `choose_model`."""
        g.model = choose_model(self.engine, self.query.model, task)
        structlog.contextvars.bind_contextvars(format=self.source.name, model=g.model)
        return str(g.model)

    def read(self, metres_per_unit: float = 1.0) -> DecodedCloud:
        """Have the engine decode the file; the request need hold it no longer. Raises as `EngineClient.read`."""
        file = self.descriptor, self.source, self.options
        cloud = self.engine.read(*file, self.deadline, metres_per_unit=metres_per_unit, **self.calls)
        g.watch.lap("read")
        g.points = cloud.points
        structlog.contextvars.bind_contextvars(points=g.points)
        return cloud


@contextmanager
def received(shape: type[Query]) -> Iterator[Received[Query]]:
    """Take the request's file for as long as the block lasts.

    Args:
        shape: what its options are.

    Raises:
        MalformedRequest: an option is wrong, or the body ends early.
        TooLarge, DeadlineExceeded, UnknownFormat: as `receive` and `formats.recognise`.
    """
    settings: Settings = current_app.extensions["settings"]
    g.watch = Stopwatch()
    deadline, gone = client.deadline(request, settings.deadline_s), client.gone(request)
    with receive(request, settings.max_body_bytes, deadline) as upload:
        g.watch.lap("receive")
        query = parse_query({**upload.options, **request.args.to_dict()}, shape)
        filename = query.filename or upload.filename
        source = formats.recognise(upload.head, declared=query.format, media_type=upload.media_type, filename=filename)
        g.format = source.name
        yield Received(
            query,
            source,
            query.file_options(settings.max_points),
            filename,
            [media_type for media_type, _ in request.accept_mimetypes],
            current_app.extensions["engine"],
            deadline,
            {"request_id": g.request_id, "gone": gone},
            upload.descriptor,
        )
