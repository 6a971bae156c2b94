"""Sparse convolution layers of both engines against spconv's numbers and against dense convolutions."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from service.models.layers import kernel_map
from service.models.layers.engine import Engine, engine
from service.models.layers.fold import fold
from service.models.layers.native import NativeEngine
from service.models.layers.team import Team
from tests.models import golden

CPU = torch.device("cpu")


def cells(count: int, extent: int, clouds: int = 1, seed: int = 0) -> torch.Tensor:
    """Return distinct random cells (cloud, x, y, z) in random order."""
    random = torch.Generator().manual_seed(seed)
    rows = torch.randint(0, extent, (count, 4), generator=random)
    rows[:, 0] %= clouds
    rows = torch.unique(rows, dim=0)
    return rows[torch.randperm(len(rows), generator=random)].int()


def call(case: golden.Case, index: int) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    """Return one call of an op fixture and its arrays by their short names."""
    about = case.about["calls"][index]
    return about, {name.split(".", 1)[1]: torch.from_numpy(case.arrays[name]) for name in about["arrays"]}


@torch.inference_mode()
@pytest.mark.parametrize("index", [0, 1, 2])
def test_submanifold_convolution_is_spconvs(shared: Path, native: Engine, index: int) -> None:
    about, arrays = call(golden.read(shared, "ops_spconv"), index)
    layer = native.subm_conv(about["in_channels"], about["out_channels"], about["kernel_size"], bias=True)
    layer.load_state_dict({"weight": arrays["weight"], "bias": arrays["bias"]}, strict=True)
    x = native.tensor(arrays["features"], arrays["indices"], about["spatial_shape"], 2)
    assert torch.allclose(layer(x).features, arrays["out"], atol=2e-5)


@torch.inference_mode()
@pytest.mark.parametrize("index", [3, 4, 5])
def test_strided_convolution_and_its_inverse_are_spconvs(shared: Path, either_engine: Engine, index: int) -> None:
    about, arrays = call(golden.read(shared, "ops_spconv"), index)
    down = either_engine.down_conv(about["in_channels"], about["out_channels"], 2, indice_key="down")
    up = either_engine.inverse_conv(about["out_channels"], about["in_channels"], 2, indice_key="down")
    down.load_state_dict({"weight": arrays["weight"]}, strict=True)
    up.load_state_dict({"weight": arrays["weight_up"]}, strict=True)
    clouds = int(arrays["indices"][:, 0].max()) + 1
    x = either_engine.tensor(arrays["features"], arrays["indices"], about["spatial_shape"], clouds)
    coarse: Any = down(x)
    order = torch.argsort((coarse.indices.long() * torch.tensor([10**9, 10**6, 10**3, 1])).sum(1))
    assert list(coarse.spatial_shape) == arrays["down_shape"].tolist()
    assert torch.equal(coarse.indices[order], arrays["down_indices"])
    assert torch.allclose(coarse.features[order], arrays["down"], atol=2e-5)
    fine: Any = up(coarse)
    assert torch.equal(fine.indices, arrays["indices"])
    assert torch.allclose(fine.features, arrays["up"], atol=2e-5)


@torch.inference_mode()
@pytest.mark.parametrize(("channels", "kernel_size"), [((3, 5), 3), ((20, 6), 3), ((4, 7), 5), ((16, 4), 5)])
def test_submanifold_convolution_is_a_dense_one_at_occupied_cells(
    native: Engine, channels: tuple[int, int], kernel_size: int
) -> None:
    indices = cells(900, 12, clouds=2)
    random = torch.Generator().manual_seed(1)
    features = torch.randn(len(indices), channels[0], generator=random)
    layer = native.subm_conv(*channels, kernel_size, bias=True)
    where = indices.long().unbind(1)
    dense = torch.zeros(2, 12, 12, 12, channels[0])
    dense[where] = features
    weight, bias = layer.weight, layer.bias
    assert isinstance(weight, torch.Tensor)
    assert isinstance(bias, torch.Tensor)
    expected = nn.functional.conv3d(
        dense.permute(0, 4, 1, 2, 3), weight.permute(0, 4, 1, 2, 3), bias, padding=kernel_size // 2
    )
    ours = layer(native.tensor(features, indices, (12, 12, 12), 2)).features
    assert torch.allclose(ours, expected.permute(0, 2, 3, 4, 1)[where], atol=1e-5)


@settings(deadline=None, max_examples=40)
@given(
    rows=st.sets(st.tuples(*[st.integers(0, 6)] * 4), min_size=1, max_size=120),
    kernel_size=st.sampled_from([3, 5]),
    shuffle=st.randoms(use_true_random=False),
)
def test_the_neighbour_table_is_what_a_dictionary_finds(
    rows: set[tuple[int, int, int, int]], kernel_size: int, shuffle: Any
) -> None:
    order = sorted(rows)
    shuffle.shuffle(order)
    table = kernel_map.neighbours(torch.tensor(order, dtype=torch.int32), (7, 7, 7), kernel_size).table
    row_of = {cell: row for row, cell in enumerate(order)}
    radius = kernel_size // 2
    steps = range(-radius, radius + 1)
    offsets = [(x, y, z) for x in steps for y in steps for z in steps]
    expected = [
        [row_of.get((cloud, x + dx, y + dy, z + dz), len(order)) for cloud, x, y, z in order] for dx, dy, dz in offsets
    ]
    assert table.tolist() == expected


@torch.inference_mode()
def test_the_engines_agree_on_a_cloud_of_several_blocks(native: Engine) -> None:
    pytest.importorskip("spconv", reason="spconv is not installed")
    oracle = engine("spconv", CPU)
    indices = cells(9000, 40, clouds=3)
    indices = indices[indices[:, 3] < 39]
    assert len(indices) > 2 * kernel_map.BLOCK_ROWS
    features = torch.randn(len(indices), 24, generator=torch.Generator().manual_seed(2))
    answers = []
    for layers in (native, oracle):
        torch.manual_seed(3)
        conv, down, up = (
            layers.subm_conv(24, 16, 3, indice_key="a"),
            layers.down_conv(16, 20, 2, indice_key="b"),
            layers.inverse_conv(20, 8, 2, indice_key="b"),
        )
        for layer in (conv, down, up):
            nn.init.normal_(layer.weight, std=0.1)  # type: ignore[arg-type]
        answers.append(up(down(conv(layers.tensor(features, indices, (41, 40, 39), 3)))).features)
    assert torch.allclose(answers[0], answers[1], atol=1e-4)


@torch.inference_mode()
def test_more_threads_change_no_bit() -> None:
    indices = cells(9000, 40)
    features = torch.randn(len(indices), 24, generator=torch.Generator().manual_seed(2))
    answers = []
    for threads in (1, 3):
        layers = NativeEngine(CPU)
        layers.team = Team(threads)
        torch.manual_seed(3)
        layer = layers.subm_conv(24, 16, 3)
        with layers.alone():
            assert threads == 1 or torch.get_num_threads() == 1
            answers.append(layer(layers.tensor(features, indices, (40, 40, 40), 1)).features)
    assert torch.equal(answers[0], answers[1])


def test_a_teams_failure_reaches_the_caller() -> None:
    def fail(_: Any) -> None:
        raise ValueError("block 7")

    before = torch.get_num_threads()
    team = Team(2)
    with pytest.raises(ValueError, match="block 7"), team.alone():
        team.run(fail, [1, 2, 3])
    assert torch.get_num_threads() == before


@torch.inference_mode()
def test_one_cell_alone(native: Engine) -> None:
    x = native.tensor(torch.ones(1, 4), torch.zeros(1, 4, dtype=torch.int32), (97, 97, 97), 1)
    for kernel_size in (1, 3, 5):
        assert native.subm_conv(4, 8, kernel_size)(x).features.shape == (1, 8)
    down = native.down_conv(4, 8, 2, bias=True, indice_key="d")(x)
    assert native.inverse_conv(8, 4, 2, bias=True, indice_key="d")(down).features.shape == (1, 4)


@torch.inference_mode()
def test_cells_on_a_cut_edge_come_back_as_nothing(native: Engine) -> None:
    edge = torch.tensor([[0, 8, 0, 0]], dtype=torch.int32)
    down, up = native.down_conv(4, 8, 2, indice_key="d"), native.inverse_conv(8, 4, 2, indice_key="d")
    coarse: Any = down(native.tensor(torch.ones(1, 4), edge, (9, 9, 9), 1))
    assert coarse.features.shape == (0, 8)
    assert up(coarse).features.tolist() == [[0, 0, 0, 0]]


def test_the_native_engine_says_that_it_does_not_train(native: Engine) -> None:
    x = native.tensor(torch.ones(1, 4), torch.zeros(1, 4, dtype=torch.int32), (9, 9, 9), 1)
    with pytest.raises(RuntimeError, match="only infers"):
        native.subm_conv(4, 8, 3)(x)


def test_even_kernels_are_refused(native: Engine) -> None:
    with pytest.raises(ValueError, match="odd kernel, not 2"):
        native.subm_conv(4, 8, 2)


def test_grids_that_are_too_small_or_too_large_are_refused() -> None:
    one = torch.zeros(1, 4, dtype=torch.int32)
    with pytest.raises(ValueError, match="no room for a window of 2 cells"):
        kernel_map.window(one, (1, 9, 9), 2)
    with pytest.raises(ValueError, match="too large to be indexed"):
        kernel_map.neighbours(one, (2**21, 2**21, 2**21), 3)


def test_engines_are_chosen_by_name() -> None:
    assert engine("auto", CPU).name == "native"
    with pytest.raises(ValueError, match="'cudnn' is unknown: use auto, spconv or native"):
        engine("cudnn", CPU)  # type: ignore[arg-type]


def test_without_the_compiled_library_there_is_a_warning_and_plain_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sparseconv", None)
    monkeypatch.delitem(sys.modules, "service.models.layers.compiled", raising=False)
    with pytest.warns(UserWarning, match="libs/sparseconv is not built .* plain torch, more slowly"):
        assert isinstance(engine("native", CPU), NativeEngine)


def test_a_device_that_the_compiled_library_does_not_serve_has_plain_torch() -> None:
    assert isinstance(engine("native", torch.device("cuda")), NativeEngine)


@torch.inference_mode()
@pytest.mark.parametrize("kernel_size", [1, 3])
@pytest.mark.parametrize("bias", [False, True])
def test_a_folded_norm_is_the_norm(native: Engine, kernel_size: int, bias: bool) -> None:
    torch.manual_seed(0)
    layer, norm = native.subm_conv(4, 6, kernel_size, bias=bias), nn.BatchNorm1d(6, eps=1e-3).eval()
    for tensor in (norm.weight, norm.bias, norm.running_mean, norm.running_var):
        assert tensor is not None
        tensor.uniform_(0.5, 2)
    x = native.tensor(torch.randn(300, 4), cells(300, 8)[:300], (8, 8, 8), 1)
    x = native.tensor(torch.randn(len(x.indices), 4), x.indices, (8, 8, 8), 1)  # type: ignore[attr-defined]
    expected = norm(layer(x).features)
    fold(layer, norm)
    assert torch.allclose(layer(x).features, expected, atol=1e-5)
