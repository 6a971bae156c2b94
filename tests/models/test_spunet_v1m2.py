"""SpUNet-v1m2 against the numbers of Pointcept's own code, and the same for a cloud in any company."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from service.models.catalogue import FAMILIES
from service.models.layers.engine import Engine, engine
from service.models.site import Site
from service.models.spunet_v1m2 import SpUNetV1m2
from tests.models import golden
from tests.models.clouds import cloud, together

CPU = torch.device("cpu")
CASE = "spunet_v1m2_a"


def test_names_shapes_and_order_of_the_weights_are_pointcepts(shared: Path, native: Engine) -> None:
    case = golden.read(shared, CASE)
    network = case.build(Site(native, FAMILIES))
    ours = [[key, list(value.shape), str(value.dtype)[6:]] for key, value in network.state_dict().items()]
    assert ours == case.about["state_dict"]


@torch.inference_mode()
def test_logits_are_pointcepts(shared: Path, either_engine: Engine) -> None:
    case = golden.read(shared, CASE)
    network: Any = case.build(Site(either_engine, FAMILIES))
    ours = network(case.batch())
    assert golden.error(ours, case.expected)[0] < 1e-4
    assert golden.agreement(ours, case.expected) > 0.9999
    for i in range(case.clouds):
        assert golden.error(network(case.batch(i)), case.expected[case.rows(i)])[0] < 1e-4
    if either_engine.folds:
        network.fold()
        assert golden.error(network(case.batch()), case.expected)[0] < 1e-4


def small(stages: int, seed: int = 0) -> Any:
    """Return a small network of random weights."""
    torch.manual_seed(seed)
    channels = [8] * (2 * stages)
    return SpUNetV1m2(engine("native", CPU), 3, 5, 8, channels, [1] * (2 * stages)).eval()


@given(
    st.lists(st.tuples(st.sampled_from([1, 2, 3, 60, 300]), st.integers(1, 40)), min_size=1, max_size=4),
    st.integers(0, 2**31),
)
@settings(max_examples=15, deadline=None)
@torch.inference_mode()
def test_any_cloud_gives_the_same_in_any_company(clouds: list[tuple[int, int]], seed: int) -> None:
    network = small(4, seed)
    batches = [cloud(voxels, extent, 3, seed + i) for i, (voxels, extent) in enumerate(clouds)]
    expected = torch.cat([network(batch) for batch in batches])
    assert bool(torch.isfinite(expected).all())
    assert torch.equal(network(together(batches)), expected)
    batch = together(batches)
    assert torch.equal(network(batch), network(batch.with_features(batch.coord, batch.feat)))


@pytest.mark.parametrize(
    ("top", "extent"),
    [
        ((36, 24, 18), [37, 25, 19]),
        ((15, 15, 15), [16, 16, 16]),
        ((28, 19, 14), [32, 24, 16]),
        ((0, 0, 0), [16, 16, 16]),
        ((100, 3, 16), [104, 16, 24]),
    ],
)
def test_the_grid_ends_at_the_largest_cell_if_no_level_runs_out_of_cells(
    top: tuple[int, int, int], extent: list[int]
) -> None:
    assert small(4).shape(torch.tensor([[0, 0, 0], top], dtype=torch.int32)) == extent


@torch.inference_mode()
def test_the_full_size_builds() -> None:
    network = Site(engine("native", CPU), FAMILIES).build({"type": "SpUNet-v1m2", "in_channels": 6, "num_classes": 20})
    parameters = sum(parameter.numel() for parameter in network.parameters())
    print(json.dumps({"SpUNet-v1m2": parameters}))
    assert parameters == 39_157_844
    batch = cloud(2000, 40, 6, 0)
    assert network.eval()(batch).shape == (len(batch.coord), 20)


@pytest.mark.gpu
@torch.inference_mode()
@pytest.mark.parametrize("engine_name", ["spconv", "native"])
def test_a_gpu_gives_the_same(shared: Path, cuda: torch.device, engine_name: Any) -> None:
    if engine_name == "spconv":
        pytest.importorskip("spconv", reason="spconv is not installed")
    case = golden.read(shared, CASE)
    network: Any = case.build(Site(engine(engine_name, cuda), FAMILIES)).to(cuda)
    batch = case.batch().to(cuda)
    plain = network(batch)
    network.fold()
    single = network(batch)
    half = network.half()(replace(batch, feat=batch.feat.half()))
    errors = [golden.error(logits, case.expected) for logits in (plain, single, half)]
    agreement = golden.agreement(half, case.expected)
    print(json.dumps({"case": CASE, "engine": engine_name, "errors": errors, "half_agreement": agreement}))
    assert errors[0][0] < 1e-3
    assert errors[1][0] < 1e-3
    assert agreement > 0.97
