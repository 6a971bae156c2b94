"""Layers against spconv: its stored numbers, and itself in the same process."""

from __future__ import annotations

import gc
import json
import weakref
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sparseconv as sc
import torch
from sparseconv.reference import random_cells
from torch import nn


def call(shared: Path, index: int) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    """Return one call of the fixture of layers, and its arrays by their short names."""
    about = json.loads((shared / "parity" / "ops_spconv.json").read_text())["calls"][index]
    with np.load(shared / "parity" / "ops_spconv.npz") as arrays:
        return about, {name.split(".", 1)[1]: torch.from_numpy(arrays[name]) for name in about["arrays"]}


@torch.inference_mode()
@pytest.mark.parametrize("index", [0, 1, 2])
def test_submanifold_convolution_is_spconvs(shared: Path, index: int) -> None:
    about, arrays = call(shared, index)
    layer = sc.SubMConv3d(about["in_channels"], about["out_channels"], about["kernel_size"])
    layer.load_state_dict({"weight": arrays["weight"], "bias": arrays["bias"]}, strict=True)
    x = sc.SparseTensor(arrays["features"], arrays["indices"], tuple(about["spatial_shape"]), 2)
    assert torch.allclose(layer(x).features, arrays["out"], atol=2e-5)


@torch.inference_mode()
@pytest.mark.parametrize("index", [3, 4, 5])
def test_strided_convolution_and_its_inverse_are_spconvs(shared: Path, index: int) -> None:
    about, arrays = call(shared, index)
    down = sc.SparseConv3d(about["in_channels"], about["out_channels"], 2, stride=2, bias=False, indice_key="d")
    up = sc.SparseInverseConv3d(about["out_channels"], about["in_channels"], 2, indice_key="d", bias=False)
    down.load_state_dict({"weight": arrays["weight"]}, strict=True)
    up.load_state_dict({"weight": arrays["weight_up"]}, strict=True)
    coarse = down(sc.SparseTensor(arrays["features"], arrays["indices"], tuple(about["spatial_shape"]), 3))
    order = torch.argsort((coarse.indices.long() * torch.tensor([10**9, 10**6, 10**3, 1])).sum(1))
    assert list(coarse.spatial_shape) == arrays["down_shape"].tolist()
    assert torch.equal(coarse.indices[order], arrays["down_indices"])
    assert torch.allclose(coarse.features[order], arrays["down"], atol=2e-5)
    fine = up(coarse)
    assert torch.equal(fine.indices, arrays["indices"])
    assert torch.allclose(fine.features, arrays["up"], atol=2e-5)


def of_spconv(theirs: Any, tensor: Any) -> dict[tuple[int, ...], torch.Tensor]:
    """Return features by cell."""
    return {tuple(cell): row for cell, row in zip(tensor.indices.tolist(), tensor.features, strict=True)}


STRIDED = [
    {"kernel_size": 3, "stride": 2, "padding": 1},
    {"kernel_size": 2, "stride": 2, "padding": 0},
    {"kernel_size": 3, "stride": 1, "padding": 1},
    {"kernel_size": (3, 1, 2), "stride": (2, 1, 2), "padding": (1, 0, 0)},
    {"kernel_size": 3, "stride": 2, "padding": 2, "dilation": 2},
]


@torch.inference_mode()
@pytest.mark.parametrize("arguments", STRIDED)
def test_layers_agree_with_spconv(arguments: dict[str, Any]) -> None:
    spconv = pytest.importorskip("spconv.pytorch", reason="spconv is not installed: there is no oracle")
    algo = pytest.importorskip("spconv.core").ConvAlgo.Native
    torch.manual_seed(0)
    indices, shape = random_cells(4000, 21, clouds=3), (21, 23, 22)
    features = torch.randn(len(indices), 12)
    theirs = nn.ModuleList(
        [
            spconv.SubMConv3d(12, 20, 3, bias=False, indice_key="a", algo=algo),
            spconv.SubMConv3d(20, 9, (3, 5, 1), bias=False, algo=algo),
            spconv.SparseConv3d(9, 16, **arguments, bias=False, indice_key="b", algo=algo),
            spconv.SparseInverseConv3d(16, 7, arguments["kernel_size"], bias=False, indice_key="b", algo=algo),
            spconv.SubMConv3d(7, 5, 1, bias=False, algo=algo),
        ]
    )
    ours = nn.ModuleList(
        [
            sc.SubMConv3d(12, 20, 3, bias=False, indice_key="a"),
            sc.SubMConv3d(20, 9, (3, 5, 1), bias=False),
            sc.SparseConv3d(9, 16, **arguments, bias=False, indice_key="b"),
            sc.SparseInverseConv3d(16, 7, arguments["kernel_size"], bias=False, indice_key="b"),
            sc.SubMConv3d(7, 5, 1, bias=False),
        ]
    )
    ours.load_state_dict(theirs.state_dict(), strict=True)
    x = spconv.SparseConvTensor(features, indices, list(shape), 3)
    y = sc.SparseTensor(features, indices, shape, 3)
    for their, our in zip(theirs, ours, strict=True):
        x, y = their(x), our(y)
        assert list(x.spatial_shape) == list(y.spatial_shape)
        expected, found = of_spconv(spconv, x), of_spconv(spconv, y)
        assert expected.keys() == found.keys()
        largest = max(float(row.abs().max()) for row in expected.values())
        worst = max(float((expected[cell] - found[cell]).abs().max()) for cell in expected)
        assert worst < 1e-4 * largest


@torch.inference_mode()
@pytest.mark.parametrize("stride", [1, 2])
def test_a_strided_convolution_of_one_cell_is_spconvs(stride: int) -> None:
    """With stride 1 spconv reads the weight transposed and keeps rows where they are; with stride 2 neither."""
    spconv = pytest.importorskip("spconv.pytorch", reason="spconv is not installed: there is no oracle")
    algo = pytest.importorskip("spconv.core").ConvAlgo.Native
    torch.manual_seed(0)
    indices, shape = random_cells(400, 11, clouds=2), (11, 13, 12)
    features = torch.randn(len(indices), 5)
    theirs = spconv.SparseConv3d(5, 7, 1, stride=stride, bias=False, algo=algo)
    ours = sc.SparseConv3d(5, 7, 1, stride=stride, bias=False)
    ours.load_state_dict(theirs.state_dict(), strict=True)
    x = theirs(spconv.SparseConvTensor(features, indices, list(shape), 2))
    y = ours(sc.SparseTensor(features, indices, shape, 2))
    assert torch.equal(y.indices, indices) == (stride == 1)
    assert list(x.spatial_shape) == list(y.spatial_shape)
    expected, found = of_spconv(spconv, x), of_spconv(spconv, y)
    assert expected.keys() == found.keys()
    assert max(float((expected[cell] - found[cell]).abs().max()) for cell in expected) < 1e-5


@torch.inference_mode()
def test_dilation_is_a_wider_kernel_with_zeros() -> None:
    indices = random_cells(1500, 16, clouds=2)
    x = sc.SparseTensor(torch.randn(len(indices), 6), indices, (16, 16, 16), 2)
    narrow, wide = sc.SubMConv3d(6, 10, 3, dilation=2), sc.SubMConv3d(6, 10, 5)
    wide.weight.zero_()[:, ::2, ::2, ::2] = narrow.weight
    assert narrow.bias is not None
    assert wide.bias is not None
    wide.bias.copy_(narrow.bias)
    assert torch.allclose(narrow(x).features, wide(x).features, atol=1e-5)


@torch.inference_mode()
@pytest.mark.parametrize("kernel_size", [1, 3])
@pytest.mark.parametrize("bias", [False, True])
def test_a_folded_norm_is_the_norm(kernel_size: int, bias: bool) -> None:
    torch.manual_seed(0)
    layer, norm = sc.SubMConv3d(4, 6, kernel_size, bias=bias), nn.BatchNorm1d(6, eps=1e-3).eval()
    for tensor in (norm.weight, norm.bias, norm.running_mean, norm.running_var):
        tensor.uniform_(0.5, 2)
    indices = random_cells(300, 8)
    x = sc.SparseTensor(torch.randn(len(indices), 4), indices, (8, 8, 8), 1)
    expected = norm(layer(x).features)
    sc.fold_batch_norm(layer, norm)
    assert torch.allclose(layer(x).features, expected, atol=1e-5)


def test_a_norm_that_does_not_fit_is_refused() -> None:
    layer = sc.SubMConv3d(4, 6, 3)
    with pytest.raises(ValueError, match="norm has 7 channels, the convolution 6"):
        sc.fold_batch_norm(layer, nn.BatchNorm1d(7))
    with pytest.raises(ValueError, match="no running statistics"):
        sc.fold_batch_norm(layer, nn.BatchNorm1d(6, track_running_stats=False))


@torch.no_grad()
def test_a_changed_weight_is_packed_again() -> None:
    indices = random_cells(200, 8)
    x = sc.SparseTensor(torch.randn(len(indices), 4), indices, (8, 8, 8), 1)
    layer = sc.SubMConv3d(4, 6, 3, bias=False)
    before = layer(x).features
    layer.weight.mul_(2)
    assert torch.allclose(layer(x).features, 2 * before)
    layer.load_state_dict({"weight": torch.zeros_like(layer.weight)})
    assert not layer(x).features.any()


@torch.inference_mode()
def test_ends_of_a_layer_are_those_of_separate_steps() -> None:
    indices = random_cells(900, 9)
    x = sc.SparseTensor(torch.randn(len(indices), 8), indices, (9, 9, 9), 1)
    residual = torch.randn(len(indices), 8)
    for kernel_size in (1, 3):
        layer = sc.SubMConv3d(8, 8, kernel_size)
        expected = (layer(x).features + residual).relu()
        layer.relu = True
        assert torch.equal(layer(x, residual=residual).features, expected)


@torch.inference_mode()
def test_layers_of_one_key_share_a_map() -> None:
    indices = random_cells(300, 8)
    x = sc.SparseTensor(torch.randn(len(indices), 4), indices, (8, 8, 8), 1)
    y = sc.SubMConv3d(4, 4, 3, indice_key="a")(x)
    found = y.maps["a"]
    assert sc.SubMConv3d(4, 4, 3, indice_key="a")(y).maps["a"] is found


@torch.inference_mode()
def test_nothing_outlives_a_tensor() -> None:
    indices = random_cells(300, 8)
    x = sc.SparseTensor(torch.randn(len(indices), 4), indices, (8, 8, 8), 1)
    down, up = sc.SparseConv3d(4, 4, 2, stride=2, indice_key="d"), sc.SparseInverseConv3d(4, 4, 2, indice_key="d")
    y = sc.SubMConv3d(4, 4, 3, indice_key="s")(up(down(x)))
    ends = [weakref.ref(x.features), weakref.ref(y.features), weakref.ref(y.maps["s"]), weakref.ref(y.maps["d"].down)]
    gc.disable()
    try:
        del x, y
        assert [end() for end in ends] == [None] * 4
    finally:
        gc.enable()


REUSED = [
    (
        [sc.SubMConv3d(4, 4, 5, indice_key="s")],
        r"'s' was first used with kernel_size \(3, 3, 3\), here it is \(5, 5, 5\)",
    ),
    ([sc.SubMConv3d(4, 4, 3, 2, indice_key="s")], r"'s' was first used with dilation \(1, 1, 1\)"),
    ([sc.SparseConv3d(4, 4, 2, 2), sc.SubMConv3d(4, 4, 3, indice_key="s")], "'s' was first used with spatial_shape"),
    ([sc.SparseConv3d(4, 4, 3, 2, indice_key="s")], "'s' is already that of a convolution of another kind"),
    (
        [sc.SparseConv3d(4, 4, 2, 2, indice_key="d"), sc.SparseConv3d(4, 4, 2, 2, indice_key="d")],
        "'d' was first used with spatial_shape",
    ),
    (
        [
            sc.SparseConv3d(4, 4, 3, 1, 1, indice_key="d"),
            sc.SparseConv3d(4, 4, 3, 1, 1),
            sc.SparseInverseConv3d(4, 4, 3, "d"),
        ],
        "'d' leads back from .*'number of cells': .*, not from",
    ),
]


@torch.inference_mode()
@pytest.mark.parametrize(("layers", "says"), REUSED)
def test_a_key_of_something_else_is_refused(layers: list[nn.Module], says: str) -> None:
    indices = random_cells(300, 8)
    x = sc.SparseTensor(torch.randn(len(indices), 4), indices, (8, 8, 8), 1)
    x = sc.SubMConv3d(4, 4, 3, indice_key="s")(x)
    with pytest.raises(ValueError, match=says):
        nn.Sequential(*layers)(x)


def test_what_cannot_be_is_refused() -> None:
    with pytest.raises(ValueError, match="1x1x1 with stride 1 takes no padding, not 1"):
        sc.SparseConv3d(4, 8, 1, padding=1)
    with pytest.raises(ValueError, match="inverse of 1x1x1 is not built"):
        sc.SparseInverseConv3d(4, 8, 1, indice_key="d")
    with pytest.raises(ValueError, match="odd kernel, not 2"):
        sc.SubMConv3d(4, 8, 2)
    indices = random_cells(30, 8)
    x = sc.SparseTensor(torch.randn(len(indices), 4), indices, (8, 8, 8), 1)
    with torch.inference_mode(), pytest.raises(ValueError, match="indice_key 'd' names no strided convolution"):
        sc.SparseInverseConv3d(4, 8, 2, indice_key="d")(x)
    with pytest.raises(RuntimeError, match="weight requires grad"):
        sc.SubMConv3d(4, 8, 3)(x)
