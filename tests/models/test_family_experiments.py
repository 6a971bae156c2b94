"""Experiments of the families with sparse convolutions, their clouds labelled; clouds that ask too much of them."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from scipy.spatial import cKDTree

from service.engine.labelling import Wishes, label
from service.errors import MalformedRequest, UnusableCloud, UnusableModel
from service.models import config, texts
from service.models.catalogue import FAMILIES
from service.models.conventions import names
from service.models.experiment import Experiment
from service.models.model import Model
from service.values import Classification, Embedding, PointCloud, Segmentation
from tests.models import experiments, families, objects

pytestmark = pytest.mark.usefixtures("quick_checkpoints")

CPU = torch.device("cpu")
EDGE_M = 0.02
OBJECTS = ("PG-v1m1", "PG-v1m2", "SGIFormer-v1m1")
WHOLE = ("SGIFormer-v1m1",)
"""Their answer is of a cloud as a whole, which is not cut into tiles."""


@pytest.fixture(scope="module")
def loaded() -> dict[str, Model]:
    """A model of each family, from a configuration and weights."""
    return {name: assembled(name) for name in families.SMALL}


def assembled(name: str) -> Model:
    """Return a family's model, without the files that it would come from."""
    experiment = Experiment(name, Path(name), FAMILIES)
    plan = experiment.plan(config.read_text(experiments.config(repr(families.SMALL[name])), "config.py"))
    weights = families.network(name).state_dict()
    if name == "PPT-v1m3":
        weights[texts.KEY] = torch.nn.functional.normalize(torch.randn(5, 512, generator=torch.Generator()), dim=1)
    return experiment.assemble(plan, weights, CPU, "native")


def cloud_of(points: int, seed: int = 0, color: bool = True, cells: int = 30) -> PointCloud:
    """Return points with all that the models read, each alone in its voxel."""
    random = np.random.default_rng(seed)
    coord = np.unique(random.integers(0, cells, (4 * points, 3)), axis=0)
    coord = (random.permutation(coord)[:points] + 0.5) * EDGE_M
    colors = random.integers(0, 256, coord.shape).astype(np.uint8)
    return PointCloud(coord, colors if color else None, random.normal(size=coord.shape).astype(np.float32))


def labelled(model: Model, cloud: PointCloud, **wishes: Any) -> Segmentation:
    """Return one cloud's answer, which is no error."""
    (answer,) = label(model, [cloud], [Wishes(**wishes)])
    assert isinstance(answer, Segmentation), answer
    return answer


@pytest.mark.parametrize("name", families.SMALL)
@pytest.mark.parametrize("points", [1, 2, 9, 700])
def test_clouds_of_any_size_are_labelled(loaded: dict[str, Model], name: str, points: int) -> None:
    answer = labelled(loaded[name], cloud_of(points), scores=True)
    assert answer.label.shape == (points,)
    assert set(answer.label.tolist()) <= {0, 1, 2}
    assert answer.scores is not None
    assert np.isfinite(answer.scores).all()
    np.testing.assert_allclose(answer.scores.sum(axis=1), 1, atol=1e-5)
    assert (answer.instance is not None) == (name in OBJECTS)


@pytest.mark.parametrize("name", families.SMALL)
def test_a_cloud_without_what_the_network_reads_is_refused(loaded: dict[str, Model], name: str) -> None:
    (answer,) = label(loaded[name], [cloud_of(50, color=False)], [Wishes()])
    assert isinstance(answer, UnusableCloud)
    assert answer.detail == "The model needs colours (red, green, blue) and the cloud has none."


@pytest.mark.parametrize("name", families.SMALL)
def test_a_cloud_larger_than_one_pass_is_cut_into_tiles(loaded: dict[str, Model], name: str) -> None:
    model = loaded[name]
    whole, recipe = labelled(model, cloud_of(1500)), model.recipe
    model.recipe = dataclasses.replace(recipe, max_voxels=600, overlap=4, align=4)
    try:
        (tiled,) = label(model, [cloud_of(1500)], [Wishes(scores=True)])
    finally:
        model.recipe = recipe
    if name in WHOLE:
        assert isinstance(tiled, UnusableCloud)
        assert "this model's answer is about a cloud as a whole: send one of at most 600 voxels" in tiled.detail
        return
    assert isinstance(tiled, Segmentation)
    assert tiled.scores is not None
    assert np.isfinite(tiled.scores).all()
    assert tiled.label.shape == whole.label.shape


@pytest.mark.parametrize("name", families.SMALL)
def test_clouds_in_one_batch_get_what_they_get_alone(loaded: dict[str, Model], name: str) -> None:
    clouds = [cloud_of(300, 1), cloud_of(1, 2), cloud_of(40, 3, cells=6)]
    wishes = [Wishes(scores=True)] * len(clouds)
    for cloud, together in zip(clouds, label(loaded[name], clouds, wishes), strict=True):
        alone = labelled(loaded[name], cloud, scores=True)
        assert isinstance(together, Segmentation)
        assert alone.scores is not None
        assert together.scores is not None
        np.testing.assert_allclose(together.scores, alone.scores, atol=1e-4 if "LitePT" in name else 1e-5)


@pytest.mark.parametrize("name", ["PPT-v1m1", "PPT-v1m2", "PPT-v1m3", "SpUNet-v1m3"])
def test_a_wish_chooses_the_data_set(loaded: dict[str, Model], name: str) -> None:
    model, cloud = loaded[name], cloud_of(200)
    expected = {
        "PPT-v1m1": ["cabinet", "wall"],
        "PPT-v1m2": list(names("S3DIS")),
        "PPT-v1m3": ["cabinet", "wall"],
        "SpUNet-v1m3": ["wall", "floor", "cabinet"],
    }[name]
    assert model.card.about["condition"] == "ScanNet"
    assert model.card.about["conditions"] == {"ScanNet": ["wall", "floor", "cabinet"], "S3DIS": expected}
    usual = labelled(model, cloud, scores=True)
    other = labelled(model, cloud, scores=True, condition="S3DIS")
    assert [info.name for info in other.classes] == expected
    assert other.scores is not None
    assert usual.scores is not None
    assert other.scores.shape == (200, len(expected))
    assert other.scores.shape != usual.scores.shape or not np.allclose(other.scores, usual.scores)
    same = labelled(model, cloud, scores=True, condition="ScanNet")
    np.testing.assert_array_equal(np.asarray(same.scores), np.asarray(usual.scores))
    conditions = ["S3DIS", None, "ScanNet", "S3DIS", "Waymo"]
    mixed = label(model, [cloud] * 5, [Wishes(scores=True, condition=condition) for condition in conditions])
    for answer, alone in zip(mixed[:4], (other, usual, usual, other), strict=True):
        assert isinstance(answer, Segmentation)
        np.testing.assert_allclose(np.asarray(answer.scores), np.asarray(alone.scores), atol=1e-5)
    assert isinstance(mixed[4], MalformedRequest)
    assert mixed[4].detail == f"condition is 'Waymo', but the model {name} knows ScanNet, S3DIS"


def test_the_whole_procedure_sees_the_data_set_too(loaded: dict[str, Model]) -> None:
    found = labelled(loaded["PPT-v1m2"], cloud_of(60), scores=True, tta="full", condition="S3DIS")
    assert found.scores is not None
    assert found.scores.shape == (60, 13)


def test_a_model_of_one_data_set_takes_no_other(loaded: dict[str, Model]) -> None:
    (answer,) = label(loaded["OACNNs"], [cloud_of(10)], [Wishes(condition="ScanNet")])
    assert isinstance(answer, MalformedRequest)
    assert "OACNNs was not trained for several datasets" in answer.detail


def test_objects_are_what_is_connected(loaded: dict[str, Model]) -> None:
    model, cloud = loaded["PG-v1m1"], cloud_of(900, cells=14)
    answer = labelled(model, cloud, scores=True)
    near = cKDTree(cloud.coord).query_pairs(1.5 * EDGE_M * 0.9999, output_type="ndarray")
    near = near[answer.label[near[:, 0]] == answer.label[near[:, 1]]]
    graph = coo_array((np.ones(len(near)), (near[:, 0], near[:, 1])), shape=(len(cloud), len(cloud)))
    own = connected_components(graph)[1]
    sizes = np.bincount(own)
    expected = {frozenset(np.flatnonzero(own == number).tolist()) for number in np.flatnonzero(sizes > 10)}
    assert answer.instance is not None
    found = {frozenset(np.flatnonzero(answer.instance == one.id).tolist()): one for one in answer.instances}
    assert len(expected) > 0
    assert found.keys() == expected
    assert answer.scores is not None
    for rows, one in found.items():
        members = sorted(rows)
        assert one.points == len(members)
        assert set(answer.label[members].tolist()) == {one.class_id}
        assert one.score == pytest.approx(float(answer.scores[members, one.class_id].mean()), abs=1e-5)
    points = [one.points for one in answer.instances]
    assert points == sorted(points, reverse=True)
    assert "tta=full" not in str(model.recipe.augmentations)
    (refused,) = label(model, [cloud], [Wishes(tta="full")])
    assert isinstance(refused, MalformedRequest)


def test_texts_that_are_missing_or_wrong_are_told(tmp_path: Path) -> None:
    made = families.network("PPT-v1m3")
    (tmp_path / "model").mkdir()
    checkpoint, configuration = tmp_path / "model" / "model_best.pth", tmp_path / "config.py"
    count, channels = made.class_embeddings.shape

    def complete() -> dict[str, torch.Tensor]:
        return texts.complete(made, made.state_dict(), checkpoint, configuration)

    def wrong() -> str:
        with pytest.raises(UnusableModel) as caught:
            complete()
        return caught.value.detail

    assert f"of its {count} class names, which Pointcept does not save: {texts.FILE}, (5, {channels}) fl" in wrong()
    path = tmp_path / texts.FILE
    path.write_bytes(b"not numpy")
    assert "cannot be read" in wrong()
    np.save(path, np.zeros((4, channels), np.float32))
    assert f"are float32 (4, {channels}); they must be float32 (5, {channels})" in wrong()
    np.save(path, np.ones((5, channels), np.int64))
    assert "are int64" in wrong()
    np.save(path, np.ones((5, channels), np.float32))
    assert "another length than 1" in wrong()
    np.save(path, np.eye(5, channels, dtype=np.float16))
    assert torch.equal(complete()[texts.KEY], torch.eye(5, channels))
    path.rename(checkpoint.parent / texts.FILE)
    assert texts.KEY in complete()
    plain = families.network("OACNNs")
    assert texts.complete(plain, plain.state_dict(), checkpoint, None).keys() == plain.state_dict().keys()


def test_a_checkpoint_with_low_rank_weights_is_served(tmp_path: Path) -> None:
    families.write(tmp_path, "DefaultLORASegmentorV2")
    model = Experiment("tuned", tmp_path, FAMILIES).load(CPU, "native")
    expected = labelled(assembled("DefaultLORASegmentorV2"), cloud_of(100), scores=True)
    np.testing.assert_allclose(
        np.asarray(labelled(model, cloud_of(100), scores=True).scores), np.asarray(expected.scores), atol=1e-6
    )


def test_a_checkpoint_that_carries_its_texts_is_served(tmp_path: Path) -> None:
    made = families.write(tmp_path, "PPT-v1m3")
    path = tmp_path / "model" / "model_best.pth"
    contents = torch.load(path, weights_only=False)
    contents["state_dict"]["module.class_embeddings"] = torch.eye(*made.class_embeddings.shape)
    torch.save(contents, path)
    assert Experiment("ppt", tmp_path, FAMILIES).load(CPU, "native").conditions.keys() == {"ScanNet", "S3DIS"}


def test_a_card_counts_heads_of_all_kinds(loaded: dict[str, Model]) -> None:
    told = {name: (model.card.family, model.card.title) for name, model in loaded.items()}
    assert told["PG-v1m1"] == ("SpUNet-v1m1", "PG-v1m1 of SpUNet-v1m1, 3 classes")
    assert told["PPT-v1m1"] == ("SpUNet-v1m3", "PPT-v1m1 of SpUNet-v1m3, 3 classes")
    assert told["OACNNs"][0] == "OACNNs"


@pytest.fixture(scope="module")
def summing() -> dict[str, Model]:
    """Models that say one thing of a cloud: a classifier of each kind of encoder."""
    backbones = {
        "PT-v3m1": (objects.BACKBONE, 24),
        "PT-v3m2": (objects.BACKBONE.replace("PT-v3m1", "PT-v3m2"), 24),
        "PT-v3m3": (objects.BACKBONE.replace("PT-v3m1", "PT-v3m3").replace("(2, 4)", "(2, 2)"), 24),
        "SpUNet-v1m1": (repr({**objects.SPUNET, "in_channels": 6}), 16),
        "PointTransformer-Cls26": ("dict(type='PointTransformer-Cls26', in_channels=9, num_classes=16)", 16),
    }
    made = {}
    for name, (backbone, channels) in backbones.items():
        experiment = Experiment(name, Path(name), FAMILIES)
        plan = experiment.plan(config.read_text(objects.config(backbone, channels), "config.py"))
        made[name] = experiment.assemble(plan, objects.network(dict(plan.network)).state_dict(), CPU, "native")
    return made


SUMMING = ["PT-v3m1", "PT-v3m2", "PT-v3m3", "SpUNet-v1m1", "PointTransformer-Cls26"]


@pytest.mark.parametrize("name", SUMMING)
def test_bad_clouds_are_classified_or_refused(summing: dict[str, Model], name: str) -> None:
    model = summing[name]
    for points in (1, 2, 9, 700):
        cloud = cloud_of(points, cells=20)
        (answer,) = label(model, [cloud], [Wishes(task="classify")])
        assert isinstance(answer, Classification), answer
        assert np.isfinite(answer.scores).all()
    same = PointCloud(np.tile(cloud.coord[:1], (50, 1)), None, np.tile(np.float32([0, 0, 1]), (50, 1)))
    (answer,) = label(model, [same], [Wishes(task="classify")])
    assert isinstance(answer, Classification), answer
    recipe, model.recipe = model.recipe, dataclasses.replace(model.recipe, max_voxels=100)
    try:
        (large,) = label(model, [cloud], [Wishes(task="classify")])
    finally:
        model.recipe = recipe
    assert isinstance(large, UnusableCloud)
    assert "send one of at most 100 voxels" in large.detail


@pytest.mark.parametrize("name", ["PT-v3m2", "PT-v3m3", "PT-v3m1"])
def test_bad_clouds_have_features_or_are_refused(loaded: dict[str, Model], name: str) -> None:
    model = loaded[name]
    for points in (1, 2, 9, 700):
        (answer,) = label(model, [cloud_of(points)], [Wishes(task="embed")])
        assert isinstance(answer, Embedding), answer
        assert answer.feature.shape == (points, 36 if name == "PT-v3m3" else 48)
        assert np.isfinite(answer.feature).all()
    (refused,) = label(model, [cloud_of(50, color=False)], [Wishes(task="embed")])
    assert isinstance(refused, UnusableCloud)
    recipe, model.recipe = model.recipe, dataclasses.replace(model.recipe, max_voxels=200, overlap=2, align=4)
    try:
        (tiled,) = label(model, [cloud_of(700)], [Wishes(task="embed")])
    finally:
        model.recipe = recipe
    assert isinstance(tiled, Embedding)
    assert np.isfinite(tiled.feature).all()


def test_every_family_meets_bad_clouds(loaded: dict[str, Model], summing: dict[str, Model]) -> None:
    met = {str(model.card.about["segmentor"]) for model in (*loaded.values(), *summing.values())}
    met |= {model.card.family for model in (*loaded.values(), *summing.values())}
    # Other depths of the same network; trainings of which the encoders are served that are met; the bundled model's.
    same = {f"PointTransformer-{kind}{depth}" for kind in ("Seg", "Cls") for depth in (38, 50)}
    same |= {"Sonata-v1m1", "Sonata-v1m2", "Concerto-v1m1", "Utonia-v1m1", "InstanceSegmentor"}
    assert met | same == set(FAMILIES)


@pytest.mark.parametrize("name", families.SMALL)
def test_many_points_in_one_voxel_are_labelled(loaded: dict[str, Model], name: str) -> None:
    one = cloud_of(1)
    assert one.color is not None
    assert one.normal is not None
    many = PointCloud(np.tile(one.coord, (60, 1)), np.tile(one.color, (60, 1)), np.tile(one.normal, (60, 1)))
    assert len(set(labelled(loaded[name], many).label.tolist())) == 1


def test_a_network_with_another_number_of_classes_is_refused() -> None:
    values = config.read_text(experiments.config(repr({**families.SMALL["PG-v1m1"], "semantic_num_classes": 5})), "it")
    with pytest.raises(UnusableModel, match="and the network's num_classes is 5"):
        Experiment("pg", Path("pg"), FAMILIES).plan(values)
