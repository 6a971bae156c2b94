"""The Open Inference Protocol, version 2: JSON, and tensors as binary data behind it.

Sources: the protocol (kserve, open-inference-protocol, inference_rest.md) and Triton's binary tensor data, statistics,
model configuration and model repository extensions.
"""

from __future__ import annotations

import math
import reprlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import orjson
from numpy.typing import NDArray

from service.errors import MalformedRequest, TooLarge, UnusableCloud
from service.values import Answer
from service.wire import v2_outputs

VERSION = "1"
EXTENSIONS = ("binary_tensor_data", "statistics", "model_configuration", "model_repository")
HEADER = "Inference-Header-Content-Length"
MAX_JSON_BYTES = 64 << 20
PIECE_BYTES = 1 << 20

DTYPES = {"UINT8": "|u1", "INT32": "<i4", "FP16": "<f2", "FP32": "<f4", "FP64": "<f8"}
# Name: datatypes (the first is the one that the metadata name), numbers a point, whether every cloud has it.
INPUTS: dict[str, tuple[tuple[str, ...], int, bool]] = {
    "coord": (("FP64", "FP32"), 3, True),
    "color": (("UINT8",), 3, False),
    "normal": (("FP32",), 3, False),
    "intensity": (("FP32",), 1, False),
}


@dataclass(frozen=True)
class Tensor:
    """One input: where its data are.

    Attributes:
        shape: (N, k), or (N,) for one number a point.
        start: of binary data, in bytes after the JSON.
        data: of JSON data; None where they are binary.
    """

    datatype: str
    shape: tuple[int, ...]
    start: int = 0
    data: NDArray[Any] | None = None

    def array(self, binary: memoryview) -> NDArray[Any]:
        """Return the numbers; `binary` is all that follows the JSON."""
        if self.data is not None:
            return self.data
        dtype = np.dtype(DTYPES[self.datatype])
        return np.frombuffer(binary, dtype, int(np.prod(self.shape)), self.start).reshape(self.shape)


@dataclass(frozen=True)
class InferRequest:
    """What a client asks for.

    Attributes:
        inputs: by name.
        outputs: names, and whether each is wanted as binary data, in the order of the answer.
        task: what gives these outputs, out of `service.values.TASKS`.
        id: the client's own, handed back.
        parameters: of the request.
    """

    inputs: Mapping[str, Tensor]
    outputs: Mapping[str, bool]
    task: str = "segment"
    id: str | None = None
    parameters: Mapping[str, Any] = field(default_factory=dict)

    @property
    def points(self) -> int:
        """Size of the cloud."""
        return self.inputs["coord"].shape[0]


def decode(head: bytes | memoryview, binary_bytes: int, max_points: int, offered: v2_outputs.Offers) -> InferRequest:
    """Return what a body asks for; its binary data stay where they are.

    Args:
        head: the JSON.
        binary_bytes: how many bytes follow it.
        max_points: most points in one cloud.
        offered: the outputs that the model has; all of its first task where the request names none.

    Raises:
        MalformedRequest: the JSON is not what the protocol demands; the sentence names the field.
        TooLarge: too many points, or too much JSON.
        UnusableCloud: no points.
    """
    if len(head) > MAX_JSON_BYTES:
        raise TooLarge(
            f"the JSON of {len(head)} bytes is larger than {MAX_JSON_BYTES}; send large tensors as binary data"
        )
    try:
        request = orjson.loads(head)
    except orjson.JSONDecodeError as error:
        raise MalformedRequest(
            f"the JSON of the request does not parse at character {error.pos}: {error.msg}"
        ) from None
    if not isinstance(request, dict):
        raise MalformedRequest("the request must be a JSON object with inputs")
    parameters = _object(request.get("parameters"), "parameters")
    inputs = _inputs(request.get("inputs"), binary_bytes, max_points)
    task, outputs = v2_outputs.choose(request.get("outputs"), offered, bool(parameters.get("binary_data_output")))
    identity = request.get("id")
    if identity is not None and not isinstance(identity, str):
        raise MalformedRequest("id must be a text")
    return InferRequest(inputs, outputs, task, identity, parameters)


def said(value: Any) -> str:
    """Return what a client said, shortened, and however deep its lists are."""
    return (value if isinstance(value, str) else reprlib.repr(value))[:60]


def _object(value: Any, name: str) -> dict[str, Any]:
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise MalformedRequest(f"{name} must be a JSON object")
    return value


def _inputs(given: Any, binary_bytes: int, max_points: int) -> dict[str, Tensor]:
    if not isinstance(given, list) or not all(isinstance(entry, dict) for entry in given):
        raise MalformedRequest("inputs must be a list of tensors, each a JSON object with name, shape and datatype")
    found: dict[str, Tensor] = {}
    start = 0
    for entry in given:
        name = entry.get("name")
        if not isinstance(name, str):
            raise MalformedRequest(f"the name of an input must be a text; there are: {', '.join(INPUTS)}")
        if name not in INPUTS:
            raise MalformedRequest(f"there is no input {name[:60]!r}; there are: {', '.join(INPUTS)}")
        if name in found:
            raise MalformedRequest(f"there are two inputs {name}")
        found[name], start = _input(name, entry, start)
    if "coord" not in found:
        raise MalformedRequest("there is no input coord, the points' x, y and z")
    points = found["coord"].shape[0]
    for name, tensor in found.items():
        if tensor.shape[0] != points:
            raise MalformedRequest(f"input {name} has {tensor.shape[0]} rows, coord has {points}")
    if points > max_points:
        raise TooLarge(f"the cloud has {points} points; the most is {max_points}")
    if points == 0:
        raise UnusableCloud("the cloud has no points")
    if start != binary_bytes:
        raise MalformedRequest(
            f"the inputs announce {start} bytes of binary data, but {binary_bytes} follow the JSON; "
            f"{HEADER} must be the length of the JSON"
        )
    return found


def _input(name: str, entry: dict[str, Any], start: int) -> tuple[Tensor, int]:
    """Return one input, and where the next one's binary data begin."""
    datatypes, width, _ = INPUTS[name]
    datatype, shape = entry.get("datatype"), entry.get("shape")
    if datatype not in datatypes:
        raise MalformedRequest(f"input {name} must be {' or '.join(datatypes)}; its datatype is {said(datatype)}")
    extents = list(shape) if isinstance(shape, list) else []
    if width == 1 and len(extents) == 2 and extents[1] == 1:
        extents = extents[:1]
    right = all(type(extent) is int and extent >= 0 for extent in extents)
    if not right or len(extents) != (1 if width == 1 else 2) or (width > 1 and extents[1] != width):
        wanted = "[N]" if width == 1 else f"[N, {width}]"
        raise MalformedRequest(f"input {name} must have the shape {wanted}; it has {said(shape)}")
    size = int(np.dtype(DTYPES[datatype]).itemsize) * extents[0] * width
    parameters = _object(entry.get("parameters"), f"parameters of input {name}")
    binary = parameters.get("binary_data_size")
    if binary is None:
        return Tensor(datatype, tuple(extents), data=_numbers(name, entry.get("data"), datatype, extents)), start
    if "data" in entry:
        raise MalformedRequest(f"input {name} has both data and binary_data_size; one of them is enough")
    if type(binary) is not int or binary != size:
        raise MalformedRequest(
            f"input {name} of the shape {extents} takes {size} bytes; its binary_data_size is {said(binary)}"
        )
    return Tensor(datatype, tuple(extents), start=start), start + size


def _numbers(name: str, data: Any, datatype: str, shape: list[int]) -> NDArray[Any]:
    """Return JSON data, in one list or in lists of lists, in row-major order."""
    if not isinstance(data, list):
        raise MalformedRequest(f"input {name} has neither data, a list, nor binary_data_size")
    try:
        array = np.array(data)
    except (ValueError, OverflowError):
        raise MalformedRequest(f"input {name}: the rows of data are not of the same length, or no numbers") from None
    count = math.prod(shape)
    if array.size != count:
        raise MalformedRequest(f"input {name} of the shape {shape} takes {count} numbers; data has {array.size}")
    if array.size and array.dtype.kind not in "iuf":
        raise MalformedRequest(f"input {name}: data must hold numbers only")
    if datatype == "UINT8" and array.size and (array.min() < 0 or array.max() > 255 or array.dtype.kind == "f"):
        raise MalformedRequest(f"input {name}: data must hold whole numbers from 0 to 255")
    with np.errstate(over="ignore"):
        return array.astype(DTYPES[datatype]).reshape(shape)


def encode(request: InferRequest, result: Answer) -> tuple[bytes, list[memoryview]]:
    """Return the answer's JSON, and the binary data that follow it, not copied.

    Args:
        request: says which outputs, and in which form.
        result: holds each of them.

    Raises:
        MalformedRequest: objects are wanted of a model that tells none apart.
    """
    arrays = v2_outputs.arrays(result)
    outputs, binary = [], []
    for name, as_binary in request.outputs.items():
        if name not in arrays:
            raise MalformedRequest(f"there is no output {name!r}: the model {result.model} tells no objects apart")
        datatype = v2_outputs.DATATYPES[name]
        array = np.ascontiguousarray(arrays[name], DTYPES[datatype])
        output: dict[str, Any] = {"name": name, "shape": list(array.shape), "datatype": datatype}
        if as_binary:
            output["parameters"] = {"binary_data_size": array.nbytes}
            binary.append(array.reshape(-1).view(np.uint8).data)
        else:
            output["data"] = array.reshape(-1)
        outputs.append(output)
    answer: dict[str, Any] = {"model_name": result.model, "model_version": VERSION}
    if request.id is not None:
        answer["id"] = request.id
    answer["parameters"] = {"warnings": " ".join(result.warnings)} if result.warnings else {}
    answer["outputs"] = outputs
    return orjson.dumps(answer, option=orjson.OPT_SERIALIZE_NUMPY), binary


def pieces(head: bytes, binary: list[memoryview]) -> Iterator[bytes]:
    """Yield an answer's body piece by piece, so that no copy of it is made as a whole."""
    if not binary:
        yield head
        return
    # Together: what is yielded is sent at once, and a packet for the head alone wakes the client once more.
    first = binary[0][: max(0, PIECE_BYTES - len(head))]
    yield b"".join((head, first))
    for data in (binary[0][len(first) :], *binary[1:]):
        for start in range(0, len(data), PIECE_BYTES):
            yield bytes(data[start : start + PIECE_BYTES])


def metadata(card: Mapping[str, Any]) -> dict[str, Any]:
    """Return the metadata of a model."""
    return {
        "name": card["name"],
        "versions": [VERSION],
        "platform": f"pointserve_{card['family']}",
        "inputs": [
            {"name": name, "datatype": datatypes[0], "shape": [-1, width] if width > 1 else [-1]}
            for name, (datatypes, width, _) in INPUTS.items()
        ],
        "outputs": v2_outputs.describe(card),
    }


def configuration(card: Mapping[str, Any]) -> dict[str, Any]:
    """Return a model's configuration, as far as it means anything here (Triton's model configuration extension)."""
    about = metadata(card)
    inputs, outputs = (
        [{"name": t["name"], "data_type": f"TYPE_{t['datatype']}", "dims": t["shape"]} for t in about[kind]]
        for kind in ("inputs", "outputs")
    )
    for tensor in inputs:
        tensor["optional"] = not INPUTS[tensor["name"]][2]
    return {
        "name": card["name"],
        "platform": about["platform"],
        "backend": "pointserve",
        "max_batch_size": 0,
        "input": inputs,
        "output": outputs,
    }
