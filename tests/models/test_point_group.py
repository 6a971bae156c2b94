"""PointGroup against the numbers and the proposals of Pointcept's own code."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from service.models.catalogue import FAMILIES
from service.models.layers.engine import engine
from service.models.site import Site
from service.transforms import grouping
from tests.models import golden

CASE = "pg_v1m1_a"
CLASSES = 5


def built(shared: Path) -> tuple[golden.Case, Any]:
    """Return the case and its network."""
    case = golden.read(shared, CASE)
    return case, case.build(Site(engine("native", torch.device("cpu")), FAMILIES))


def test_names_shapes_and_order_of_the_weights_are_pointcepts(shared: Path) -> None:
    case, network = built(shared)
    ours = [[key, list(value.shape), str(value.dtype)[6:]] for key, value in network.state_dict().items()]
    assert ours == case.about["state_dict"]


@torch.inference_mode()
@pytest.mark.parametrize("folded", [False, True])
def test_logits_votes_and_proposals_are_pointcepts(shared: Path, folded: bool) -> None:
    case, network = built(shared)
    if folded:
        network.fold()
    found = network(case.batch())
    logits, way = found[:, :CLASSES], found[:, CLASSES:]
    errors = golden.error(logits, case.expected)[0], golden.error(way, case.arrays["bias_pred"])[0]
    assert max(errors) < 1e-4
    assert golden.agreement(logits, case.expected) > 0.9999
    masks, kinds, scores = (case.arrays[f"pred_{name}"] for name in ("masks", "classes", "scores"))
    seen = 0
    for i in range(case.clouds):
        rows = case.rows(i)
        coord = torch.from_numpy(case.arrays["coord"][rows])
        alone = network(case.batch(i))
        assert golden.error(alone[:, :CLASSES], case.expected[rows])[0] < 1e-4
        points = torch.ones(len(coord), dtype=torch.int64)
        own, made = grouping.objects(coord, way[rows], logits[rows].softmax(dim=1), points, network.grouping)
        theirs = {
            tuple(np.flatnonzero(mask[rows]).tolist()): (int(kind), float(score))
            for mask, kind, score in zip(masks, kinds, scores, strict=True)
            if mask[rows].any()
        }
        ours = {
            tuple((own == number).nonzero().squeeze(1).tolist()): (one.class_index, one.score)
            for number, one in enumerate(made)
        }
        assert ours.keys() == theirs.keys()
        for key, (kind, score) in ours.items():
            assert kind == theirs[key][0]
            assert score == pytest.approx(theirs[key][1], abs=1e-5)
        seen += len(ours)
    print(json.dumps({"case": CASE, "logits, votes": [f"{error:.1e}" for error in errors], "objects": seen}))
    assert seen == len(masks)


@pytest.mark.gpu
@torch.inference_mode()
@pytest.mark.parametrize("engine_name", ["spconv", "native"])
def test_a_gpu_gives_the_same(shared: Path, cuda: torch.device, engine_name: Any) -> None:
    if engine_name == "spconv":
        pytest.importorskip("spconv", reason="spconv is not installed")
    case = golden.read(shared, CASE)
    network: Any = case.build(Site(engine(engine_name, cuda), FAMILIES)).to(cuda)
    batch = case.batch().to(cuda)
    network.fold()
    single = network(batch)
    half = network.half()(replace(batch, feat=batch.feat.half()))
    votes = golden.error(single[:, CLASSES:], case.arrays["bias_pred"])
    logits = golden.error(single[:, :CLASSES], case.expected)
    agreement = golden.agreement(half[:, :CLASSES], case.expected)
    about = {"logits": logits, "votes": votes, "half": golden.error(half[:, :CLASSES], case.expected)}
    print(json.dumps({"case": CASE, "engine": engine_name, **about, "half_agreement": agreement}))
    assert max(votes[0], logits[0]) < 1e-3
    assert golden.agreement(single[:, :CLASSES], case.expected) > 0.9999
    assert agreement > 0.97
    for i in range(case.clouds):  # the objects of each cloud, made on the GPU
        rows = case.rows(i)
        coord = batch.coord[rows]
        found = single[rows]
        points = torch.ones(len(coord), dtype=torch.int64, device=cuda)
        softmax = found[:, :CLASSES].float().softmax(dim=1)
        own, _ = grouping.objects(coord, found[:, CLASSES:], softmax, points, network.grouping)
        theirs = {tuple(torch.from_numpy(mask[rows]).nonzero()[:, 0].tolist()) for mask in case.arrays["pred_masks"]}
        ours = {tuple((own == number).nonzero()[:, 0].tolist()) for number in own.unique().tolist() if number >= 0}
        assert ours == theirs - {()}
