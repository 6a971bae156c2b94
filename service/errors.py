"""One tree of errors. They carry a sentence for the user and know nothing of HTTP; web/ gives them statuses."""

from __future__ import annotations

from typing import Any


class ServiceError(Exception):
    """Base of every error that a user may see.

    Args:
        detail: one sentence that names what is wrong (field, point, byte) and what would be right.
        retry_after_s: seconds after which the same request may succeed, or None.
    """

    code = "internal"
    title = "The service failed"

    def __init__(self, detail: str, *, retry_after_s: float | None = None) -> None:
        super().__init__(detail)
        self.detail = detail
        self.retry_after_s = retry_after_s


class InternalError(ServiceError):
    """A defect of the service itself."""


class MalformedRequest(ServiceError):
    """The request or its options do not parse."""

    code = "malformed-request"
    title = "The request is malformed"


class MalformedFile(MalformedRequest):
    """The file is not what its format demands: truncated, contradictory, garbled."""

    code = "malformed-file"
    title = "The file is malformed"


class MissingKey(ServiceError):
    """The service asks for an API key, and the request has none."""

    code = "missing-key"
    title = "An API key is needed"


class InvalidKey(ServiceError):
    """The request's API key is not known."""

    code = "invalid-key"
    title = "The API key is wrong"


class RateLimited(ServiceError):
    """The client makes more requests than it may."""

    code = "rate-limited"
    title = "Too many requests"


class UnknownModel(ServiceError):
    """No model of that name is served."""

    code = "unknown-model"
    title = "No such model"


class UnusableModel(ServiceError):
    """The model's files cannot be served: a configuration or a checkpoint that is malformed or of no known kind."""

    code = "unusable-model"
    title = "The model cannot be used"


class TooLarge(ServiceError):
    """More bytes or more points than the service accepts."""

    code = "too-large"
    title = "The cloud is too large"


class UnknownFormat(ServiceError):
    """The format is not one of those that the service reads or writes, or cannot be told."""

    code = "unknown-format"
    title = "The format is unknown"


class NotAcceptable(ServiceError):
    """The client accepts none of the answers that the service can give."""

    code = "not-acceptable"
    title = "No acceptable form of answer"


class UnusableCloud(ServiceError):
    """The file reads well but the cloud cannot be labelled: no valid points, a missing input of the model."""

    code = "unusable-cloud"
    title = "The cloud cannot be used"


class ReaderFailed(UnusableCloud):
    """The process that decoded the file died or overran its limits."""

    code = "reader-failed"
    title = "The file could not be decoded within its limits"


class NotReady(ServiceError):
    """The engine is starting, or has lost its device."""

    code = "not-ready"
    title = "The service is not ready"


class Overloaded(ServiceError):
    """The queue is full."""

    code = "overloaded"
    title = "The service is busy"


class FatalCloud(ServiceError):
    """The process that owns the device ended twice while it held this cloud alone."""

    code = "fatal-cloud"
    title = "The cloud ends the worker"


class OutOfMemory(ServiceError):
    """The device has too little memory for the cloud, in whatever tiles, and so has the CPU."""

    code = "out-of-memory"
    title = "Too little memory for the cloud"


class DeadlineExceeded(ServiceError):
    """The request's deadline passed before its answer was there."""

    code = "deadline-exceeded"
    title = "The deadline passed"


class Cancelled(ServiceError):
    """The client hung up before its work began."""

    code = "cancelled"
    title = "The request was cancelled"


LONGEST_DETAIL = 1000
"""Letters of a refusal that crosses to another process; a file or a request may have a name of a megabyte in it."""
ERRORS: tuple[type[ServiceError], ...] = (
    InternalError,
    MalformedRequest,
    MalformedFile,
    MissingKey,
    InvalidKey,
    RateLimited,
    UnknownModel,
    UnusableModel,
    TooLarge,
    UnknownFormat,
    NotAcceptable,
    UnusableCloud,
    ReaderFailed,
    NotReady,
    Overloaded,
    FatalCloud,
    OutOfMemory,
    DeadlineExceeded,
    Cancelled,
)
_BY_CODE = {error.code: error for error in ERRORS}


def to_message(error: ServiceError) -> dict[str, Any]:
    """Return the error as plain values, to cross from one process to another; a long sentence is cut."""
    return {"code": error.code, "detail": error.detail[:LONGEST_DETAIL], "retry_after_s": error.retry_after_s}


def from_message(message: dict[str, Any]) -> ServiceError:
    """Return the error that `to_message` described; a code from elsewhere becomes an InternalError."""
    kind = _BY_CODE.get(message.get("code", ""), InternalError)
    return kind(str(message.get("detail", "")), retry_after_s=message.get("retry_after_s"))
