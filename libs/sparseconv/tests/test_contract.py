"""What every operator keeps to: opcheck, kernels on the CPU, errors that name the argument."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from sparseconv import ops
from sparseconv.reference import random_cells

OPS = torch.ops.sparseconv
NAMES = ("sort_cells", "subm_map", "down_map", "pack_weight", "pack_weight_bfloat16", "conv", "linear")
SHAPE = [12, 12, 12]


def arguments(name: str) -> list[Any]:
    """Return good arguments of an operator."""
    indices = random_cells(700, 12, clouds=2)
    cells = ops.sort_cells(indices, SHAPE)
    found = ops.subm_map(cells, 3)
    features, weight = torch.randn(len(indices), 6), torch.randn(20, 3, 3, 3, 6)
    ends = [torch.randn(20), torch.randn(len(indices), 20), True]
    three = [3, 3, 3]
    return {
        "sort_cells": [indices, SHAPE],
        "subm_map": [cells.keys, cells.order, SHAPE, three, [1, 1, 1]],
        "down_map": [cells.keys, cells.order, SHAPE, three, [2, 2, 2], [1, 1, 1], [1, 1, 1]],
        "pack_weight": [weight],
        "pack_weight_bfloat16": [weight],
        "conv": [
            features, ops.pack_weight(weight), 20, found.rows, found.starts, found.sources, found.targets, *ends
        ],
        "linear": [features, ops.pack_weight(torch.randn(20, 1, 1, 1, 6)), 20, *ends],
    }[name]  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_opcheck(name: str) -> None:
    torch.library.opcheck(getattr(OPS, name).default, arguments(name))


def test_opcheck_of_a_weight_in_bfloat16() -> None:
    for name in ("conv", "linear"):
        given = arguments(name)
        kernel = [3, 3, 3] if name == "conv" else [1, 1, 1]
        given[1] = ops.pack_weight(torch.randn(20, *kernel, 6), bfloat16=True)
        torch.library.opcheck(getattr(OPS, name).default, given)


@pytest.mark.parametrize("name", NAMES)
def test_every_operator_has_a_kernel_for_the_cpu(name: str) -> None:
    assert torch._C._dispatch_has_kernel_for_dispatch_key(f"sparseconv::{name}", "CPU")


def test_the_tensors_given_are_left_as_they_were() -> None:
    for name in NAMES:
        given = arguments(name)
        before = [part.clone() if isinstance(part, torch.Tensor) else part for part in given]
        getattr(OPS, name)(*given)
        for old, new in zip(before, given, strict=True):
            assert torch.equal(old, new) if isinstance(old, torch.Tensor) else old == new


def changed(part: torch.Tensor, at: int, value: float) -> torch.Tensor:
    part = part.clone()
    part.view(-1)[at] = value
    return part


# Operator, argument's place, how it is spoilt, type of the error, what the message says.
BAD = [
    ("sort_cells", 0, lambda x: x.long(), TypeError, "indices must be Int, not Long"),
    ("sort_cells", 0, lambda x: x[:, :3].contiguous(), ValueError, "indices must have 4 columns"),
    ("sort_cells", 0, lambda x: x[:, 0].contiguous(), ValueError, "indices must have 2 dimensions, not 1"),
    ("sort_cells", 0, lambda x: x[::2], ValueError, "indices must be contiguous"),
    ("sort_cells", 0, lambda x: changed(x, 9, -1), ValueError, r"indices row 2 has the cell \("),
    ("sort_cells", 0, lambda x: changed(x, 4, -3), ValueError, "indices row 1 has cloud -3, which must lie in 0"),
    ("sort_cells", 0, lambda x: changed(x, 9, 12), ValueError, r"inside of spatial_shape \(12, 12, 12\)"),
    ("sort_cells", 0, lambda x: torch.cat([x, x[5:6]]), ValueError, r"rows 5 and \d+ are the same cell"),
    ("sort_cells", 1, lambda x: [12, 12], ValueError, "spatial_shape must be 3 numbers"),
    ("sort_cells", 1, lambda x: [12, 12, 0], ValueError, "spatial_shape must lie in 1"),
    ("sort_cells", 1, lambda x: [2**21 + 1, 12, 12], ValueError, "spatial_shape must lie in 1..2097152"),
    ("sort_cells", 1, lambda x: [2**21, 12, 12], ValueError, r"cloud 1, which must lie in 0..0"),
    ("subm_map", 0, lambda x: x.int(), TypeError, "keys must be Long, not Int"),
    ("subm_map", 0, lambda x: x.flip(0), ValueError, "keys must go up"),
    ("subm_map", 0, lambda x: changed(x, 0, -5), ValueError, "keys must go up"),
    ("subm_map", 1, lambda x: x[1:], ValueError, "order must have one row for each of the"),
    ("subm_map", 1, lambda x: changed(x, 3, 10**6), ValueError, "order must have rows in 0..*not at 3"),
    ("subm_map", 3, lambda x: [3, 2, 3], ValueError, "kernel_size must be odd, but has 2"),
    ("subm_map", 3, lambda x: [3, 3], ValueError, "kernel_size must be 3 numbers"),
    ("subm_map", 4, lambda x: [0, 1, 1], ValueError, "dilation must lie in 1..32, but has 0"),
    ("down_map", 0, lambda x: x.flip(0), ValueError, "keys must go up"),
    ("down_map", 2, lambda x: [12, 12, 0], ValueError, "spatial_shape must lie in 1"),
    ("down_map", 3, lambda x: [31, 3, 3], ValueError, "12 cells, too few for a window of kernel_size 31"),
    ("down_map", 4, lambda x: [2, 0, 2], ValueError, "stride must lie in 1"),
    ("down_map", 5, lambda x: [-1, 0, 0], ValueError, "padding must lie in 0"),
    ("down_map", 6, lambda x: [1, 1], ValueError, "dilation must be 3 numbers"),
    ("pack_weight", 0, lambda x: x.half(), TypeError, "weight must be Float, not Half"),
    ("pack_weight", 0, lambda x: x[0], ValueError, "weight must have 5 dimensions, not 4"),
    ("pack_weight", 0, lambda x: x[:0], ValueError, "weight must not be empty"),
    ("conv", 0, lambda x: x.double(), TypeError, "features must be Float, not Double"),
    ("conv", 0, lambda x: x[:, :5].contiguous(), ValueError, "features must have 6 columns as the weight has, not 5"),
    ("conv", 0, lambda x: x.t().contiguous().t(), ValueError, "features must be contiguous"),
    ("conv", 0, lambda x: x[:9], ValueError, "sources must be rows of features"),
    ("conv", 1, lambda x: x[:1], ValueError, "starts must have"),
    ("conv", 1, lambda x: x.half(), TypeError, "packed must be Float, not Half"),
    ("conv", 1, lambda x: x.bfloat16(), ValueError, "packed must have 5 dimensions, not 4"),
    (
        "conv",
        1,
        lambda x: ops.pack_weight(torch.ones(20, 3, 3, 3, 33), True),
        ValueError,
        "features must have as many columns as the weight, 33..64, not 6",
    ),
    (
        "conv",
        1,
        lambda x: ops.pack_weight(torch.ones(20, 3, 3, 3, 6), True)[..., :1].contiguous(),
        ValueError,
        "packed must be what pack_weight_bfloat16 makes of a weight with out_channels 20",
    ),
    ("pack_weight_bfloat16", 0, lambda x: x.half(), TypeError, "weight must be Float, not Half"),
    ("pack_weight_bfloat16", 0, lambda x: x[:0], ValueError, "weight must not be empty"),
    ("conv", 2, lambda x: 40, ValueError, "packed must be what pack_weight makes of a weight with out_channels 40"),
    ("conv", 2, lambda x: 0, ValueError, "packed must be what pack_weight makes of a weight with out_channels 0"),
    ("conv", 3, lambda x: x.long(), TypeError, "rows must be Int, not Long"),
    ("conv", 3, lambda x: changed(x, 2, int(x[1])), ValueError, "rows must have each of 0"),
    ("conv", 3, lambda x: changed(x, 2, -1), ValueError, "rows must have each of 0..* has -1 at 2"),
    ("conv", 4, lambda x: x[1:], ValueError, "starts must have"),
    ("conv", 4, lambda x: changed(x, -1, 5), ValueError, "starts must go from 0 to the"),
    ("conv", 4, lambda x: changed(x, 3, -5), ValueError, "starts must go up"),
    ("conv", 4, lambda x: changed(x, 3, 10**9), ValueError, "starts must go up"),
    ("conv", 5, lambda x: changed(x, 11, -1), ValueError, "sources must be rows of features"),
    ("conv", 6, lambda x: x[1:].clone(), ValueError, "targets must be as long as sources"),
    ("conv", 6, lambda x: changed(x, -1, 255), ValueError, "targets must be places in their tile"),
    ("conv", 7, lambda x: x[:19].clone(), ValueError, "bias must have 20 numbers, not 19"),
    ("conv", 8, lambda x: x[1:].clone(), ValueError, "residual must be of shape"),
    ("conv", 8, lambda x: x.half(), TypeError, "residual must be Float, not Half"),
    ("linear", 0, lambda x: x[0], ValueError, "features must have 2 dimensions, not 1"),
    ("linear", 1, lambda x: torch.cat([x, x]), ValueError, "packed must have one kernel offset, not 2"),
]


@pytest.mark.parametrize(("name", "place", "spoil", "error", "says"), BAD)
def test_bad_arguments_are_named(name: str, place: int, spoil: Any, error: type[Exception], says: str) -> None:
    given = arguments(name)
    given[place] = spoil(given[place])
    with pytest.raises(error, match=f"{name}: .*{says.replace('..*', '.*')}"):
        getattr(OPS, name)(*given)


@pytest.mark.parametrize("name", NAMES)
def test_every_tensor_is_checked(name: str) -> None:
    """Wrong dtype, wrong shape, non-contiguous, with a gradient: for each tensor in its turn, by its own name."""
    operator = getattr(OPS, name)
    good = arguments(name)
    for place, argument in enumerate(argument.name for argument in operator.default._schema.arguments):
        tensor = good[place]
        if not isinstance(tensor, torch.Tensor):
            continue
        for bad, error, says in (
            (tensor.bool(), TypeError, "must be"),
            (tensor[None], ValueError, "must have . dimensions"),
            (torch.stack((tensor, tensor), -1)[..., 0], ValueError, "must be contiguous"),
        ):
            with pytest.raises(error, match=f"{name}: {argument} {says}"):
                operator(*good[:place], bad, *good[place + 1 :])
        if tensor.is_floating_point():
            with pytest.raises(RuntimeError, match=f"{name}: {argument} requires grad"):
                operator(*good[:place], tensor.clone().requires_grad_(), *good[place + 1 :])


@pytest.mark.parametrize(("name", "place", "argument"), [("conv", 0, "features"), ("linear", 3, "bias")])
def test_gradients_are_refused(name: str, place: int, argument: str) -> None:
    given = arguments(name)
    given[place].requires_grad_()
    with pytest.raises(RuntimeError, match=f"{name}: {argument} requires grad, but this operator only infers"):
        getattr(OPS, name)(*given)
    with torch.no_grad():
        assert not getattr(OPS, name)(*given).requires_grad


def test_instructions_have_names() -> None:
    names = ops.cpu_instructions()
    assert names[0] == "default"
    before = ops.use_cpu_instructions("default")
    assert before == names[-1]
    assert ops.use_cpu_instructions(before) == "default"
    with pytest.raises(ValueError, match="name must be one of cpu_instructions"):
        ops.use_cpu_instructions("mmx")
