"""What is wished for of a cloud beside labels: one class, features of its points; mixed, cut into tiles, refused."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from service.engine import labelling
from service.engine.labelling import Wishes
from service.errors import MalformedRequest, UnusableCloud
from service.models.layers.engine import engine
from service.models.model import Model
from service.transforms import Recipe
from service.values import (
    Classification,
    ClassInfo,
    Embedding,
    ModelCard,
    PointCloud,
    Segmentation,
    answer_arrays,
    answer_message,
    classification_from,
    embedding_from,
)
from tests.models import objects

CPU = torch.device("cpu")
RECIPE = Recipe(0.02, ("coord",))
CLASSES = tuple(ClassInfo(i, name, (i, 0, 0)) for i, name in enumerate(objects.CLASSES))


def made(network: dict[str, Any], tasks: tuple[str, ...], recipe: Recipe = RECIPE) -> Model:
    card = ModelCard("it", "", "", CLASSES, recipe.features, recipe.grid_size, 0, "", tasks=tasks)
    return Model(objects.network(network), card, recipe, engine("native", CPU), CPU)


def segmentor(recipe: Recipe = RECIPE) -> Model:
    head = {"type": "DefaultSegmentorV2", "num_classes": 4, "backbone_out_channels": 16}
    return made({**head, "backbone": objects.DECODER}, ("segment", "embed"), recipe)


def classifier(recipe: Recipe = RECIPE) -> Model:
    head = {"type": "DefaultClassifier", "num_classes": 4, "backbone_embed_dim": 24}
    return made({**head, "backbone": objects.ENCODER}, ("classify",), recipe)


def cloud(points: int, seed: int = 0) -> PointCloud:
    return PointCloud(np.random.default_rng(seed).uniform(0, 1.5, (points, 3)))


def test_wishes_of_both_kinds_in_one_batch_get_what_each_gets_alone() -> None:
    model = segmentor()
    clouds = [cloud(50 + 200 * i, i) for i in range(5)]
    wishes = [Wishes(task="embed" if i % 2 else "segment", scores=True) for i in range(5)]
    together = labelling.label(model, clouds, wishes)
    for one, wish, answer in zip(clouds, wishes, together, strict=True):
        (alone,) = labelling.label(model, [one], [wish])
        assert isinstance(answer, Embedding if wish.task == "embed" else Segmentation)
        for name, values in answer_arrays(answer).items():
            expected = answer_arrays(alone)[name]
            assert (values is None) == (expected is None)
            if values is not None and expected is not None:
                np.testing.assert_allclose(values, expected, atol=2e-3)


def test_features_of_a_cloud_in_tiles_have_a_row_for_each_point() -> None:
    whole = cloud(3000)
    (expected,) = labelling.label(segmentor(), [whole], [Wishes(task="embed")])
    tiled = segmentor(replace(RECIPE, max_voxels=2000, overlap=4))
    (found,) = labelling.label(tiled, [whole], [Wishes(task="embed")])
    assert isinstance(expected, Embedding) and isinstance(found, Embedding)
    assert found.feature.shape == expected.feature.shape == (3000, 16)
    assert found.feature.dtype == np.float16 and np.isfinite(found.feature).all()


def test_where_memory_is_short_features_come_from_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    model, whole = segmentor(), cloud(9000)
    embed, rows = model.embed, []

    def short(batch: Any) -> torch.Tensor:
        rows.append(len(batch.feat))
        if len(rows) == 1:
            raise MemoryError
        return embed(batch)

    monkeypatch.setattr(model, "embed", short)
    (found,) = labelling.label(model, [whole], [Wishes(task="embed")])
    assert isinstance(found, Embedding) and found.feature.shape == (9000, 16)
    assert "labelled in tiles" in found.warnings[-1] and max(rows[1:]) <= rows[0] // 2


def test_an_object_of_too_many_voxels_has_no_class() -> None:
    model = classifier(replace(RECIPE, max_voxels=500))
    small, large = labelling.label(model, [cloud(100), cloud(3000)], [Wishes(task="classify")] * 2)
    assert isinstance(small, Classification) and small.points == 100
    assert small.scores.sum() == pytest.approx(1, abs=1e-5)
    assert isinstance(large, UnusableCloud) and "send one of at most 500 voxels" in large.detail


@pytest.mark.parametrize(
    ("wishes", "said"),
    [
        (Wishes(), "the model it cannot segment; it can classify"),
        (Wishes(task="embed"), "the model it cannot embed; it can classify"),
        (Wishes(task="guess"), "task 'guess' is unknown: use segment, classify, embed"),
        (Wishes(task="classify", tta="full"), "tta=full labels points and cannot classify"),
    ],
)
def test_what_a_model_cannot_do_is_refused(wishes: Wishes, said: str) -> None:
    (answer,) = labelling.label(classifier(), [cloud(100)], [wishes])
    assert isinstance(answer, MalformedRequest) and said in answer.detail


def test_answers_travel_as_messages() -> None:
    (told,) = labelling.label(classifier(), [cloud(100)], [Wishes(task="classify")])
    (seen,) = labelling.label(segmentor(), [cloud(100)], [Wishes(task="embed")])
    for answer, read in ((told, classification_from), (seen, embedding_from)):
        assert isinstance(answer, Classification | Embedding)
        arrays = {name: values for name, values in answer_arrays(answer).items() if values is not None}
        again = read(answer_message(answer), arrays)
        assert answer_message(again) == answer_message(answer)
        assert all(values is arrays[name] for name, values in answer_arrays(again).items())
