"""The engine as the web and the command line see it: read a file, segment a cloud, write the answer."""

from __future__ import annotations

import dataclasses
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from service.engine import shared
from service.engine.channel import Channel, ChannelClosed, Message, close_all, has_hung_up
from service.engine.pool import Piece
from service.errors import Cancelled, DeadlineExceeded, InternalError, NotReady, from_message
from service.formats.format import Format, Options
from service.values import (
    Classification,
    Embedding,
    Measurement,
    Segmentation,
    classification_from,
    embedding_from,
    measurement_from,
    segmentation_from,
    segmentation_message,
)

__all__ = ["DecodedCloud", "EngineClient", "Gone", "has_hung_up"]

REPLY_GRACE_S = 2.0
PEEK_S = 0.25
RECENT_S = 0.25
Gone = Callable[[], bool]
"""Tells whether whoever asked for this work is not there any more."""


@dataclass(frozen=True)
class DecodedCloud:
    """A cloud whose arrays lie in shared memory; `close` gives that back.

    Attributes:
        descriptor: the shared memory; None where the engine keeps it, with the file that the cloud was read from.
        layout: where the arrays lie in it.
        points: how many points.
        notes: what the reader had to guess.
        piece, room: where the arrays lie in memory that is used again: that, and where in it an answer may be put. The
            descriptor is the piece's then.
    """

    descriptor: int | None
    layout: shared.Layout
    points: int
    notes: tuple[str, ...]
    forget: Callable[[], None] = lambda: None
    piece: Piece | None = None
    room: int = 0

    def close(self) -> None:
        """Give the memory back; a piece goes back to its pool by another way."""
        if self.descriptor is not None and self.piece is None:
            os.close(self.descriptor)
        self.forget()

    def __enter__(self) -> DecodedCloud:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class EngineClient:
    """A client of the engine. Safe to use from many threads: each has a connection of its own.

    Every call takes a `deadline` in terms of `time.monotonic()` and raises DeadlineExceeded past it, NotReady where
    no engine answers, and whatever ServiceError the engine replies. Where it takes `gone`, that is asked a few times a
    second while the engine works; once it is true the work is dropped and Cancelled is raised.

    Args:
        path: the engine's Unix socket.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._local = threading.local()
        self._recent: tuple[float, dict[str, Any]] = (-RECENT_S, {})

    def read(
        self,
        body: int,
        source: Format,
        options: Options,
        deadline: float,
        request_id: str = "",
        gone: Gone | None = None,
        metres_per_unit: float = 1.0,
    ) -> DecodedCloud:
        """Decode a file. The engine keeps it and the cloud for this thread, until the cloud is closed.

        Args:
            body: descriptor of the file's bytes, in shared memory or on disk.
            source: its format.
            options: what the user says of it.
            metres_per_unit: what its coordinates are multiplied by.

        Raises:
            MalformedFile, TooLarge, UnusableCloud, ReaderFailed: what is wrong with the file.
        """
        message = {
            "op": "read",
            "format": source.name,
            "options": dataclasses.asdict(options),
            "metres_per_unit": metres_per_unit,
        }
        reply, _answers = self._ask(message, (body,), deadline, request_id, gone)
        points = next((entry["shape"][0] for entry in reply["layout"] if entry["name"] == "coord"), 0)
        return DecodedCloud(None, reply["layout"], points, tuple(reply["notes"]), self._forget)

    def _forget(self) -> None:
        """Have the engine give back what it keeps for this thread."""
        channel = getattr(self._local, "channel", None)
        if channel is not None:
            try:
                channel.send({"op": "forget"})
            except ChannelClosed:
                self.close()

    def segment(
        self,
        cloud: DecodedCloud,
        model: str,
        deadline: float,
        *,
        scores: bool = False,
        tta: str = "none",
        condition: str | None = None,
        arrays: bool = True,
        request_id: str = "",
        gone: Gone | None = None,
    ) -> Segmentation:
        """Label a cloud.

        Args:
            cloud: what `read` returned, or one in memory of one's own.
            model: name of the model.
            scores: whether to return confidence and class probabilities too.
            tta: `none`, one pass; `full`, the test-time procedure of the model.
            condition: the dataset that a model of several shall take the cloud to be of; None: its configuration's.
            arrays: False: the labels of what `read` returned stay with the engine, for `write`; here they are empty.

        Raises:
            UnknownModel, UnusableCloud, Overloaded, FatalCloud: why there is no answer.
        """
        wishes = {"model": model, "scores": scores, "tta": tta, "condition": condition}
        message = {"op": "segment", **wishes, "points": cloud.points, "layout": cloud.layout}
        message["arrays"] = arrays
        if cloud.piece is not None:
            message["room"] = cloud.room
        own = () if cloud.descriptor is None else (cloud.descriptor,)
        reply, answers = self._ask(message, own, deadline, request_id, gone, cloud.piece)
        with _closing(answers):
            if answers:
                found = shared.unpack(answers[0], reply["layout"])
            elif cloud.piece is not None:
                found = shared.read(cloud.piece.memory, reply["layout"])
            else:
                found = {"label": np.empty(0, np.int32)}
            segmentation = segmentation_from(reply["segmentation"], found)
        return dataclasses.replace(segmentation, warnings=(*cloud.notes, *segmentation.warnings))

    def classify(
        self, cloud: DecodedCloud, model: str, deadline: float, *, request_id: str = "", gone: Gone | None = None
    ) -> Classification:
        """Return the class of a cloud as a whole; arguments and errors as of `segment`."""
        found = classification_from(*self._summarise("classify", cloud, model, deadline, request_id, gone))
        return dataclasses.replace(found, warnings=(*cloud.notes, *found.warnings))

    def embed(
        self, cloud: DecodedCloud, model: str, deadline: float, *, request_id: str = "", gone: Gone | None = None
    ) -> Embedding:
        """Return features of a cloud's points; arguments and errors as of `segment`."""
        found = embedding_from(*self._summarise("embed", cloud, model, deadline, request_id, gone))
        return dataclasses.replace(found, warnings=(*cloud.notes, *found.warnings))

    def _summarise(
        self,
        task: str,
        cloud: DecodedCloud,
        model: str,
        deadline: float,
        request_id: str,
        gone: Gone | None,
    ) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
        """Have a cloud looked at for something else than labels; return what is said of it, and its arrays."""
        wishes = {"model": model, "task": task, "scores": False, "tta": "none", "arrays": True}
        message = {"op": "segment", **wishes, "points": cloud.points, "layout": cloud.layout}
        own = () if cloud.descriptor is None else (cloud.descriptor,)
        reply, answers = self._ask(message, own, deadline, request_id, gone)
        with _closing(answers):
            return reply["segmentation"], shared.unpack(answers[0], reply["layout"])

    def measure(
        self,
        cloud: DecodedCloud,
        segmentation: Segmentation,
        frame: Mapping[str, Any],
        deadline: float,
        *,
        to_metres: float = 1.0,
        drawing: str = "none",
        request_id: str = "",
        gone: Gone | None = None,
    ) -> tuple[Measurement, int]:
        """Measure the boxes of a labelled cloud.

        Args:
            cloud, segmentation: what `read`, last, and `segment` returned.
            frame: the fields of `service.measure.Frame`.
            to_metres: by which the coordinates, as they were read, are multiplied.
            drawing: `ply` or `png`: the cloud with its boxes drawn; `none`.

        Returns:
            The boxes, and the descriptor of the drawing, which the caller closes.
        """
        descriptor, labels = shared.pack({"instance": segmentation.instance, "label": segmentation.label})
        message = {
            "op": "measure",
            "cloud": cloud.layout,
            "labels": labels,
            "segmentation": segmentation_message(segmentation),
            "frame": dict(frame),
            "to_metres": to_metres,
            "drawing": drawing,
        }
        with _closing([descriptor]):
            reply, answers = self._ask(message, (descriptor,), deadline, request_id, gone)
        return measurement_from(reply["measurement"]), answers[0]

    def write(
        self,
        source: Format,
        target: Format,
        options: Options,
        deadline: float,
        request_id: str = "",
        gone: Gone | None = None,
    ) -> int:
        """Return the descriptor of the file that was read last with its labels in it; the caller closes it.

        Args:
            source, options: as given to `read`.
            target: format of the answer; the user's own file is annotated where it is the same as `source`.
        """
        about = {"format": source.name, "target": target.name, "options": dataclasses.asdict(options)}
        _reply, answers = self._ask({"op": "write", **about}, (), deadline, request_id, gone)
        return answers[0]

    def status(self, timeout_s: float = 5.0) -> dict[str, Any]:
        """Return the engine's state as JSON values; see `Scheduler.status` and `Engine.status` for what is in it."""
        reply, _answers = self._ask({"op": "status"}, (), time.monotonic() + timeout_s, "")
        return reply

    def recent_status(self) -> dict[str, Any]:
        """Return the engine's state as it was a moment ago: a request need not ask for what hardly changes."""
        asked, status = self._recent
        if time.monotonic() - asked > RECENT_S or status["state"] != "ready":
            status = self.status()
            self._recent = (time.monotonic(), status)
        return status

    def close(self) -> None:
        """Close this thread's connection."""
        channel, self._local.channel = getattr(self._local, "channel", None), None
        if channel is not None:
            channel.close()

    def _ask(
        self,
        message: Message,
        descriptors: tuple[int, ...],
        deadline: float,
        request_id: str,
        gone: Gone | None = None,
        piece: Piece | None = None,
    ) -> tuple[Message, list[int]]:
        message = {**message, "deadline": deadline, "request_id": request_id}
        kept = getattr(self._local, "channel", None)
        if kept is not None:
            try:
                return self._converse(kept, message, descriptors, deadline, gone)
            except ChannelClosed:
                self.close()  # the engine was replaced since the last call: its successor answers on a new connection
                if piece is not None:
                    piece.spoiled = True  # the worker of the one that is gone may have got this too
        self._local.channel = channel = self._connect()
        try:
            return self._converse(channel, message, descriptors, deadline, gone)
        except ChannelClosed:
            self.close()
            raise NotReady("the engine went away; it is being restarted", retry_after_s=5) from None

    def _converse(
        self, channel: Channel, message: Message, descriptors: tuple[int, ...], deadline: float, gone: Gone | None
    ) -> tuple[Message, list[int]]:
        channel.send(message, descriptors)
        # The engine keeps the deadline and says which step missed it; this is for an engine that hangs.
        until = max(deadline, time.monotonic()) + REPLY_GRACE_S
        reply, answers = self._reply(channel, until, gone)
        if "error" in reply:
            close_all(answers)
            raise from_message(reply["error"])
        if message["op"] in ("write", "measure") and len(answers) != 1:
            close_all(answers)
            raise InternalError("the engine's reply carries no data")
        return reply, answers

    def _reply(self, channel: Channel, until: float, gone: Gone | None) -> tuple[Message, list[int]]:
        while True:
            try:
                return channel.receive()
            except TimeoutError:
                if gone is not None and gone():
                    self.close()  # which tells the engine
                    raise Cancelled("the client hung up") from None
                if time.monotonic() >= until:
                    self.close()  # a late reply must not be taken for the next request's
                    raise DeadlineExceeded("the engine did not answer by the request's deadline") from None

    def _connect(self) -> Channel:
        connection = socket.socket(socket.AF_UNIX)
        try:
            connection.connect(str(self._path))
        except OSError as error:
            connection.close()
            raise NotReady("the engine does not run; `pointserve serve` starts it", retry_after_s=5) from error
        channel = Channel(connection)
        channel.limit_waits(PEEK_S)
        return channel


@contextmanager
def _closing(descriptors: list[int]) -> Iterator[None]:
    try:
        yield
    finally:
        close_all(descriptors)
