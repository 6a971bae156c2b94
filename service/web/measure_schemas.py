"""Options and answer of /v1/measure."""

from __future__ import annotations

import math
from typing import Any, Literal

from pydantic import BaseModel, Field, ValidationInfo, field_validator, model_validator

from service.errors import NotAcceptable
from service.web.schemas import ClassAnswer, CloudQuery, Flag
from service.wire.outputs import FILES

METRES = {"m": 1.0, "cm": 0.01, "mm": 0.001}
MEDIA_TYPES = {"json": "application/json", "csv": "text/csv", "ply": "application/ply", "png": "image/png"}
MEDIA_TYPES |= {"zip": "application/zip"}


class MeasureQuery(CloudQuery):
    """Options of a measurement."""

    output: Literal["json", "csv", "ply", "png", "zip"] | None = Field(
        None,
        description="Form of the answer: json (the default), csv, the cloud with its boxes drawn as ply or png, or "
        "zip: JSON, CSV and the labelled cloud in one file.",
    )
    cloud: str = Field("ply", description=f"In a zip, format of the labelled cloud: {', '.join(FILES)}.")
    scores: Flag = Field(False, description="In a zip, the labelled cloud has each point's confidence.")
    units: Literal["m", "cm", "mm"] | None = Field(
        None, description="Unit of the coordinates; metres, or millimetres where the cloud's size says so, when absent."
    )
    scale: float | None = Field(None, gt=0, description="Metres per unit of the coordinates, in the place of units.")
    up: str | None = Field(
        None, description="x,y,z of the direction away from what the boxes stand on, in the file's frame."
    )
    viewpoint: str | None = Field(
        None,
        description="x,y,z of where the sensor stood, in the file's frame; 0,0,0 when absent and the points look like "
        "it; none: the cloud is of no single sensor, as one merged of several views.",
    )
    labels: Flag = Field(False, description="Also return each point's class and object.")

    @field_validator("scale")
    @classmethod
    def _finite(cls, value: float | None) -> float | None:
        if value is not None and not math.isfinite(value):
            raise ValueError("it must be a finite number above 0")
        return value

    @field_validator("up", "viewpoint")
    @classmethod
    def _three_numbers(cls, value: str | None, info: ValidationInfo) -> str | None:
        if value is None or (value == "none" and info.field_name == "viewpoint"):
            return value
        if not any(_triple(value)) and info.field_name == "up":
            raise ValueError("it must be a direction, and not zero")
        return value

    @model_validator(mode="after")
    def _one_unit(self) -> MeasureQuery:
        if self.units is not None and self.scale is not None:
            raise ValueError("units and scale exclude each other")
        return self

    def metres_per_unit(self) -> float | None:
        """Return what the user says of the coordinates' unit; None: nothing."""
        if self.scale is not None:
            return self.scale
        return None if self.units is None else METRES[self.units]

    def frame(self, metres_per_unit: float) -> dict[str, Any]:
        """Return the fields of `service.measure.Frame`."""
        said = self.viewpoint is not None and self.viewpoint != "none"
        return {
            "metres_per_unit": metres_per_unit,
            "up": None if self.up is None else _triple(self.up),
            "viewpoint": _triple(self.viewpoint or "") if said else None,
            "one_sensor": self.viewpoint != "none",
        }

    def form(self, accepted: list[str]) -> str:
        """Return json, csv, ply, png or zip: what `output` or else the Accept header's media types say.

        Raises:
            NotAcceptable: the header allows no answer that there is.
        """
        if self.output is not None:
            return self.output
        for media_type in accepted or ["*/*"]:
            if media_type in ("*/*", "application/*"):
                return "json"
            for form, own in MEDIA_TYPES.items():
                if media_type in (own, own.split("/")[0] + "/*"):
                    return form
        raise NotAcceptable(
            f"the Accept header allows no answer that there is; there are: {', '.join(MEDIA_TYPES.values())}"
        )


def _triple(text: str) -> list[float]:
    """Return the three numbers of "x,y,z".

    Raises:
        ValueError: it is no three finite numbers.
    """
    try:
        values = [float(part) for part in text.split(",")]
    except ValueError:
        values = []
    if len(values) != 3 or not all(math.isfinite(value) for value in values):
        raise ValueError("it must be three numbers with commas between them, as 0,0,1")
    return values


class SupportAnswer(BaseModel):
    """The plane that the boxes stand on."""

    point: list[float] = Field(description="A point of it, in the file's units and frame.")
    normal: list[float] = Field(description="Away from what is beneath; of length 1.")
    rms_m: float = Field(description="Root of the mean squared distance of its points, metres.")


class EdgesAnswer(BaseModel):
    """A number for each edge and the volume; null where there is none."""

    length_m: float | None
    width_m: float | None
    height_m: float | None
    volume_m3: float | None


class BoxAnswer(BaseModel):
    """One box."""

    id: int = Field(description="Its number in `instance`.")
    class_: int = Field(alias="class", description="Id of its class.")
    score: float = Field(description="How sure the model is of it, 0 to 1.")
    points: int
    measured: bool = Field(description="Whether all of its edges are known.")
    reason: str | None = Field(description="Why some are not.")
    length_m: float | None = Field(description="The longer edge across, as far as is known; metres.")
    width_m: float | None
    height_m: float | None = Field(description="The edge nearest to upright.")
    volume_m3: float | None
    uncertainty: EdgesAnswer = Field(
        description="Half the width of the interval that holds the true value in nine of ten cases."
    )
    at_least: EdgesAnswer = Field(description="What edges that are not known, and the volume, have at least.")
    center: list[float] | None = Field(description="In the file's units and frame, as rotation and corners.")
    rotation: list[list[float]] | None = Field(description="Rows: unit axes of length, width and height.")
    corners: list[list[float]] | None = Field(description="Eight; the first four are the bottom, in their order.")
    faces_seen: list[str] = Field(description="top, front, back, left, right, bottom; front is the side seen best.")
    pose: str = Field(description="standing, leaning, or unknown.")


class MeasureAnswer(BaseModel):
    """The JSON answer of a measurement."""

    model: str
    points: int
    metres_per_unit: float = Field(description="What the coordinates' unit was taken to be.")
    up: list[float] | None
    support: SupportAnswer | None
    classes: list[ClassAnswer]
    boxes: list[BoxAnswer] = Field(description="The one of most points first.")
    labels: list[int] | None = Field(None, description="The class of each point, when asked for; -1: ignored.")
    instance: list[int] | None = Field(None, description="The box of each point, when asked for; -1: none.")
    warnings: list[str]
    timing_ms: dict[str, float]
    request_id: str
