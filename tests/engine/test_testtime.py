"""tta=full against a slow tester written after Pointcept's procedure, and what must hold of its fragments."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from service.engine.labelling import Wishes, label
from service.engine.testtime import vote
from service.errors import DeadlineExceeded, MalformedRequest, ServiceError, UnusableCloud
from service.models import catalogue
from service.models.batch import Batch
from service.models.layers.engine import engine
from service.models.model import Model
from service.models.site import Site
from service.transforms import Recipe, fragments
from service.transforms.augment import Augmentation
from service.transforms.steps import CenterShift
from service.values import ClassInfo, ModelCard, PointCloud, Segmentation
from tests.transforms.clouds import coords, room
from tests.transforms.test_augment import CONFIGURED, theirs

CPU = torch.device("cpu")
FULL = Wishes(scores=True, tta="full")
AUGMENTATIONS = tuple(map(Augmentation.from_config, CONFIGURED))
SIZE = 0.05
CLASSES = tuple(ClassInfo(id, f"class {id}", (id, 0, 0)) for id in range(5))


def network_of(classes: int) -> Any:
    torch.manual_seed(3)
    backbone = {"type": "SpUNet-v1m1", "in_channels": 9, "num_classes": classes, "base_channels": 16}
    backbone |= {"channels": [16, 24, 24, 16], "layers": [1, 1, 1, 1]}
    network = Site(engine("native", CPU), catalogue.FAMILIES).build({"type": "DefaultSegmentor", "backbone": backbone})
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.mul_(1.6)  # as it is made, its answers hardly differ from point to point
    return network.eval()


def model_of(**recipe: Any) -> Model:
    made = Recipe(SIZE, ("coord", "color", "normal"), reduce="nearest", augmentations=AUGMENTATIONS)
    made = dataclasses.replace(made, before=(CenterShift(),), after=(CenterShift(apply_z=False),))
    made = dataclasses.replace(made, **recipe)
    card = ModelCard("small", "Small", "SpUNet-v1m1", CLASSES, made.features, SIZE, 0, "nowhere")
    return Model(network_of(5), card, made, engine("native", CPU), CPU)


def cloud_of(points: int, seed: int = 0) -> PointCloud:
    random = np.random.default_rng(seed)
    normal = random.normal(size=(points, 3)).astype(np.float32)
    color = random.integers(0, 256, (points, 3), dtype=np.uint8)
    return PointCloud(room(points, seed) + 3, color, normal / np.linalg.norm(normal, axis=1, keepdims=True))


def segment(model: Model, cloud: PointCloud, wishes: Wishes = FULL, **options: Any) -> Segmentation:
    (answer,) = label(model, [cloud], [wishes], **options)
    assert isinstance(answer, Segmentation), answer
    return answer


def _scores(answer: Segmentation) -> NDArray[np.float32]:
    assert answer.scores is not None
    return answer.scores


def pointcepts(cloud: PointCloud, network: Any, entries: list[Any]) -> tuple[NDArray[np.float64], int]:
    """Return each point's mean probabilities, as Pointcept's tester sums them, and the number of passes."""
    assert cloud.color is not None and cloud.normal is not None
    about = cloud.coord.astype(np.float32)
    about -= _zero(about)
    votes, passes = np.zeros((len(cloud), 5)), 0
    for entry in entries:
        coord, normal = theirs(entry, about.astype(np.float64), cloud.normal.astype(np.float64))
        if not any(step["type"] == "RandomRotateTargetAngle" for step in entry):
            coord = coord.astype(np.float32)  # scales and flips are in place there, a product with a matrix is not
        cell = np.floor(coord / np.array(SIZE)).astype(int)
        cell -= cell.min(axis=0)
        points_of: dict[tuple[int, ...], list[int]] = {}
        for point, where in enumerate(map(tuple, cell)):
            points_of.setdefault(where, []).append(point)
        for turn in range(max(map(len, points_of.values()))):
            rows = np.array([points[turn % len(points)] for points in points_of.values()])
            part = coord[rows].copy()
            part[:, :2] -= (part[:, :2].min(axis=0) + part[:, :2].max(axis=0)) / 2
            feat = np.concatenate([part, cloud.color[rows] / 255, normal[rows]], axis=1)
            tensors = (torch.from_numpy(array) for array in (part, cell[rows], feat))
            batch_coord, grid_coord, features = tensors
            with torch.inference_mode():
                logits = network(
                    Batch(batch_coord.float(), grid_coord.int(), features.float(), torch.tensor([len(rows)]))
                )
            votes[rows] += logits.double().softmax(dim=1).numpy()
            passes += 1
    return votes / votes.sum(axis=1, keepdims=True), passes


def test_labels_and_scores_are_the_testers() -> None:
    cloud, model = cloud_of(4000), model_of()
    wanted, passes = pointcepts(cloud, network_of(5), CONFIGURED)
    found = segment(model, cloud)
    assert passes > 3 * len(CONFIGURED), "the cloud is too thin to have fragments"
    assert len(np.unique(wanted.argmax(axis=1))) > 2, "the network says the same of every point"
    assert found.scores is not None
    np.testing.assert_allclose(found.scores, wanted, atol=1e-4)
    assert (found.label == wanted.argmax(axis=1)).mean() >= 0.999
    assert (found.label != segment(model, cloud, Wishes()).label).mean() > 0.001, "tta=none would have done"
    assert set(found.timing_ms) == {"prepare", "forward", "restore"}


def test_the_answer_is_the_same_to_the_bit_every_time_and_beside_other_clouds() -> None:
    model, cloud = model_of(), cloud_of(1500)
    first = segment(model, cloud)
    _, again, none = label(model, [cloud_of(700, 1), cloud, cloud], [FULL, FULL, Wishes()])
    assert isinstance(again, Segmentation) and isinstance(none, Segmentation)
    np.testing.assert_array_equal(_scores(first), _scores(again))
    assert none.scores is None


@given(coord=coords(largest=80), reduce=st.sampled_from(["nearest", "mean"]), max_voxels=st.sampled_from([8, 1000]))
@settings(max_examples=40, deadline=None)
def test_every_point_is_seen_under_every_augmentation(coord: NDArray[np.float64], reduce: Any, max_voxels: int) -> None:
    recipe = Recipe(0.1, ("coord",), reduce=reduce, augmentations=AUGMENTATIONS, max_voxels=max_voxels, overlap=1)
    scene = fragments.scene(PointCloud(coord), recipe, CPU)
    looks = list(scene.looks())
    assert len(looks) == len(AUGMENTATIONS)
    for look in looks:
        votes = torch.zeros(len(coord), 1)
        for part in look.parts:
            for fragment in range(look.fragments):
                seen, feat = look.input(part, fragment)
                assert torch.equal(seen, feat)
                assert len(torch.unique(look.grid_coord(part), dim=0)) == len(seen) == len(part.rows)
                look.vote(votes, part, fragment, torch.ones(len(seen), 1))
        assert bool((votes > 0).all())
        assert look.fragments == (1 if reduce == "mean" else int(look.cells.count.max()))


def test_a_cloud_too_large_for_one_pass_is_looked_at_in_tiles() -> None:
    cloud = cloud_of(3000)
    whole, tiled = segment(model_of(), cloud), segment(model_of(max_voxels=400, overlap=8), cloud)
    assert whole.scores is not None and tiled.scores is not None
    np.testing.assert_allclose(tiled.scores.sum(axis=1), 1, atol=1e-5)
    assert np.abs(whole.scores - tiled.scores).mean() < 0.02


def test_a_thin_size_lets_one_point_a_cell_speak_for_the_others() -> None:
    cloud = cloud_of(2000)
    model = model_of(thin_size=SIZE / 2)
    scene = fragments.scene(cloud, model.recipe, CPU)
    assert len(scene.points) < len(cloud)
    found = segment(model, cloud)
    assert found.scores is not None
    about = cloud.coord.astype(np.float32)
    cells = np.floor((about - _zero(about)) / np.float32(SIZE / 2))
    fine = np.unique(cells, axis=0, return_inverse=True)[1].reshape(-1)
    for cell in range(50):
        assert len(np.unique(found.scores[fine == cell], axis=0)) == 1
    speakers = scene.prepared.inverse.numpy()
    assert len(np.unique(fine[np.unique(speakers, return_index=True)[1]])) == len(scene.points)


def _zero(coord: NDArray[np.floating]) -> NDArray[np.floating]:
    low, high = coord.min(axis=0), coord.max(axis=0)
    return np.array([(low[0] + high[0]) / 2, (low[1] + high[1]) / 2, low[2]], dtype=coord.dtype)


def test_a_crowded_voxel_does_not_cost_a_pass_a_point() -> None:
    cloud = cloud_of(3000)
    cloud.coord[:1000] = cloud.coord[0]
    scene = fragments.scene(cloud, model_of().recipe, CPU)
    assert max(look.fragments for look in scene.looks()) < 40
    (sentence,) = scene.prepared.warnings
    assert sentence.startswith("A voxel has 10") and "one point for each cell of 0.0125 m" in sentence


def test_a_recipe_of_means_is_looked_at_once_an_augmentation() -> None:
    model = model_of(reduce="mean", features=("coord", "color", "normal"))
    passes: list[float] = []
    found = segment(model, cloud_of(2000), tick=passes.append)
    assert len(passes) == len(AUGMENTATIONS)
    assert found.scores is not None
    np.testing.assert_allclose(found.scores.sum(axis=1), 1, atol=1e-5)


def test_points_without_a_place_are_ignored() -> None:
    cloud = cloud_of(500)
    cloud.coord[7] = np.nan
    found = segment(model_of(), cloud)
    assert found.label[7] == -1
    assert (np.delete(found.label, 7) >= 0).all()
    assert found.warnings[0].startswith("1 of 500 points")


def test_the_clock_ticks_and_its_error_ends_the_work() -> None:
    ticks: list[float] = []
    model = model_of()
    segment(model, cloud_of(1000), tick=ticks.append)
    assert ticks == sorted(ticks)
    assert (ticks[0], len(ticks) >= len(AUGMENTATIONS), ticks[-1] < 1) == (0, True, True)

    def late(done: float) -> None:
        if done > 0.5:
            raise DeadlineExceeded("too late")

    answers = label(model, [cloud_of(1000), cloud_of(100)], [FULL, Wishes()], tick=late)
    assert [type(answer) for answer in answers] == [DeadlineExceeded, Segmentation]


def test_a_device_without_room_gets_fewer_fragments_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    model, cloud = model_of(), cloud_of(1500)
    expected, sizes = segment(model, cloud), []
    forward = model.forward

    def small(batch: Batch) -> torch.Tensor:
        sizes.append(len(batch))
        if len(batch) > 2:
            raise torch.cuda.OutOfMemoryError("no room")
        return forward(batch)

    monkeypatch.setattr(model, "forward", small)
    found = segment(model, cloud)
    assert max(sizes) > 2
    assert sum(size > 2 for size in sizes) < 4, "the limit was forgotten"
    np.testing.assert_array_equal(_scores(found), _scores(expected))


def test_what_cannot_be_is_refused() -> None:
    def refusal(model: Model, wishes: Wishes, cloud: PointCloud) -> ServiceError:
        (answer,) = label(model, [cloud], [wishes])
        assert isinstance(answer, ServiceError)
        return answer

    plain = refusal(model_of(augmentations=()), FULL, cloud_of(10))
    assert isinstance(plain, MalformedRequest)
    assert plain.detail == "the model small has no test-time augmentations: use tta=none"
    other = refusal(model_of(), Wishes(tta="half"), cloud_of(10))
    assert isinstance(other, MalformedRequest) and "'half' is unknown: use none or full" in other.detail
    colourless = refusal(model_of(), FULL, PointCloud(room(10), normal=np.ones((10, 3), np.float32)))
    assert isinstance(colourless, UnusableCloud) and "needs colours" in colourless.detail
    wide = cloud_of(10)
    wide.coord[0] = 1e9
    assert isinstance(refusal(model_of(), FULL, wide), UnusableCloud)


def test_votes_are_means_of_probabilities() -> None:
    model = model_of()
    scene = fragments.scene(cloud_of(300), model.recipe, CPU)
    votes = vote(model, scene, lambda done: None)
    assert votes.shape == (300, 5)
    assert torch.allclose(votes.sum(dim=1), torch.ones(300), atol=1e-5)
