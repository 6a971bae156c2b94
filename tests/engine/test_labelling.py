"""Batches of clouds: each gets what it would get alone, and an error is one cloud's only."""

from __future__ import annotations

import gc
import weakref

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from service.engine.labelling import Wishes, label
from service.errors import InternalError, ServiceError, UnusableCloud
from service.models import catalogue
from service.models.model import Model
from service.transforms import prepare
from service.values import PointCloud, Segmentation
from tests.http.clouds import parcel_scene

BOTH = Wishes(scores=True, confidence=True)


@pytest.fixture(scope="module")
def model() -> Model:
    return catalogue.load("parcels", torch.device("cpu"))


def scene(seed: int, points: int) -> PointCloud:
    return PointCloud(parcel_scene(points, seed) * (1 + seed % 3))


def alone(model: Model, cloud: PointCloud) -> Segmentation:
    (answer,) = label(model, [cloud], [BOTH])
    assert isinstance(answer, Segmentation)
    return answer


@given(
    clouds=st.lists(st.tuples(st.integers(0, 9), st.integers(1, 3000)), min_size=1, max_size=5),
    max_voxels=st.sampled_from([None, 1, 1000, 3000]),
)
@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_cloud_gets_the_same_bits_in_every_batch(
    model: Model, clouds: list[tuple[int, int]], max_voxels: int | None
) -> None:
    made = [scene(seed, points) for seed, points in clouds]
    together = label(model, made, [BOTH] * len(made), max_voxels=max_voxels)
    for cloud, answer in zip(made, together, strict=True):
        assert isinstance(answer, Segmentation)
        expected = alone(model, cloud)
        np.testing.assert_array_equal(answer.label, expected.label)
        np.testing.assert_array_equal(answer.confidence, expected.confidence)
        np.testing.assert_array_equal(answer.scores, expected.scores)


def test_each_gets_what_it_wished_for(model: Model) -> None:
    wishes = [Wishes(), Wishes(confidence=True), Wishes(scores=True)]
    plain, sure, full = label(model, [scene(0, 500)] * 3, wishes)
    assert isinstance(plain, Segmentation) and isinstance(sure, Segmentation) and isinstance(full, Segmentation)
    assert (plain.confidence, plain.scores, sure.scores) == (None, None, None)
    assert sure.confidence is not None and full.scores is not None
    np.testing.assert_array_equal(sure.confidence, full.scores.max(axis=1))
    assert set(plain.timing_ms) == {"prepare", "forward", "restore"}


def test_a_refused_cloud_is_let_go_at_once(model: Model) -> None:
    def refuse() -> weakref.ref[np.ndarray]:
        coord = np.full((3, 3), np.nan)
        (answer,) = label(model, [PointCloud(coord)], [BOTH])
        assert isinstance(answer, UnusableCloud)
        return weakref.ref(coord)

    gc.disable()
    try:
        assert refuse()() is None
    finally:
        gc.enable()


def test_an_unusable_cloud_spoils_no_other(model: Model) -> None:
    nothing = PointCloud(np.full((3, 3), np.nan))
    good, bad, fine = label(model, [scene(0, 900), nothing, scene(1, 800)], [BOTH] * 3)
    assert isinstance(bad, UnusableCloud)
    for answer, cloud in ((good, scene(0, 900)), (fine, scene(1, 800))):
        assert isinstance(answer, Segmentation)
        np.testing.assert_array_equal(answer.scores, alone(model, cloud).scores)


def test_a_cloud_that_the_network_fails_on_spoils_no_other(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    clouds = [scene(0, 900), scene(1, 400), scene(2, 1300)]
    expected = [alone(model, cloud) for cloud in clouds]
    voxels, forward = len(prepare(clouds[1], model.recipe, model.device).tiles[0].coord), model.forward

    def failing(batch):  # type: ignore[no-untyped-def]
        if voxels in batch.sizes:
            raise RuntimeError("a kernel failed")
        return forward(batch)

    monkeypatch.setattr(model, "forward", failing)
    answers = label(model, clouds, [BOTH] * 3)
    assert isinstance(answers[1], InternalError)
    for index in (0, 2):
        found = answers[index]
        assert isinstance(found, Segmentation)
        np.testing.assert_array_equal(found.scores, expected[index].scores)


def test_an_unknown_augmentation_is_named(model: Model) -> None:
    (answer,) = label(model, [scene(0, 100)], [Wishes(tta="sideways")])
    assert isinstance(answer, ServiceError)
    assert "'sideways'" in answer.detail
