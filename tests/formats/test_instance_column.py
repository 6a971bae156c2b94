"""The object of each point in answers: the column `instance` of files and the JSON of /v1/segment."""

from __future__ import annotations

import dataclasses
import io
import json

import numpy as np
import pytest

from service.formats import FORMATS
from service.formats.attributes import renamed
from service.formats.format import Format, Options
from service.values import (
    Instance,
    PointCloud,
    Segmentation,
    segmentation_arrays,
    segmentation_from,
    segmentation_message,
)
from service.wire import json_v1

COUNT = 7
COORD = np.random.default_rng(3).integers(-500, 500, (COUNT, 3)) / 64
INSTANCE = np.array([-1, 0, 0, 1, 1, 70_000, -1], dtype=np.int32)
SAID = Segmentation(
    label=np.array([0, 1, 1, 1, 1, 1, -1], dtype=np.int32),
    classes=(),
    model="parcels",
    instance=INSTANCE,
    instances=(Instance(0, 1, 0.91234567, 2), Instance(1, 1, 0.5, 2)),
)
SURE = dataclasses.replace(SAID, confidence=np.linspace(0, 1, COUNT, dtype=np.float32))
WRITERS = [known for known in FORMATS if known.write is not None]
ANNOTATORS = [known for known in FORMATS if known.annotate is not None and known.write is not None]


@pytest.mark.parametrize("said", [SAID, SURE], ids=["plain", "confidence"])
@pytest.mark.parametrize("known", WRITERS, ids=lambda known: known.name)
def test_a_written_file_holds_the_objects(known: Format, said: Segmentation) -> None:
    out = io.BytesIO()
    assert known.write is not None
    known.write(PointCloud(COORD), said, out)
    again = known.read(memoryview(out.getvalue()), Options())
    assert np.array_equal(again.attributes["instance"].astype(np.int64), INSTANCE)


@pytest.mark.parametrize("said", [SAID, SURE], ids=["plain", "confidence"])
@pytest.mark.parametrize("known", ANNOTATORS, ids=lambda known: known.name)
def test_the_users_own_file_gets_the_objects_and_keeps_an_older_column(known: Format, said: Segmentation) -> None:
    first, second = io.BytesIO(), io.BytesIO()
    assert known.write is not None and known.annotate is not None
    older = dataclasses.replace(said, instance=INSTANCE[::-1].copy())
    known.write(PointCloud(COORD), older, first)
    known.annotate(memoryview(first.getvalue()), said, second, Options())
    again = known.read(memoryview(second.getvalue()), Options())
    assert np.array_equal(again.attributes["instance"].astype(np.int64), INSTANCE)
    assert np.array_equal(again.attributes["original_instance"].astype(np.int64), INSTANCE[::-1])


def test_an_older_column_of_objects_gets_another_name() -> None:
    assert renamed(["x", "Instance", "confidence"]) == {
        "Instance": "original_instance",
        "confidence": "original_confidence",
    }


def test_the_json_answer_holds_the_objects() -> None:
    answer = json.loads(json_v1.encode(SAID, {}, "id"))
    assert answer["instance"] == INSTANCE.tolist()
    assert answer["instances"][0] == {"id": 0, "class": 1, "score": 0.9123, "points": 2}
    without = json.loads(json_v1.encode(dataclasses.replace(SAID, instance=None, instances=()), {}, "id"))
    assert "instance" not in without and "instances" not in without


def test_the_objects_survive_the_way_between_processes() -> None:
    arrays = {name: values for name, values in segmentation_arrays(SAID).items() if values is not None}
    again = segmentation_from(json.loads(json.dumps(segmentation_message(SAID))), arrays)
    assert again.instance is INSTANCE and again.instances == SAID.instances
