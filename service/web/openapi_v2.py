"""The description of the Open Inference Protocol's routes, which APIFlask cannot see."""

from __future__ import annotations

from typing import Any

from service.wire.v2 import HEADER, INPUTS
from service.wire.v2_outputs import DATATYPES

_JSON = "application/json"
_BINARY = "application/octet-stream"
# Of functions that answer several routes.
_OTHER_IDS = {
    "/v2/models/stats": "v2_statistics_of_all",
    "/v2/repository/models/{name}/unload": "v2_unload",
}
_ERROR = {"type": "object", "required": ["error"], "properties": {"error": {"type": "string"}}}
_PARAMETERS = {"type": "object", "additionalProperties": True}
_SHAPE = {"type": "array", "items": {"type": "integer", "minimum": 0}, "minItems": 1, "maxItems": 2}
_HEADER = {
    "name": HEADER,
    "in": "header",
    "description": "Length of the JSON, when binary data follow it.",
    "schema": {"type": "integer", "minimum": 1},
}
_PROBLEMS = {
    "400": "The request is malformed.",
    "413": "The body or the cloud is too large.",
    "415": "The Content-Encoding is unknown.",
    "422": "The cloud cannot be labelled.",
    "500": "The cloud ended the process that runs the model.",
    "504": "The deadline passed.",
}


def _tensor(names: list[str], datatypes: list[str]) -> dict[str, Any]:
    return {
        "type": "object",
        "required": ["name", "shape", "datatype"],
        "properties": {
            "name": {"type": "string", "enum": names},
            "shape": _SHAPE,
            "datatype": {"type": "string", "enum": datatypes},
            "parameters": _PARAMETERS,
            "data": {"type": "array", "description": "In row-major order; nested or not."},
        },
    }


def _schemas() -> dict[str, Any]:
    inputs = sorted({datatype for datatypes, _, _ in INPUTS.values() for datatype in datatypes})
    return {
        "InferRequest": {
            "type": "object",
            "required": ["inputs"],
            "properties": {
                "id": {"type": "string"},
                "parameters": _PARAMETERS,
                "inputs": {"type": "array", "items": _tensor(list(INPUTS), inputs), "minItems": 1},
                "outputs": {
                    "type": "array",
                    "items": {
                        "type": "object",
                        "required": ["name"],
                        "properties": {"name": {"type": "string", "enum": list(DATATYPES)}, "parameters": _PARAMETERS},
                    },
                },
            },
            "example": {
                "inputs": [{"name": "coord", "shape": [2, 3], "datatype": "FP64", "data": [0, 0, 0, 0, 0, 0.01]}],
                "outputs": [{"name": "label"}],
            },
        },
        "InferAnswer": {
            "type": "object",
            "required": ["model_name", "model_version", "outputs"],
            "properties": {
                "model_name": {"type": "string"},
                "model_version": {"type": "string"},
                "id": {"type": "string"},
                "parameters": _PARAMETERS,
                "outputs": {"type": "array", "items": _tensor(list(DATATYPES), sorted(set(DATATYPES.values())))},
            },
        },
        "ProtocolError": _ERROR,
    }


def complete(spec: dict[str, Any]) -> None:
    """Add bodies and answers to the routes under /v2."""
    spec["components"]["schemas"].update(_schemas())
    for path, operations in spec["paths"].items():
        if not path.startswith("/v2"):
            continue
        for operation in operations.values():
            if "/versions/" in path:
                operation["operationId"] += "_version"
            operation["operationId"] = _OTHER_IDS.get(path, operation["operationId"])
            if path.endswith("/infer"):
                _complete_infer(operation)
            elif "400" not in operation["responses"]:
                answer: dict[str, Any] = {"description": "The answer."}
                if not path.endswith(("/live", "/ready")):
                    answer["content"] = {_JSON: {"schema": {}}}
                operation["responses"]["200"] = answer


def _complete_infer(operation: dict[str, Any]) -> None:
    def reference(name: str) -> dict[str, Any]:
        return {"schema": {"$ref": f"#/components/schemas/{name}"}}

    binary = {"schema": {"type": "string", "format": "binary", "description": "JSON, then the tensors' bytes."}}
    operation["parameters"].append(_HEADER)
    operation["requestBody"] = {"required": True, "content": {_JSON: reference("InferRequest"), _BINARY: binary}}
    operation["responses"]["200"] = {
        "description": "The outputs.",
        "headers": {HEADER: {"description": _HEADER["description"], "schema": _HEADER["schema"]}},
        "content": {_JSON: reference("InferAnswer"), _BINARY: binary},
    }
    operation["responses"] |= {status: {"description": text} for status, text in _PROBLEMS.items()}
    operation["responses"]["503"] = {"description": "Not ready, or too busy: try again after Retry-After seconds."}
