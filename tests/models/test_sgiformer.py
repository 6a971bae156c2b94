"""SGIFormer against Pointcept's own code, alone and in company; clouds with and without superpoints."""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from service.engine.labelling import Wishes, label
from service.errors import UnusableCloud, UnusableModel
from service.models import config
from service.models.batch import Batch
from service.models.catalogue import FAMILIES
from service.models.experiment import Experiment
from service.models.model import Model
from service.models.sgiformer import SGIFormer
from service.transforms.masks import Choice, Masks
from service.values import PointCloud, Segmentation
from tests.models import experiments, families
from tests.models.clouds import cloud, together

CLASSES = 4
DECODER: dict[str, Any] = {
    "num_classes": CLASSES,
    "in_channel": 8,
    "dec_num_layer": 3,
    "num_sample_query": 12,
    "num_learn_query": 9,
    "d_model": 32,
    "nhead": 4,
    "hidden_dim": 48,
    "dropout": 0.1,
    "activation_fn": "gelu",
}
HEAD: dict[str, Any] = {"topk_insts": 40, "npoint_thr": 5, "semantic_num_classes": CLASSES}
CRITERIA = {
    "matcher": {"type": "HungarianMatcher", "costs": []},
    "loss_weight": [1.0] * 6,
    "num_classes": CLASSES,
    "non_object_weight": 0.1,
    "fix_dice_loss_weight": False,
    "iter_matcher": True,
}


class Linear(nn.Module):
    """A backbone of one layer, for Pointcept's and for ours."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(6, 8)

    def forward(self, batch: Any) -> Any:
        """Return features of our batch, or Pointcept's point with them."""
        if isinstance(batch, Batch):
            return self.layer(batch.feat)
        cells = {"coord": batch["coord"], "offset": batch["offset"], "superpoint": batch["superpoint"]}
        sizes = torch.diff(batch["offset"], prepend=torch.zeros(1, dtype=torch.int64))
        rows = torch.repeat_interleave(torch.arange(len(sizes)), sizes)
        return Point(**cells, batch=rows, feat=self.layer(batch["feat"]))


class Point(dict[str, Any]):
    """What stands for Pointcept's point: a dict whose entries are attributes too."""

    __getattr__ = dict.__getitem__
    __setattr__ = dict.__setitem__  # type: ignore[assignment]


def scatter(src: torch.Tensor, index: torch.Tensor, dim: int = 0, reduce: str = "sum") -> torch.Tensor:
    """Do what torch_scatter's function of that name does along the first axis."""
    assert dim == 0
    wide = index.view(-1, *[1] * (src.ndim - 1)).expand_as(src)
    empty = src.new_zeros(int(index.max()) + 1, *src.shape[1:])
    return empty.scatter_reduce(0, wide, src, {"max": "amax"}.get(reduce, reduce), include_self=False)


@pytest.fixture(scope="module")
def theirs(pointcept: Path) -> Iterator[Any]:
    """Pointcept's own module of this network; what it imports besides is stood in for."""
    before = {
        name: module for name, module in sys.modules.items() if name.split(".")[0] in ("pointcept", "torch_scatter")
    }
    for name in ("pointcept", "pointcept.models", "pointcept.models.sgiformer", "pointcept.models.utils"):
        package = ModuleType(name)
        package.__path__ = [str(pointcept / name.replace(".", "/"))]
        sys.modules[name] = package
    sys.modules["pointcept.utils"] = utils = ModuleType("pointcept.utils")
    utils.__path__ = [str(pointcept / "pointcept" / "utils")]
    stand_ins = {"torch_scatter": {"scatter": scatter}, "pointcept.models.utils.structure": {"Point": Point}}
    for name, values in stand_ins.items():
        made = ModuleType(name)
        vars(made).update(values)
        sys.modules[name] = made
    yield importlib.import_module("pointcept.models.sgiformer.sgiformer_v1m1_base")
    for name in [name for name in sys.modules if name.split(".")[0] in ("pointcept", "torch_scatter")]:
        del sys.modules[name]
    sys.modules.update(before)


def pair(module: Any, seed: int, head: dict[str, Any], decoder: dict[str, Any]) -> tuple[SGIFormer, Any]:
    """Return our network and Pointcept's, with the same random weights."""
    torch.manual_seed(seed)
    ours = SGIFormer(Linear(), {**DECODER, **decoder}, **{**HEAD, **head}).eval()
    module.build_model = lambda _: Linear()
    other = module.SGIFormer({}, {**DECODER, **decoder}, CRITERIA, **{**HEAD, **head}).eval()
    for key, value in ours.state_dict().items():
        if key.endswith("running_var"):
            value.uniform_(0.5, 1.5)
        elif value.is_floating_point() and "norm" not in key:
            value.copy_(torch.randn(value.shape) * (1.5 / value.shape[-1] ** 0.5 if value.ndim > 1 else 0.3))
    theirs = other.state_dict()
    assert [(key, value.shape) for key, value in ours.state_dict().items()] == [
        (key, value.shape) for key, value in theirs.items()
    ]
    other.load_state_dict(ours.state_dict(), strict=True)
    return ours, other


def patched(batch: Batch, patches: int, seed: int) -> Batch:
    """Return the cloud with patches: the voxels nearest to each of some."""
    random = torch.Generator().manual_seed(seed)
    centres = batch.coord[torch.randperm(len(batch.coord), generator=random)[:patches]]
    own = torch.cdist(batch.coord, centres).argmin(dim=1)
    return replace(batch, superpoint=torch.unique(own, return_inverse=True)[1])


def join(batches: list[Batch]) -> Batch:
    """Return all clouds of several batches in one."""
    return replace(together(batches), superpoint=torch.cat([batch.superpoint for batch in batches]))  # type: ignore[misc]


HEADS: list[dict[str, Any]] = [{}, {"nms": False}, {"score_thr": 0.05, "sp_score_thr": 0.4, "topk_insts": 7}]
DECODERS: list[dict[str, Any]] = [
    {},
    {"activation_fn": "relu", "attn_mask": False, "use_score": True, "dec_num_layer": 1},
    {"alpha": 0.9, "dec_num_layer": 2, "use_score": True},
]


@torch.inference_mode()
@pytest.mark.parametrize("decoder", DECODERS)
@pytest.mark.parametrize("head", HEADS)
def test_names_logits_and_objects_are_pointcepts(theirs: Any, head: dict[str, Any], decoder: dict[str, Any]) -> None:
    furthest, objects = 0.0, 0
    for seed, (voxels, patches) in enumerate([(600, 40), (80, 80), (900, 7), (30, 2)]):
        ours, other = pair(theirs, seed, head, decoder)
        batch = patched(cloud(voxels, 14, 6, seed), patches, seed)
        assert batch.superpoint is not None
        point = {"coord": batch.coord, "feat": batch.feat, "offset": batch.offset, "superpoint": batch.superpoint}
        told: dict[str, Any] = {}
        other.decoder.register_forward_hook(lambda _module, _inputs, found, told=told: told.update(found))
        wanted = other(point)
        for folded in (False, True):
            if folded:
                ours.fold()
            found = ours.decoder(ours.backbone(batch), batch.coord, batch.superpoint)
            for one, another in (
                (found.point_logits, told["seg_logits"]),
                (found.logits, told["cls_list"][0]),
                (found.masks, told["mask_list"][0]),
            ):
                furthest = max(furthest, float((one - another).abs().max() / another.std()))
            choice = ours.grouping.choose(found.logits, found.masks, found.quality, torch.bincount(batch.superpoint))
            np.testing.assert_allclose(choice.score, wanted["pred_scores"], atol=1e-5)
            masks = choice.mask[:, batch.superpoint].numpy()
            assert marked(choice.label.tolist(), masks) == marked(wanted["pred_classes"].tolist(), wanted["pred_masks"])
        objects += len(choice.score)
    print(json.dumps({"head": head, "decoder": decoder, "furthest": f"{furthest:.1e}", "objects": objects}))
    assert furthest < 1e-4
    assert objects > 0


def marked(labels: list[int], masks: Any) -> list[tuple[int, bytes]]:
    """Return classes and masks in an order of their own: scores that are equal but for rounding change places."""
    return sorted((label, mask.tobytes()) for label, mask in zip(labels, masks, strict=True))


@given(
    clouds=st.lists(st.tuples(st.sampled_from([1, 2, 5, 60, 300]), st.integers(1, 40)), min_size=2, max_size=3),
    seed=st.integers(0, 1000),
)
@settings(max_examples=10, deadline=None)
@torch.inference_mode()
def test_any_cloud_gives_the_same_in_any_company(clouds: list[tuple[int, int]], seed: int) -> None:
    torch.manual_seed(seed)
    network = SGIFormer(Linear(), {**DECODER, "use_score": True}, **HEAD).eval()
    batches = [patched(cloud(voxels, 12, 6, seed + i), patches, i) for i, (voxels, patches) in enumerate(clouds)]
    alone = torch.cat([network(batch) for batch in batches])
    assert bool(torch.isfinite(alone).all())
    parts = [batch.superpoint for batch in batches if batch.superpoint is not None]
    company = network(replace(together(batches), superpoint=torch.cat(parts)))
    assert torch.allclose(company, alone, atol=1e-5)
    assert torch.equal(company, network(replace(together(batches), superpoint=torch.cat(parts))))


@pytest.mark.gpu
@torch.inference_mode()
def test_a_gpu_gives_the_same(cuda: torch.device) -> None:
    torch.manual_seed(0)
    network = SGIFormer(Linear(), {**DECODER, "use_score": True}, **HEAD).eval()
    batches = [patched(cloud(voxels, 12, 6, seed), 30, seed) for seed, voxels in enumerate((300, 500))]
    parts = [batch.superpoint for batch in batches if batch.superpoint is not None]
    batch = replace(together(batches), superpoint=torch.cat(parts))
    expected = network(batch)
    network.to(cuda)
    found = network(batch.to(cuda)).cpu()
    half = network.half()(batch.to(cuda, torch.float16)).cpu()
    furthest = float((found - expected)[:, :CLASSES].abs().max() / expected[:, :CLASSES].std())
    same = float((found[:, CLASSES + 1] == expected[:, CLASSES + 1]).float().mean())
    print(json.dumps({"furthest": f"{furthest:.1e}", "same object": same}))
    assert furthest < 1e-3
    assert same > 0.99
    assert bool(torch.isfinite(half).all())


def test_a_superpoint_goes_to_its_surest_mask_and_masks_that_lose_most_are_left_out() -> None:
    rows = [
        ([1, 1, 0, 0, 0], 1, 0.9),
        ([0, 1, 1, 0, 0], 0, 0.8),  # half of its voxels are taken: it keeps the rest
        ([1, 1, 0, 1, 0], 2, 0.7),  # two thirds are taken
    ]
    choice = Choice(
        torch.tensor([score for _, _, score in rows]),
        torch.tensor([label for _, label, _ in rows]),
        torch.tensor([mask for mask, _, _ in rows], dtype=torch.bool),
    )
    network = SGIFormer(Linear(), DECODER, **HEAD)
    voxels = torch.tensor([10, 10, 10, 10, 10])
    told = network.grouping.settle(choice, voxels)
    assert told[:, 0].tolist() == [0, 0, 1, -1, -1]
    assert told[:, 1].tolist() == [1, 1, 0, -1, -1]
    raw = told[torch.tensor([0, 1, 2, 2, 3, 4])]
    points = torch.tensor([1, 1, 4, 1, 9, 9])
    own, made = network.grouping.objects(raw, raw, raw, points)
    assert own.tolist() == [1, 1, 0, 0, -1, -1]
    assert [(one.class_index, round(one.score, 3), one.points) for one in made] == [(0, 0.8, 5), (1, 0.9, 2)]
    none = network.grouping.settle(Choice(choice.score[:0], choice.label[:0], choice.mask[:0]), voxels)
    own, made = network.grouping.objects(none, none, none, voxels)
    assert own.tolist() == [-1] * 5
    assert made == []


@pytest.fixture(scope="module")
def model() -> Model:
    """A model that tells objects of two classes."""
    return assembled({})


def assembled(change: dict[str, Any]) -> Model:
    """Return the model of a configuration and random weights."""
    values = config.read_text(experiments.config(repr({**families.SMALL["SGIFormer-v1m1"], **change})), "config.py")
    experiment = Experiment("objects", Path("objects"), FAMILIES)
    plan = experiment.plan(values)
    weights = families.network("SGIFormer-v1m1", **change).state_dict()
    return experiment.assemble(plan, weights, torch.device("cpu"), "native")


def scan(points: int = 2000, superpoint: Any = None) -> PointCloud:
    """Return a floor and a wall."""
    random = np.random.default_rng(0)
    coord = random.uniform(0, 0.6, (points, 3))
    half = points // 2
    coord[:half, 2] = coord[half:, 1] = 0.01
    normal = np.repeat(np.array([[0, 0, 1], [0, 1, 0]], np.float32), [half, points - half], axis=0)
    return PointCloud(coord, random.integers(0, 256, coord.shape).astype(np.uint8), normal, superpoint=superpoint)


def answer(model: Model, cloud: PointCloud) -> Any:
    """Return the answer to one cloud."""
    (found,) = label(model, [cloud], [Wishes(scores=True, confidence=True)])
    return found


def test_points_have_the_class_of_their_object_and_others_none(model: Model) -> None:
    patches = np.arange(2000) // 100
    found = answer(model, scan(superpoint=patches))
    assert isinstance(found, Segmentation)
    assert [info.name for info in found.classes] == ["floor", "cabinet", "no object"]
    assert found.instance is not None
    assert found.scores is not None
    assert found.confidence is not None
    assert len(found.instances) > 0
    assert found.warnings == ()
    np.testing.assert_allclose(found.scores.sum(axis=1), 1, atol=1e-5)
    np.testing.assert_array_equal(found.confidence, found.scores[np.arange(2000), found.label])
    for one in found.instances:
        own = found.instance == one.id
        assert int(own.sum()) == one.points
        assert set(found.label[own].tolist()) == {one.class_id}
        assert 0 <= one.score <= 1
    none = found.instance == -1
    assert set(found.label[none].tolist()) <= {2}
    assert np.all(found.scores[none, 2] > 0.999)
    sizes = [one.points for one in found.instances]
    assert sizes == sorted(sizes, reverse=True)


def test_superpoints_decide_and_their_numbers_do_not(model: Model) -> None:
    patches = np.arange(2000) // 100
    given_ = answer(model, scan(superpoint=patches))
    other = answer(model, scan(superpoint=(7 * patches.astype(np.float32) - 30)))
    np.testing.assert_array_equal(given_.instance, other.instance)
    made = answer(model, scan())
    assert "superpoints were made of neighbouring points" in " ".join(made.warnings)
    again = answer(model, scan())
    np.testing.assert_array_equal(made.instance, again.instance)


@pytest.mark.parametrize(
    ("values", "said"),
    [
        (np.where(np.arange(2000) == 5, 0.5, 1.0), "The field superpoint holds 0.5, first at valid point 5"),
        (np.where(np.arange(2000) == 9, np.nan, 1.0), "The field superpoint holds nan, first at valid point 9"),
    ],
)
def test_superpoints_that_are_no_whole_numbers_are_refused(model: Model, values: Any, said: str) -> None:
    found = answer(model, scan(superpoint=values))
    assert isinstance(found, UnusableCloud)
    assert said in found.detail


def test_classes_that_do_not_add_up_are_refused() -> None:
    with pytest.raises(UnusableModel, match=r"names 3 classes .*, of which 3 are not in segment_ignore_index, and"):
        assembled({"segment_ignore_index": [-1]})
    with pytest.raises(UnusableModel, match="semantic_num_classes is 2 and its decoder's num_classes 3; they must be"):
        assembled({"decoder": {**families.SMALL["SGIFormer-v1m1"]["decoder"], "num_classes": 3}})
    with pytest.raises(UnusableModel, match="d_model is 24; it must be even and a multiple of nhead, 5"):
        assembled({"decoder": {**families.SMALL["SGIFormer-v1m1"]["decoder"], "nhead": 5}})
    with pytest.raises(UnusableModel, match="alpha is 2; a share"):
        assembled({"decoder": {**families.SMALL["SGIFormer-v1m1"]["decoder"], "alpha": 2}})


def test_classes_without_names_are_numbered() -> None:
    text = experiments.config(repr(families.SMALL["SGIFormer-v1m1"])).replace(
        "    names=['wall', 'floor', 'cabinet'],", ""
    )
    plan = Experiment("objects", Path("objects"), FAMILIES).plan(config.read_text(text, "config.py"))
    assert [info.name for info in plan.card.classes] == ["class 0", "class 1", "no object"]


def test_a_batch_without_superpoints_is_refused() -> None:
    with pytest.raises(ValueError, match="its network reads superpoints, and the batch has none"):
        SGIFormer(Linear(), DECODER, **HEAD).eval()(cloud(20, 5, 6, 0))


@pytest.mark.parametrize("copies", [2, 3])
def test_masks_that_are_the_same_leave_one_object_and_take_none_with_them(copies: int) -> None:
    """Their overlap comes out as 1 and a little more, or as 1, by rounding."""
    rules = Masks(most=20, least_score=0.0, least_voxels=1, least_share=0.5, suppress=True)
    voxels = torch.full((60,), 10)
    for seed in range(40):
        random = torch.Generator().manual_seed(seed)
        one = torch.where(torch.arange(60) < 20, 15 + 2 * torch.rand(60, generator=random), torch.tensor(-40.0))
        other = torch.where(torch.arange(60) >= 40, 16.0, -40.0)
        masks = torch.stack([one] * copies + [other])
        logits = torch.tensor([[4.0, 0.0]] * copies + [[3.0, 0.0]])
        found = rules.choose(logits, masks, None, voxels)
        assert bool(torch.isfinite(found.score).all()) and bool((found.score <= 1).all())
        told = rules.settle(found, voxels)[:, 0]
        assert len(told[:20].unique()) == 1 and len(told[40:].unique()) == 1
        assert told[0] >= 0 and told[50] >= 0 and bool((told[20:40] < 0).all())
