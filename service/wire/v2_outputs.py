"""The tensors that a model answers with under the Open Inference Protocol, by what it can do."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from service.errors import MalformedRequest
from service.values import Answer, Classification, Embedding

SEGMENT = {"label": "INT32", "confidence": "FP32", "scores": "FP32"}
OBJECTS = {"instance": "INT32", "instance_class": "INT32", "instance_score": "FP32"}
"""Further outputs of a model that tells objects apart: the object of each point, and class and score of each object."""
CLASSIFY = {"label": "INT32", "scores": "FP32"}
EMBED = {"feature": "FP16"}
DATATYPES = SEGMENT | OBJECTS | EMBED
BINARY_ONLY = {"FP16"}
"""Datatypes that have no JSON representation (Triton's binary tensor data extension)."""

Offers = Mapping[str, Mapping[str, str]]
"""Names and datatypes of the outputs of each task that a model can do, what it was made for first."""


def offers(card: Mapping[str, Any]) -> dict[str, dict[str, str]]:
    """Return the outputs of a model by its card, for each of its tasks."""
    usual = {"segment": SEGMENT | OBJECTS if card.get("objects") else SEGMENT, "classify": CLASSIFY, "embed": EMBED}
    return {task: usual[task] for task in card.get("tasks", ("segment",))}


def describe(card: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the outputs of a model as the protocol's metadata have them; -1 stands for any number."""
    classes = len(card["classes"])
    shapes = {
        "segment": {"scores": [-1, classes]},
        "classify": {"label": [1], "scores": [classes]},
        "embed": {"feature": [-1, -1]},
    }
    found: dict[str, dict[str, Any]] = {}
    for task, outputs in offers(card).items():
        for name, datatype in outputs.items():
            found.setdefault(name, {"name": name, "datatype": datatype, "shape": shapes[task].get(name, [-1])})
    return list(found.values())


def choose(given: Any, offered: Offers, binary: bool) -> tuple[str, dict[str, bool]]:
    """Return the task that a request means, and its outputs: for each whether it is wanted as binary data.

    Args:
        given: `outputs` of the request; None: all of the first task.
        offered: what the model can do.
        binary: what holds where an output says nothing of it.

    Raises:
        MalformedRequest: an output is not offered, not so, or not together with the others.
    """
    task, wanted = _task(given, offered, binary) if given else (next(iter(offered)), {})
    wanted = wanted or dict.fromkeys(offered[task], binary)
    for name, as_binary in wanted.items():
        if DATATYPES[name] in BINARY_ONLY and not as_binary:
            raise MalformedRequest(
                f"output {name} is {DATATYPES[name]}, which has no form in JSON: ask for it with the parameter "
                "binary_data, or binary_data_output of the request"
            )
    return task, wanted


def _task(given: Any, offered: Offers, binary: bool) -> tuple[str, dict[str, bool]]:
    if not isinstance(given, list) or not all(isinstance(entry, dict) for entry in given):
        raise MalformedRequest("outputs must be a list of JSON objects with name")
    # Whether a model tells objects apart is known once it was loaded: the answer shows it.
    known = {task: {**outputs, **(OBJECTS if task == "segment" else {})} for task, outputs in offered.items()}
    wanted: dict[str, bool] = {}
    for entry in given:
        name = entry.get("name")
        names = dict.fromkeys(name for outputs in offered.values() for name in outputs)
        if not isinstance(name, str):
            raise MalformedRequest(f"the name of an output must be a text; there are: {', '.join(names)}")
        if not any(name in outputs for outputs in known.values()):
            raise MalformedRequest(f"there is no output {name[:60]!r}; there are: {', '.join(names)}")
        parameters = entry.get("parameters")
        if not isinstance(parameters, dict | None):
            raise MalformedRequest(f"parameters of output {name} must be a JSON object")
        for unknown in (parameters or {}).keys() & {"classification", "shared_memory_region"}:
            raise MalformedRequest(f"output {name}: {unknown} is not served")
        wanted[name] = bool((parameters or {}).get("binary_data", binary))
    for task, outputs in known.items():
        if wanted.keys() <= outputs.keys():
            return task, wanted
    raise MalformedRequest(f"the outputs {', '.join(wanted)} do not come from one pass: ask for them one by one")


def arrays(answer: Answer) -> dict[str, Any]:
    """Return the values of an answer's outputs by their names; None for those that were not asked for."""
    if isinstance(answer, Classification):
        return {"label": [answer.label], "scores": answer.scores}
    if isinstance(answer, Embedding):
        return {"feature": answer.feature}
    found: dict[str, Any] = {"label": answer.label, "confidence": answer.confidence, "scores": answer.scores}
    if answer.instance is not None:
        found["instance"] = answer.instance
        found["instance_class"] = [one.class_id for one in answer.instances]
        found["instance_score"] = [one.score for one in answer.instances]
    return found
