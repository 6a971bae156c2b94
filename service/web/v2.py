"""/v2: the Open Inference Protocol, for clients such as tritonclient. Its bodies are in service/wire/v2.py."""

from __future__ import annotations

import os
import threading
import time
from contextlib import ExitStack
from typing import Any

import orjson
import structlog
from apiflask import APIBlueprint
from flask import Response, current_app, g, request

from service import __version__
from service.engine import shared
from service.engine.client import DecodedCloud, EngineClient
from service.errors import DeadlineExceeded, MalformedRequest, NotReady, UnknownModel
from service.settings import Settings
from service.values import Answer
from service.web import client, statistics
from service.web.body import Upload, receive
from service.web.choice import find_model, usable_model
from service.web.stopwatch import Stopwatch
from service.wire import v2, v2_outputs

blueprint = APIBlueprint("v2", __name__, tag="Open Inference Protocol", url_prefix="/v2")
MANY_JSON_BYTES = 1 << 20
LONGEST_CONDITION = 100
# JSON becomes Python objects of several times its size: large ones are decoded one at a time.
_large_json = threading.Lock()


def _engine() -> EngineClient:
    engine: EngineClient = current_app.extensions["engine"]
    return engine


def _json(value: Any, status: int = 200) -> Response:
    return Response(orjson.dumps(value), status, mimetype="application/json")


def _model(name: str, version: str | None) -> dict[str, Any]:
    """Return a model's card; raises as `_choose` does."""
    chosen = _choose(name, version)
    card: dict[str, Any] = next(card for card in _engine().recent_status()["models"] if card["name"] == chosen)
    return card


def _choose(name: str, version: str | None) -> str:
    """Return a model's name.

    Raises:
        UnknownModel: there is no such model, or not this version of it.
        NotReady: no model is loaded yet.
    """
    chosen = str(usable_model(_engine(), name)["name"])
    if version not in (None, "", v2.VERSION):
        raise UnknownModel(f"model {name!r} has no version {version!r}; it has {v2.VERSION!r}")
    return chosen


@blueprint.get("/health/live")
@blueprint.doc(summary="Liveness", operation_id="v2_live")
def live() -> Response:
    """Return 200: this process answers."""
    return Response(status=200)


@blueprint.get("/health/ready")
@blueprint.doc(summary="Readiness", operation_id="v2_ready", responses=[503])
def ready() -> Response:
    """Return 200 when clouds can be labelled, else 503 with the reason."""
    status = _engine().status()
    if status["state"] != "ready":
        raise NotReady(status["reason"] or "the service is not ready", retry_after_s=2)
    return Response(status=200)


@blueprint.get("")
@blueprint.doc(summary="Metadata of the server", operation_id="v2_server")
def server() -> Response:
    """Return name, version and extensions."""
    return _json({"name": "pointserve", "version": __version__, "extensions": v2.EXTENSIONS})


@blueprint.get("/models/<name>")
@blueprint.get("/models/<name>/versions/<version>")
@blueprint.doc(summary="Metadata of a model", operation_id="v2_model", responses=[404, 503])
def model(name: str, version: str | None = None) -> Response:
    """Return a model's inputs and outputs."""
    return _json(v2.metadata(_model(name, version)))


@blueprint.get("/models/<name>/config")
@blueprint.get("/models/<name>/versions/<version>/config")
@blueprint.doc(summary="Configuration of a model", operation_id="v2_config", responses=[404, 503])
def config(name: str, version: str | None = None) -> Response:
    """Return a model's configuration, as far as it means anything here."""
    return _json(v2.configuration(_model(name, version)))


@blueprint.get("/models/<name>/ready")
@blueprint.get("/models/<name>/versions/<version>/ready")
@blueprint.doc(summary="Readiness of a model", operation_id="v2_model_ready", responses=[404, 503])
def model_ready(name: str, version: str | None = None) -> Response:
    """Return 200 when the model can label clouds."""
    _choose(name, version)
    return ready()


@blueprint.get("/models/stats")
@blueprint.get("/models/<name>/stats")
@blueprint.get("/models/<name>/versions/<version>/stats")
@blueprint.doc(summary="Statistics", operation_id="v2_statistics", responses=[404, 503])
def stats(name: str | None = None, version: str | None = None) -> Response:
    """Return how many clouds a model, or each, has labelled, and how long the stages took in sum."""
    status = _engine().status()
    names = [card["name"] for card in status["models"]] if name is None else [_choose(name, version)]
    batches = status.get("batches_of_models") or {}
    return _json({"model_stats": [statistics.of_model(each, batches.get(each, ())) for each in names]})


@blueprint.post("/repository/index")
@blueprint.doc(summary="The models", operation_id="v2_repository")
def repository() -> Response:
    """Return the models and their states."""
    status = _engine().status()
    index = []
    for card in status["models"]:
        state, reason = ("READY", "") if status["state"] == "ready" else ("UNAVAILABLE", status["reason"])
        if card.get("state", "ready") != "ready":
            state, reason = "UNAVAILABLE", card["reason"] or card["state"]
        index.append({"name": card["name"], "version": v2.VERSION, "state": state, "reason": reason})
    return _json(index)


@blueprint.post("/repository/models/<name>/load")
@blueprint.post("/repository/models/<name>/unload")
@blueprint.doc(summary="Refused: the models are chosen at the start", operation_id="v2_load", responses=[400])
def load(name: str) -> Response:
    """Refuse: which models are served is a setting."""
    raise MalformedRequest(f"models are not loaded or unloaded on request: name {name!r} in MODELS at the start")


@blueprint.post("/models/<name>/infer")
@blueprint.post("/models/<name>/versions/<version>/infer")
@blueprint.doc(summary="Label or classify a point cloud, or return features of it", operation_id="v2_infer")
def infer(name: str, version: str | None = None) -> Response:
    """Answer for a cloud that is given as tensors: labels of its points, its class, or features, as the model can."""
    settings: Settings = current_app.extensions["settings"]
    g.watch = watch = Stopwatch()
    deadline = client.deadline(request, settings.deadline_s)
    head_bytes = _head_bytes()
    # Binary data begin on a boundary that suits any number.
    start = -head_bytes % shared.ALIGNMENT
    with ExitStack() as held:
        upload = held.enter_context(
            receive(request, settings.max_body_bytes, deadline, start=start, pooled=head_bytes > 0)
        )
        watch.lap("receive")
        g.format, g.model = "v2", _choose(name, version)
        offered = v2_outputs.offers(find_model(_engine(), g.model))
        wanted = _decode(upload, head_bytes or upload.size, settings.max_points, offered, deadline)
        with _cloud(upload, wanted, head_bytes) as cloud:
            watch.lap("read")
            result = _answer(cloud, g.model, min(deadline, _timeout(wanted)), wanted)
            watch.within(wanted.task, result.timing_ms)
        if upload.piece is None:
            held.close()  # a large body goes before its answer is made
        g.points = wanted.points
        structlog.contextvars.bind_contextvars(points=g.points, format="v2", model=g.model)
        head, binary = v2.encode(wanted, result)
        watch.lap("write")
        media_type = "application/octet-stream" if binary else "application/json"
        response = Response(v2.pieces(head, binary), mimetype=media_type)
        response.call_on_close(held.pop_all().close)  # the answer may lie in the upload's memory
    response.content_length = len(head) + sum(map(len, binary))
    if binary:
        response.headers[v2.HEADER] = str(len(head))
    response.headers["Server-Timing"] = watch.header()
    return response


def _head_bytes() -> int:
    """Return the length of the JSON before binary data; 0: all of the body is JSON."""
    given = request.headers.get(v2.HEADER)
    if given is None:
        return 0
    if not given.isascii() or not given.isdigit() or len(given) > 12 or int(given) == 0:
        raise MalformedRequest(f"{v2.HEADER} must be the length of the JSON in bytes; it is {given[:20]!r}")
    return int(given)


def _decode(
    upload: Upload, head_bytes: int, max_points: int, offered: v2_outputs.Offers, deadline: float
) -> v2.InferRequest:
    if head_bytes > upload.size:
        raise MalformedRequest(f"{v2.HEADER} is {head_bytes}, but the body has {upload.size} bytes")
    size = min(head_bytes, v2.MAX_JSON_BYTES + 1)  # more is refused, and need not be read for that

    def decode() -> v2.InferRequest:
        return v2.decode(upload.first(size), upload.size - head_bytes, max_points, offered)

    if size < MANY_JSON_BYTES:
        return decode()
    left = deadline - time.monotonic()
    if not _large_json.acquire(timeout=min(max(0.0, left), threading.TIMEOUT_MAX)):
        raise DeadlineExceeded("the request's deadline passed while its JSON waited to be decoded; send binary data")
    try:
        return decode()
    finally:
        _large_json.release()


def _cloud(upload: Upload, wanted: v2.InferRequest, head_bytes: int) -> DecodedCloud:
    """Return the inputs as a cloud: the body itself where it is binary, so that nothing is copied."""
    layout: shared.Layout = []
    begin = upload.start + head_bytes
    if all(tensor.data is None for tensor in wanted.inputs.values()):
        for name, tensor in wanted.inputs.items():
            dtype = v2.DTYPES[tensor.datatype]
            layout.append({"name": name, "dtype": dtype, "shape": list(tensor.shape), "start": begin + tensor.start})
        if upload.piece is not None:
            room = upload.start + upload.size
            return DecodedCloud(upload.descriptor, layout, wanted.points, (), piece=upload.piece, room=room)
        shared.seal(upload.descriptor)
        return DecodedCloud(os.dup(upload.descriptor), layout, wanted.points, ())
    memory = shared.view(upload.descriptor)[: upload.start + upload.size]
    arrays = {name: tensor.array(memory[begin:]) for name, tensor in wanted.inputs.items()}
    descriptor, layout = shared.pack(arrays)
    return DecodedCloud(descriptor, layout, wanted.points, ())


def _answer(cloud: DecodedCloud, model: str, deadline: float, wanted: v2.InferRequest) -> Answer:
    calls: dict[str, Any] = {"request_id": g.request_id, "gone": client.gone(request)}
    if wanted.task == "classify":
        return _engine().classify(cloud, model, deadline, **calls)
    if wanted.task == "embed":
        return _engine().embed(cloud, model, deadline, **calls)
    scores = bool(wanted.outputs.keys() & {"scores", "confidence"})
    condition = wanted.parameters.get("condition")
    if condition is not None and not isinstance(condition, str):
        raise MalformedRequest("parameter condition must be a text, the name of one of the model's data sets")
    if condition is not None and len(condition) > LONGEST_CONDITION:
        raise MalformedRequest(
            f"parameter condition has {len(condition)} letters; a name of a data set has at most {LONGEST_CONDITION}"
        )
    return _engine().segment(cloud, model, deadline, scores=scores, condition=condition, **calls)


def _timeout(wanted: v2.InferRequest) -> float:
    """Return the deadline that the client's `timeout` in microseconds makes."""
    given = wanted.parameters.get("timeout")
    if given is None:
        return float("inf")
    if type(given) is not int or given <= 0:
        raise MalformedRequest(f"parameter timeout must be a whole number of microseconds; it is {v2.said(given)}")
    return time.monotonic() + given / 1e6
