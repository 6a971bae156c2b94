"""What APIFlask cannot see of the API: bodies and answers that are files, and the problem documents."""

from __future__ import annotations

from typing import Any

from service.formats import FORMATS
from service.web import openapi_v2
from service.web.access import HEADER
from service.web.answers import WARNINGS_HEADER
from service.web.measure_schemas import MEDIA_TYPES, MeasureAnswer, MeasureQuery
from service.web.problems import MEDIA_TYPE
from service.web.schemas import ClassifyAnswer, CloudQuery, Problem, SegmentAnswer, SegmentQuery, SummaryQuery
from service.web.summary import NPZ
from service.wire.outputs import WRITABLE

_BINARY = {"schema": {"type": "string", "format": "binary"}}
_PROBLEMS = {
    "400": "The request or the file is malformed.",
    "404": "There is no such model.",
    "406": "The Accept header allows no answer that there is.",
    "413": "The body or the cloud is too large.",
    "415": "The format is unknown.",
    "422": "The cloud cannot be labelled; the detail says which point or field is at fault.",
    "500": "The cloud ended the process that runs the model.",
    "503": "Not ready, or too busy: try again after Retry-After seconds.",
    "504": "The deadline passed.",
}
_HEADERS = {
    name: {"description": about, "schema": {"type": kind}}
    for name, about, kind in (
        (WARNINGS_HEADER, "Of a file: the warnings, a JSON list of sentences; absent where there are none.", "string"),
        ("X-Points", "Of a file: the number of points.", "integer"),
        ("Server-Timing", "Milliseconds of each stage.", "string"),
    )
}
_POINTS = {
    "type": "object",
    "required": ["points"],
    "properties": {
        "points": {
            "type": "array",
            "items": {"type": "array", "items": {"type": "number"}, "minItems": 3, "maxItems": 3},
        },
        "colors": {"type": "array", "items": {"type": "array", "items": {"type": "number"}}},
        "normals": {"type": "array", "items": {"type": "array", "items": {"type": "number"}}},
        "intensity": {"type": "array", "items": {"type": "number"}},
    },
    "example": {"points": [[0.0, 0.0, 0.0], [0.0, 0.0, 0.01], [0.01, 0.0, 0.0]]},
}


def complete(spec: dict[str, Any]) -> dict[str, Any]:
    """Return the OpenAPI description with bodies, file answers and problems added."""
    schemas = spec.setdefault("components", {}).setdefault("schemas", {})
    for model in (SegmentAnswer, MeasureAnswer, ClassifyAnswer, Problem):
        described = model.model_json_schema(ref_template="#/components/schemas/{model}")
        schemas.update(described.pop("$defs", {}))
        schemas[model.__name__] = described
    segment, measure = (spec["paths"][path]["post"] for path in ("/v1/segment", "/v1/measure"))
    _complete_cloud(segment, SegmentQuery, "The labels.", "SegmentAnswer", [f.media_types[0] for f in WRITABLE])
    _complete_cloud(measure, MeasureQuery, "The boxes.", "MeasureAnswer", list(MEDIA_TYPES.values())[1:])
    classify, embed = (spec["paths"][path]["post"] for path in ("/v1/classify", "/v1/embed"))
    _complete_cloud(classify, SummaryQuery, "The class.", "ClassifyAnswer", [])
    _complete_cloud(embed, SummaryQuery, "The features: an array `feature`.", None, [NPZ.media_types[0]])
    openapi_v2.complete(spec)
    spec["paths"].pop("/", None)  # a page
    spec["paths"]["/metrics"]["get"]["responses"]["200"]["content"] = {
        media_type: {"schema": {"type": "string"}} for media_type in ("text/plain", "application/openmetrics-text")
    }
    for path, operations in spec["paths"].items():
        for operation in operations.values():
            _add_problems(path, operation["responses"])
    spec["components"]["securitySchemes"] = {
        "key": {"type": "apiKey", "in": "header", "name": HEADER, "description": "Where the service asks for keys."},
        "bearer": {"type": "http", "scheme": "bearer", "description": "The same key."},
    }
    spec["security"] = [{}, {"key": []}, {"bearer": []}]
    return spec


def _add_problems(path: str, responses: dict[str, Any]) -> None:
    """Add the statuses that every route may answer, and what the bodies of all errors are."""
    responses["401"] = {"description": "The service asks for an API key."}
    responses["429"] = {"description": "Too many requests: try again after Retry-After seconds."}
    if path.startswith(("/v1/models", "/v1/progress", "/v2/models")) or path == "/v2/repository/index":
        responses["503"] = {"description": "Not ready: try again after Retry-After seconds."}
    protocol = path.startswith("/v2")
    media_type, schema = ("application/json", "ProtocolError") if protocol else (MEDIA_TYPE, "Problem")
    for status, response in responses.items():
        if path == "/health" and status == "503":
            response["content"] = responses["200"]["content"]
        elif status.startswith(("4", "5")):
            response["content"] = {media_type: {"schema": {"$ref": f"#/components/schemas/{schema}"}}}


def _complete_cloud(
    operation: dict[str, Any], query: type[CloudQuery], answer: str, schema_name: str | None, files_out: list[str]
) -> None:
    """Describe a route that takes a cloud: its options, its body, its answers as JSON and as files."""
    options = query.model_json_schema()["properties"]
    operation["parameters"] = [
        {"name": name, "in": "query", "description": schema.pop("description"), "schema": schema}
        for name, schema in options.items()
    ]
    files = {media_type: _BINARY for known in FORMATS for media_type in known.media_types[:1]}
    form = {"type": "object", "required": ["file"], "properties": {"file": {"type": "string", "format": "binary"}}}
    operation["requestBody"] = {
        "required": True,
        "content": {
            "application/octet-stream": _BINARY,
            "multipart/form-data": {"schema": form},
            **files,
            "application/json": {"schema": _POINTS},
        },
    }
    answers: dict[str, Any] = dict.fromkeys(files_out, _BINARY)
    if schema_name is not None:
        answers = {"application/json": {"schema": {"$ref": f"#/components/schemas/{schema_name}"}}} | answers
    operation["responses"] = {
        "200": {"description": answer, "headers": _HEADERS, "content": answers},
        **{status: {"description": text} for status, text in _PROBLEMS.items()},
    }
