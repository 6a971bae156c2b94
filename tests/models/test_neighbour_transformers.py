"""Point Transformer V1 and V2 against the numbers of Pointcept's own code, and the same for a cloud in any company."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial import cKDTree

from service.models.batch import Batch
from service.models.catalogue import FAMILIES
from service.models.layers.engine import engine
from service.models.site import Site
from tests.models import families, golden
from tests.models.clouds import cloud, together

pytest.importorskip("pointops", reason="libs/pointops is not built")
neighbourhood = pytest.importorskip("service.models.layers.neighbourhood")

CPU = torch.device("cpu")
CASES = ("ptv1_seg26", "ptv2m1_a", "ptv2m2_a", "ptv2m2_interp", "ptv2m3_a")
SMALL: dict[str, Any] = {**families.GROUPED, "in_channels": 3, "num_classes": 5}
V2 = {
    "PT-v2m1": {"pe_multiplier": True},
    "PT-v2m2": {"unpool_backend": "interp"},
    "PT-v2m3": {"norm_adaptive": False},
}


def site() -> Site:
    return Site(engine("native", CPU), FAMILIES)


def made(config: dict[str, Any], seed: int = 0) -> Any:
    """Return a network with random weights and statistics."""
    torch.manual_seed(seed)
    network = site().build(config)
    for name, value in network.state_dict().items():
        if name.endswith("running_var"):
            value.uniform_(0.8, 1.2)
        elif name.endswith("running_mean"):
            value.normal_(0, 0.1)
    return network.eval()


def small(kind: str, seed: int = 0) -> Any:
    if kind in V2:
        return made({"type": kind, **SMALL, **V2[kind]}, seed)
    return made({"type": kind, "in_channels": 3, "num_classes": 5}, seed)


def scattered(voxels: int, extent: int, seed: int) -> Batch:
    """Return a cloud with a point somewhere in each of some cells, told to be of S3DIS."""
    random = torch.Generator().manual_seed(seed + 1)
    made = cloud(voxels, extent, 3, seed)
    shift = (torch.rand(made.coord.shape, generator=random) - 0.5) * 0.018
    return replace(made, coord=made.coord + shift, condition="S3DIS")


@pytest.mark.parametrize("name", CASES)
@torch.inference_mode()
def test_weights_and_logits_are_pointcepts(shared: Path, name: str) -> None:
    case = golden.read(shared, name)
    network: Any = case.build(site())
    ours = [[key, list(value.shape), str(value.dtype)[6:]] for key, value in network.state_dict().items()]
    assert ours == case.about["state_dict"]
    whole = network(case.batch())
    alone = [golden.error(network(case.batch(i)), case.expected[case.rows(i)])[0] for i in range(case.clouds)]
    network.fold()
    folded = network(case.batch())
    errors = [golden.error(whole, case.expected)[0], max(alone), golden.error(folded, case.expected)[0]]
    print(json.dumps({"case": name, "together": errors[0], "alone": errors[1], "folded": errors[2]}))
    assert max(errors) < 1e-4
    assert golden.agreement(whole, case.expected) == golden.agreement(folded, case.expected) == 1


@given(
    st.sampled_from(["PointTransformer-Seg26", *V2]),
    st.lists(st.tuples(st.sampled_from([1, 2, 3, 5, 17, 60, 300]), st.integers(1, 40)), min_size=1, max_size=4),
    st.integers(0, 2**31),
)
@settings(max_examples=12, deadline=None)
@torch.inference_mode()
def test_any_cloud_gives_the_same_in_any_company(kind: str, clouds: list[tuple[int, int]], seed: int) -> None:
    network = small(kind, seed)
    batches = [scattered(voxels, extent, seed + i) for i, (voxels, extent) in enumerate(clouds)]
    expected = torch.cat([network(batch) for batch in batches])
    assert bool(torch.isfinite(expected).all())
    found = network(together(batches))
    assert float((found - expected).abs().max()) <= 1e-5 * max(1.0, float(expected.abs().max()))
    network.fold()
    assert torch.allclose(network(together(batches)), expected, atol=1e-4)


@pytest.mark.parametrize("kind", ["PointTransformer-Seg26", *V2])
@torch.inference_mode()
def test_parts_of_a_layer_change_nothing(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    network, batch = small(kind), scattered(300, 12, 0)
    expected = network(batch)
    monkeypatch.setattr(neighbourhood, "_MOST_NUMBERS", {"cpu": 4000})
    assert torch.allclose(network(batch), expected, atol=1e-5)


@pytest.mark.parametrize("k", [1, 4, 16])
def test_neighbours_are_those_that_scipy_finds(k: int) -> None:
    batches = [scattered(voxels, 20, voxels) for voxels in (3, 200)]
    points = neighbourhood.Points.of(together(batches))
    near, start = points.around(k), 0
    for batch in batches:
        coord = batch.coord.numpy().astype(np.float64)
        count = min(k, len(coord))
        _, expected = cKDTree(coord).query(coord, k=range(1, count + 1))
        rows = slice(start, start + len(coord))
        assert (near.index[rows, :count].numpy() == expected + start).all()
        position = near.position[rows]
        assert np.allclose(position[:, :count].numpy(), coord[expected] - coord[:, None], atol=1e-6)
        assert bool((position[:, count:] == 0).all())
        present = torch.ones(len(coord), k, 1, dtype=torch.bool) if near.present is None else near.present[rows]
        assert bool(present[:, :count].all()) and not bool(present[:, count:].any())
        start += len(coord)


def test_cells_are_counted_from_each_clouds_lowest_corner() -> None:
    coord = torch.tensor([[5.0, 1.0, 0.0], [5.19, 1.0, 0.0], [5.21, 1.0, 0.0], [-3.0, 0.0, 9.0], [-2.9, 0.0, 9.1]])
    batch = Batch(coord, torch.zeros(5, 3, dtype=torch.int32), torch.zeros(5, 1), torch.tensor([3, 5]))
    cells = neighbourhood.share_out(neighbourhood.Points.of(batch), 0.2)
    assert cells.cluster.tolist() == [0, 0, 1, 2, 2]
    assert cells.points.sizes == [2, 1]
    assert torch.allclose(cells.points.coord[0], torch.tensor([5.095, 1.0, 0.0]))
    assert cells.largest(torch.tensor([[1.0], [4.0], [2.0], [0.0], [-1.0]])).tolist() == [[4.0], [2.0], [0.0]]


# Counted by Pointcept's own classes.
@pytest.mark.parametrize(
    ("kind", "parameters"),
    [
        ("PointTransformer-Seg26", 4_854_280),
        ("PointTransformer-Seg38", 6_658_992),
        ("PointTransformer-Seg50", 7_767_864),
        ("PT-v2m1", 11_115_332),
        ("PT-v2m2", 11_323_660),
        ("PT-v2m3", 11_287_836),
    ],
)
@torch.inference_mode()
def test_the_full_size_builds_and_runs(kind: str, parameters: int) -> None:
    arguments: dict[str, Any] = {"norm_adaptive": False} if kind == "PT-v2m3" else {}
    network = made({"type": kind, "in_channels": 3, "num_classes": 20, **arguments})
    assert sum(parameter.numel() for parameter in network.parameters()) == parameters
    logits = network(scattered(300, 12, 0))
    assert logits.shape[1] == 20 and bool(torch.isfinite(logits).all())


@pytest.mark.parametrize(
    ("kind", "change", "said"),
    [
        ("PT-v2m1", {"enc_groups": [6]}, "enc_groups has 1 numbers; by enc_depths it must be 2"),
        ("PT-v2m2", {"enc_groups": [5, 12]}, "5 groups cannot share 24 channels"),
        ("PT-v2m2", {"grid_sizes": [0.06, 0.0]}, r"grid_sizes are \[0.06, 0.0\]; they must be positive"),
        ("PT-v2m2", {"unpool_backend": "mean"}, "unpool_backend is 'mean'; it must be map or interp"),
        ("PT-v2m2", {"depth": 3}, "PT-v2m2 cannot be built: .*depth"),
        ("PT-v2m3", {"depth": 3}, "PT-v2m3 cannot be built: .*depth"),
        ("PointTransformer-Seg38", {"depth": 3}, "PointTransformer-Seg38 cannot be built: .*"),
    ],
)
def test_configurations_that_do_not_fit_together_are_refused(kind: str, change: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        site().build({"type": kind, **SMALL, **change})


@torch.inference_mode()
def test_a_cloud_without_points_an_unknown_dataset_and_too_wide_a_cloud_are_refused() -> None:
    empty = replace(scattered(50, 9, 0), offset=torch.tensor([0, 50]))
    with pytest.raises(ValueError, match="A cloud without points has no neighbours"):
        small("PT-v2m2")(empty)
    with pytest.raises(ValueError, match="datasets ScanNet, S3DIS, Structured3D; condition is None"):
        small("PT-v2m3")(replace(scattered(50, 9, 0), condition=None))
    wide = scattered(50, 9, 0)
    wide = replace(wide, coord=wide.coord * 1e8)
    with pytest.raises(ValueError, match="more than can be numbered"):
        small("PT-v2m2")(wide)


def test_norms_may_be_one_for_all_datasets() -> None:
    network = made({"type": "PT-v2m3", **SMALL, "norm_decouple": False, "norm_adaptive": False})
    assert "patch_embed.proj_norm.bn.running_mean" in network.state_dict()
    with torch.inference_mode():
        assert len(network(replace(scattered(50, 9, 0), condition=None))) > 0


@pytest.mark.parametrize("kind", ["PT-v2m1", "PT-v2m3", "PointTransformer-Seg26", "PointTransformer-Cls26"])
def test_a_missing_library_is_said_when_the_network_is_built(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pointops", None)
    for name in [name for name in sys.modules if name.startswith("service.models.layers.")]:
        if name.rsplit(".", 1)[1] in ("neighbourhood", "grouped_attention") or ".vector_" in name:
            monkeypatch.delitem(sys.modules, name)
    with pytest.raises(ImportError, match="pointops"):
        site().build({"type": kind, "in_channels": 3, "num_classes": 2})


def test_a_configuration_without_a_grid_keeps_points_apart() -> None:
    from service.models import config, pipeline
    from tests.models import experiments

    text = experiments.config()
    start = text.index("voxelize=dict(")
    text = text[:start] + "voxelize=None,\n            " + text[text.index("crop=None", start) :]
    recipe, notes = pipeline.recipe(config.read_text(text, "config.py"), False, 6)
    assert recipe.grid_size == 0.01
    assert notes == ("The configuration has no grid: points in the same 1 cm count as one.",)


@pytest.mark.gpu
@pytest.mark.parametrize("name", CASES)
@torch.inference_mode()
def test_a_gpu_gives_the_same(shared: Path, cuda: torch.device, name: str) -> None:
    case = golden.read(shared, name)
    network: Any = case.build(Site(engine("native", cuda), FAMILIES)).to(cuda)
    batch = case.batch().to(cuda)
    plain = network(batch)
    network.fold()
    single = network(batch)
    half = network.half()(replace(batch, feat=batch.feat.half()))
    errors = [golden.error(logits, case.expected) for logits in (plain, single, half)]
    agreement = golden.agreement(half, case.expected)
    print(json.dumps({"case": name, "errors": errors, "half_agreement": agreement}))
    assert errors[0][0] < 1e-3
    assert errors[1][0] < 1e-3
    assert agreement > 0.97
