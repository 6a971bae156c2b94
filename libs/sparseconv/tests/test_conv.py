"""Convolutions against one product at a time, dense convolutions, and themselves on other instructions."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sparseconv import ops, reference
from sparseconv.reference import pairs_of, random_cells
from torch import nn

CHANNELS = [(1, 1), (3, 5), (6, 32), (16, 16), (17, 33), (32, 13), (96, 96), (300, 20), (20, 300)]


@pytest.fixture(params=ops.cpu_instructions())
def instructions(request: pytest.FixtureRequest) -> Iterator[str]:
    """Each set of instructions that this processor has."""
    before = ops.use_cpu_instructions(request.param)
    yield request.param
    ops.use_cpu_instructions(before)


def made(indices: torch.Tensor, extent: int, channels: tuple[int, int], kernel: int, seed: int = 1) -> tuple:
    random = torch.Generator().manual_seed(seed)
    features = torch.randn(len(indices), channels[0], generator=random)
    weight = (
        torch.randn(channels[1], kernel, kernel, kernel, channels[0], generator=random)
        / (channels[0] * kernel**3) ** 0.5
    )
    bias = torch.randn(channels[1], generator=random)
    residual = torch.randn(len(indices), channels[1], generator=random)
    return features, weight, bias, residual, ops.subm_map(ops.sort_cells(indices, (extent,) * 3), kernel)


def rounded(numbers: torch.Tensor, bfloat16: bool) -> torch.Tensor:
    """Return what a convolution in bfloat16 makes of its operands, in float64."""
    return numbers.bfloat16().double() if bfloat16 else numbers.double()


@pytest.mark.parametrize("channels", CHANNELS)
@pytest.mark.parametrize("kernel", [1, 3, 5])
@pytest.mark.parametrize("bfloat16", [False, True])
def test_a_convolution_is_a_dense_one_at_occupied_cells(
    instructions: str, channels: tuple[int, int], kernel: int, bfloat16: bool
) -> None:
    indices = random_cells(900, 12, clouds=2)
    features, weight, bias, _, found = made(indices, 12, channels, kernel)
    where = indices.long().unbind(1)
    dense = torch.zeros(2, 12, 12, 12, channels[0], dtype=torch.float64)
    dense[where] = rounded(features, bfloat16)
    kernels = rounded(weight, bfloat16).permute(0, 4, 1, 2, 3)
    expected = nn.functional.conv3d(dense.permute(0, 4, 1, 2, 3), kernels, bias.double(), padding=kernel // 2).permute(
        0, 2, 3, 4, 1
    )[where]
    ours = ops.conv(features, ops.pack_weight(weight, bfloat16), channels[1], found, bias)
    assert torch.allclose(ours.double(), expected, atol=2e-5)


@settings(deadline=None, max_examples=60)
@given(
    rows=st.sets(st.tuples(st.integers(0, 2), *[st.integers(0, 4)] * 3), min_size=1, max_size=60),
    channels=st.tuples(st.integers(1, 40), st.integers(1, 40)),
    with_bias=st.booleans(),
    with_residual=st.booleans(),
    relu=st.booleans(),
    bfloat16=st.booleans(),
)
def test_all_ends_of_a_convolution(
    rows: set[tuple[int, int, int, int]],
    channels: tuple[int, int],
    with_bias: bool,
    with_residual: bool,
    relu: bool,
    bfloat16: bool,
) -> None:
    indices = torch.tensor(list(rows), dtype=torch.int32)
    features, weight, bias, residual, found = made(indices, 5, channels, 3)
    ends = (bias if with_bias else None, residual if with_residual else None, relu)
    operands = rounded(features, bfloat16), rounded(weight, bfloat16)
    expected = reference.conv(*operands, pairs_of(found, 27), len(indices), *ends)
    ours = ops.conv(features, ops.pack_weight(weight, bfloat16), channels[1], found, *ends)
    assert torch.allclose(ours.double(), expected, atol=1e-4)
    matrix = weight[:, 1:2, 1:2, 1:2].contiguous()
    here = {(row, 0, row) for row in range(len(indices))}
    expected = reference.conv(operands[0], rounded(matrix, bfloat16), here, len(indices), *ends)
    ours = ops.linear(features, ops.pack_weight(matrix, bfloat16), channels[1], *ends)
    assert torch.allclose(ours.double(), expected, atol=1e-4)


@pytest.mark.parametrize("channels", [(96, 96), (20, 200), (300, 7)])
@pytest.mark.parametrize("bfloat16", [False, True])
def test_bits_depend_on_nothing_else(channels: tuple[int, int], bfloat16: bool) -> None:
    indices = random_cells(2600, 16, clouds=3)
    features, weight, bias, residual, found = made(indices, 16, channels, 3)
    packed = ops.pack_weight(weight, bfloat16)

    def run() -> torch.Tensor:
        return ops.conv(features, packed, channels[1], found, bias, residual, True)

    expected = run()
    threads = torch.get_num_threads()
    try:
        for number in (1, 3, 16):
            torch.set_num_threads(number)
            assert torch.equal(run(), expected), f"{number} threads"
    finally:
        torch.set_num_threads(threads)
    for cloud in range(3):
        # Alone, in another order, in a larger grid.
        rows = (indices[:, 0] == cloud).nonzero().squeeze(1).flip(0)
        alone = indices[rows].contiguous()
        alone[:, 0] = 0
        one = ops.subm_map(ops.sort_cells(alone, (90, 40, 17)), 3)
        ours = ops.conv(features[rows], packed, channels[1], one, bias, residual[rows], True)
        assert torch.equal(ours, expected[rows]), f"cloud {cloud}"
    # Tile registers round their sums of bfloat16 products in another place.
    wide = [name for name in ops.cpu_instructions() if name not in ("default", "amx_bf16")]
    if bfloat16 and wide:
        ops.use_cpu_instructions(wide[0])
        expected = run()
    for name in wide:
        before = ops.use_cpu_instructions(name)
        try:
            assert torch.equal(run(), expected), name
        finally:
            ops.use_cpu_instructions(before)


def test_rows_without_pairs_have_the_bias_alone() -> None:
    # The last plane of an odd extent lies in no window.
    indices = torch.tensor([[0, 0, 0, 0], [0, 8, 1, 1]], dtype=torch.int32)
    found = ops.down_map(ops.sort_cells(indices, (9, 4, 4)), 2, 2)
    assert found.indices.tolist() == [[0, 0, 0, 0]]
    packed, bias = ops.pack_weight(torch.ones(3, 2, 2, 2, 2)), torch.tensor([1.0, 2.0, 3.0])
    up = ops.conv(torch.ones(1, 2), packed, 3, found.up, bias)
    assert up.tolist() == [[3.0, 4.0, 5.0], [1.0, 2.0, 3.0]]


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_what_is_not_a_number_stays_among_its_neighbours(value: float) -> None:
    indices = random_cells(300, 10)
    features, weight, bias, _, found = made(indices, 10, (5, 7), 3)
    features[17, 2] = value
    ours = ops.conv(features, ops.pack_weight(weight), 7, found, bias, relu=False)
    reached = {target for target, _, source in pairs_of(found, 27) if source == 17}
    assert set((~ours.isfinite()).any(1).nonzero().squeeze(1).tolist()) == reached


def test_bfloat16_is_the_nearest(instructions: str) -> None:
    special = torch.tensor([0.0, -0.0, 1 + 2**-8, 1 + 3 * 2**-8, 1 + 2**-8 + 2**-20, 3.3e38, 3.4e38, float("inf")])
    numbers = torch.cat([special, -special, torch.randn(4000), torch.tensor([float("nan")])])
    weight = torch.ones(1, 1, 1, 1, 1)
    ours = ops.linear(numbers.view(-1, 1), ops.pack_weight(weight, True), 1).view(-1)
    assert torch.equal(ours.nan_to_num(7.0), numbers.bfloat16().float().nan_to_num(7.0))
    ours = ops.linear(torch.ones(1, 1), ops.pack_weight(numbers.view(-1, 1, 1, 1, 1), True), len(numbers)).view(-1)
    assert torch.equal(ours.nan_to_num(7.0), numbers.bfloat16().float().nan_to_num(7.0))


@pytest.mark.parametrize("channels", [(6, 32), (96, 96), (384, 256)])
def test_bfloat16_errs_by_less_than_a_hundredth(instructions: str, channels: tuple[int, int]) -> None:
    indices = random_cells(3000, 20)
    features, weight, bias, _, found = made(indices, 20, channels, 3)
    exact = ops.conv(features, ops.pack_weight(weight), channels[1], found, bias)
    ours = ops.conv(features, ops.pack_weight(weight, True), channels[1], found, bias)
    assert 0 < (ours - exact).norm() / exact.norm() < 1e-2


def test_features_past_int32(instructions: str) -> None:
    """2.2e9 numbers, of which the last row alone is ever touched: the rest takes no memory."""
    rows, channels = 2_200_000, 1000
    try:
        features = torch.from_numpy(np.zeros((rows, channels), np.float32))
    except MemoryError:
        pytest.skip("needs 9 GB of addresses")
    features[-1] = torch.arange(channels)
    last = torch.tensor([rows - 1], dtype=torch.int32)
    first = torch.zeros(1, dtype=torch.int32)
    found = ops.KernelMap(first, torch.tensor([0, 1]), last, first.byte())
    weight = torch.eye(channels)[:3, None, None, None].flip(-1).contiguous()
    assert ops.conv(features, ops.pack_weight(weight), 3, found).tolist() == [[999.0, 998.0, 997.0]]


def test_nothing_in_nothing_out() -> None:
    cells = ops.sort_cells(torch.empty(0, 4, dtype=torch.int32), (8, 8, 8))
    packed = ops.pack_weight(torch.ones(3, 3, 3, 3, 2))
    assert ops.conv(torch.empty(0, 2), packed, 3, ops.subm_map(cells, 3)).shape == (0, 3)
    assert ops.linear(torch.empty(0, 2), packed[:1].contiguous(), 3).shape == (0, 3)
