"""Options and answers of the API, as pydantic models: what is checked and what the OpenAPI page shows."""

from __future__ import annotations

from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from service.errors import MalformedRequest
from service.formats import FORMATS
from service.formats.format import Options
from service.wire.outputs import WORDS


def _flag(value: object) -> object:
    # `?scores` alone means yes, as people write it.
    return "true" if value == "" else value


Flag = Annotated[bool, BeforeValidator(_flag)]


class CloudQuery(BaseModel):
    """What every request with a cloud may say of it, in the query or as fields of the form."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    model: str | None = Field(None, description="Name of the model; the first one served when absent.")
    format: str | None = Field(None, description="Format of the file: " + ", ".join(f.name for f in FORMATS) + ".")
    filename: str | None = Field(None, description="Name of the file, to recognise its format by.", max_length=255)
    tta: Literal["none", "full"] = Field(
        "none",
        description="full: the test-time procedure of the model's own configuration, many passes under augmentations; "
        "none: one pass.",
    )
    condition: str | None = Field(
        None,
        description="Of a model that was trained on several datasets, the one whose norms, head and classes are used; "
        "its card names them. The one of its configuration when absent.",
        max_length=100,
    )
    columns: str | None = Field(
        None,
        description="Columns of a text file, separated by commas: x,y,z,red,green,blue,intensity,nx,ny,nz,...",
        max_length=4000,
    )
    separator: str | None = Field(
        None, description="Separator of a text file: space, tab, comma, semicolon.", max_length=16
    )
    skip_rows: int | None = Field(None, ge=0, le=1_000_000, description="Lines before a text file's data.")

    def file_options(self, max_points: int) -> Options:
        """Return what these options say of the file."""
        columns = tuple(name.strip() for name in self.columns.split(",")) if self.columns else None
        return Options(max_points=max_points, columns=columns, separator=self.separator, skip_rows=self.skip_rows)


class SegmentQuery(CloudQuery):
    """Options of a segmentation."""

    output: str | None = Field(None, description="Form of the answer: " + ", ".join(WORDS) + ".")
    scores: Flag = Field(False, description="Also return each point's class probabilities, or in files its confidence.")


class SummaryQuery(CloudQuery):
    """Options of a classification, or of features of points."""

    tta: Literal["none"] = Field("none", description="There is one pass only.")


Query = TypeVar("Query", bound=CloudQuery)


def parse_query(values: dict[str, Any], shape: type[Query]) -> Query:
    """Return the options.

    Raises:
        MalformedRequest: an option is unknown or has no such value; the sentence names it.
    """
    try:
        return shape.model_validate(values)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        name = ".".join(str(part) for part in first["loc"])
        if first["type"] == "extra_forbidden":
            known = ", ".join(shape.model_fields)
            raise MalformedRequest(f"option {name!r} is unknown; there are: {known}") from None
        where = f"option {name!r}: " if name else "options: "
        raise MalformedRequest(f"{where}{first['msg']}") from None


class ClassAnswer(BaseModel):
    """One class, and how many points it has."""

    id: int
    name: str
    color: str = Field(description="#rrggbb")
    count: int


class InstanceAnswer(BaseModel):
    """One object."""

    id: int
    class_: int = Field(alias="class", description="Id of its class.")
    score: float = Field(description="How sure the model is of it, 0 to 1.")
    points: int


class SegmentAnswer(BaseModel):
    """The JSON answer of a segmentation."""

    model: str
    classes: list[ClassAnswer]
    ignored: int = Field(description="How many points have the label -1.")
    labels: list[int] = Field(description="One class id for each point of the input, in its order; -1: ignored.")
    scores: list[list[float]] | None = Field(None, description="Class probabilities of each point, when asked for.")
    instance: list[int] | None = Field(
        None, description="The object of each point, -1: none; where the model tells objects apart."
    )
    instances: list[InstanceAnswer] | None = Field(None, description="The objects, the one of most points first.")
    warnings: list[str]
    timing_ms: dict[str, float]
    request_id: str


class ClassScore(BaseModel):
    """One class, and how likely it is."""

    id: int
    name: str
    color: str = Field(description="#rrggbb")
    score: float = Field(description="Its probability, 0 to 1.")


class ClassifyAnswer(BaseModel):
    """The answer of a classification."""

    model: str
    label: int = Field(description="Id of the likeliest class.")
    name: str = Field(description="Its name.")
    score: float = Field(description="Its probability, 0 to 1.")
    classes: list[ClassScore] = Field(description="All classes, in the order of their ids.")
    points: int
    warnings: list[str]
    timing_ms: dict[str, float]
    request_id: str


class Problem(BaseModel):
    """An error, RFC 9457."""

    type: str
    title: str
    status: int
    detail: str
    error: str
    request_id: str


class CardClass(BaseModel):
    """One class of a model."""

    id: int
    name: str
    color: str


class CardAnswer(BaseModel):
    """What there is to know of a model."""

    name: str
    title: str
    family: str
    classes: list[CardClass]
    inputs: list[str]
    grid_size: float = Field(description="Edge of a voxel in metres.")
    parameters: int
    source: str
    about: dict[str, Any]
    default: bool
    state: str = Field(
        "ready",
        description="ready; waiting: loaded on its first use; loading; evicted: it made room for others, is back on "
        "its next use; failed.",
    )
    reason: str = Field("", description="Why it failed.")
    bytes: int = Field(0, description="Memory that it takes on the device.")
    tasks: list[str] = Field(
        ["segment"], description="What it can do: segment, classify, embed; each is the name of its route."
    )
    objects: bool = Field(False, description="Whether it tells objects apart; known once it was loaded.")


class ModelsAnswer(BaseModel):
    """The models that are served."""

    models: list[CardAnswer]


class HealthAnswer(BaseModel):
    """Whether the service can answer now."""

    status: str = Field(description="ready, loading or failed")
    reason: str
    version: str
    models: list[str]
    model_states: dict[str, str] = Field({}, description="State of each model, as GET /v1/models tells it.")
    warnings: list[str] = Field([], description="What was assumed of the models that are served.")
    device: dict[str, Any]
    queue: dict[str, int]


class VerboseHealthAnswer(HealthAnswer):
    """The same with `?verbose`."""

    environment: dict[str, Any]
    processes: dict[str, Any]
    workers: list[dict[str, Any]] = Field(description="Each device: its worker's state, work and memory.")
    batches: dict[str, Any] = Field(description="What the devices have run so far.")
    counts: dict[str, int] = Field(description="Clouds that were refused, cancelled, retried; workers that were lost.")
