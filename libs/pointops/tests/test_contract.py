"""What holds for every operator: torch's own checks, both kernels, and clear errors for bad arguments."""

from __future__ import annotations

import subprocess
import sys

import pointops
import pytest
import torch
from torch import Tensor

from .clouds import room

OPERATORS = [
    "knn_query",
    "ball_query",
    "random_ball_query",
    "farthest_point_sampling",
    "grouping",
    "interpolation",
    "subtraction",
    "aggregation",
    "attention_relation_step",
    "attention_fusion_step",
]


def samples(device: str) -> dict[str, tuple]:
    """Arguments that fit, for each operator."""
    g = torch.Generator().manual_seed(0)

    def floats(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=g).to(device)

    def ints(high: int, *shape: int) -> Tensor:
        return torch.randint(0, high, shape, generator=g, dtype=torch.int32).to(device)

    xyz, offset = room(50).to(device), torch.tensor([30, 50], dtype=torch.int32, device=device)
    new_xyz, new_offset = floats(9, 3), torch.tensor([4, 9], dtype=torch.int32, device=device)
    clouds = (xyz, offset, new_xyz, new_offset)
    order = torch.arange(50, dtype=torch.int32, device=device)
    return {
        "knn_query": (4, *clouds),
        "ball_query": (4, 1.0, 0.1, *clouds),
        "random_ball_query": (4, 1.0, 0.1, order, *clouds),
        "farthest_point_sampling": (xyz, offset, new_offset),
        "grouping": (ints(50, 9, 4), floats(50, 5), xyz, new_xyz),
        "interpolation": (floats(50, 5), ints(50, 9, 4), floats(9, 4).abs()),
        "subtraction": (floats(9, 5), floats(50, 5), ints(50, 9, 4)),
        "aggregation": (floats(50, 6), floats(9, 4, 6), floats(9, 4, 3), ints(50, 9, 4)),
        "attention_relation_step": (floats(20, 2, 4), floats(20, 2, 4), floats(4), ints(20, 33), ints(20, 33)),
        "attention_fusion_step": (floats(33, 2), floats(20, 2, 4), ints(20, 33), ints(20, 33)),
    }


def test_all_operators_are_tested():
    defined = {str(name) for name in torch._C._dispatch_get_all_op_names() if str(name).startswith("pointops::")}
    assert defined == {f"pointops::{name}" for name in OPERATORS}
    assert set(samples("cpu")) == set(OPERATORS)


@pytest.mark.parametrize("name", OPERATORS)
def test_torch_accepts_the_operator(device, name):
    torch.library.opcheck(getattr(torch.ops.pointops, name).default, samples(device)[name])


@pytest.mark.parametrize("name", OPERATORS)
def test_every_device_has_a_kernel(name):
    assert torch._C._dispatch_has_kernel_for_dispatch_key(f"pointops::{name}", "CPU")
    if torch.cuda.is_available():
        assert torch._C._dispatch_has_kernel_for_dispatch_key(f"pointops::{name}", "CUDA")


@pytest.mark.gpu
@pytest.mark.parametrize("name", OPERATORS)
def test_devices_agree(name):
    on_cpu = getattr(torch.ops.pointops, name)(*samples("cpu")[name])
    on_cuda = getattr(torch.ops.pointops, name)(*samples("cuda")[name])
    torch.testing.assert_close(on_cuda, on_cpu, check_device=False, rtol=1e-5, atol=1e-5)


ROWS = torch.arange(10, dtype=torch.float32)[:, None].expand(10, 3).contiguous()
ENDS = torch.tensor([10], dtype=torch.int32)


def broken(row: int, value: float) -> Tensor:
    xyz = ROWS.clone()
    xyz[row, 1] = value
    return xyz


@pytest.mark.parametrize(
    ("arguments", "error", "says"),
    [
        ((0, ROWS, ENDS, ROWS, ENDS), ValueError, "nsample must be from 1"),
        ((-3, ROWS, ENDS, ROWS, ENDS), ValueError, "nsample must be from 1"),
        ((2, ROWS.double(), ENDS, ROWS, ENDS), TypeError, "xyz must be float32"),
        ((2, ROWS, ENDS, ROWS.half(), ENDS), TypeError, "new_xyz must be float32"),
        ((2, ROWS, ENDS.float(), ROWS, ENDS), TypeError, "offset must be int32 or int64"),
        ((2, ROWS[:, :2].contiguous(), ENDS, ROWS, ENDS), ValueError, "xyz must have size 3 in dimension 1"),
        ((2, ROWS[0], ENDS, ROWS, ENDS), ValueError, r"xyz must have 2 dimension"),
        ((2, ROWS[::2], ENDS, ROWS, ENDS), ValueError, "xyz must be contiguous"),
        ((2, ROWS, ENDS - 1, ROWS, ENDS), ValueError, "offset must end at the number of points, 10, it ends at 9"),
        ((2, ROWS, ENDS, ROWS, ENDS + 2), ValueError, "new_offset must end at the number of points, 10"),
        ((2, ROWS, torch.tensor([7, 4, 10]), ROWS, ENDS), ValueError, "offset goes down at place 1: 7 then 4"),
        ((2, ROWS, torch.tensor([-1, 10]), ROWS, ENDS), ValueError, "offset goes down at place 0"),
        ((2, ROWS, ENDS[:0], ROWS, ENDS), ValueError, "offset is empty"),
        ((2, ROWS, ENDS, ROWS, torch.tensor([5, 10])), ValueError, "new_offset has 2 clouds, offset has 1"),
        ((2, broken(4, float("nan")), ENDS, ROWS, ENDS), ValueError, r"^xyz\[4\] has a coordinate that is not finite"),
        ((2, broken(9, float("-inf")), ENDS, ROWS, ENDS), ValueError, r"^xyz\[9\] has a coordinate"),
        ((2, ROWS, ENDS, broken(0, 1e30), ENDS), ValueError, r"new_xyz\[0\] has a coordinate"),
        ((2, ROWS.clone().requires_grad_(), ENDS, ROWS, ENDS), ValueError, "xyz requires grad"),
    ],
)
def test_bad_queries_are_refused(device, arguments, error, says):
    at = [a.to(device) if isinstance(a, Tensor) else a for a in arguments]
    if isinstance(at[1], Tensor) and says == "xyz must be contiguous":
        at[1] = ROWS.to(device)[::2]
    with pytest.raises(error, match=says):
        torch.ops.pointops.knn_query(*at)


@pytest.mark.parametrize(
    ("radii", "says"),
    [
        ((-1.0, 0.0), "max_radius must be finite and not negative"),
        ((1.0, -0.5), "min_radius must be finite and not negative"),
        ((float("nan"), 0.0), "max_radius must be finite"),
        ((1.0, 2.0), r"min_radius \(2\) must be below max_radius \(1\)"),
    ],
)
def test_bad_radii_are_refused(device, radii, says):
    xyz, offset = ROWS.to(device), ENDS.to(device)
    for function in (pointops.ball_query, pointops.random_ball_query):
        with pytest.raises(ValueError, match=says):
            function(3, *radii, xyz, offset)


def test_a_shuffle_of_bad_offsets_is_refused_by_name(device):
    for ends, says in (
        ([7, 4, 10], "offset goes down at place 1"),
        ([9], "offset must end at"),
        ([], "offset is empty"),
    ):
        offset = torch.tensor(ends, dtype=torch.int32, device=device)
        with pytest.raises(ValueError, match=says):
            pointops.random_ball_query(3, 1.0, 0.0, ROWS.to(device), offset)


def test_orders_that_are_none_are_refused(device):
    xyz, offset = ROWS.to(device), torch.tensor([4, 10], device=device)
    for order in ([0, 1, 2, 2, 4, 5, 6, 7, 8, 9], [0, 1, 2, 4, 3, 5, 6, 7, 8, 9], [0, 1, 2, 3, 4, 5, 6, 7, 8, 99]):
        at = torch.tensor(order, dtype=torch.int32, device=device)
        with pytest.raises(ValueError, match="order must hold every row of each cloud once"):
            torch.ops.pointops.random_ball_query(3, 1.0, 0.0, at, xyz, offset, xyz, offset)


def test_sampling_of_nothing_is_refused(device):
    xyz, offset = ROWS.to(device), torch.tensor([0, 10], device=device)
    with pytest.raises(ValueError, match="cloud 0 has no points, new_offset asks for 2"):
        pointops.farthest_point_sampling(xyz, offset, torch.tensor([2, 4], device=device))
    none = pointops.farthest_point_sampling(xyz[:0], offset[:1], offset[:1])
    assert none.shape == (0,)


def test_queries_of_nothing(device):
    nothing, none = torch.zeros(0, 3, device=device), torch.zeros(1, dtype=torch.int32, device=device)
    xyz, offset = ROWS.to(device), ENDS.to(device)
    assert pointops.knn_query(3, nothing, none)[0].shape == (0, 3)
    assert pointops.knn_query(3, xyz, offset, nothing, none)[0].shape == (0, 3)
    for function in (pointops.knn_query, lambda k, *a: pointops.ball_query(k, 1.0, 0.0, *a)):
        idx, dist = function(3, nothing, none, xyz, offset)
        assert (idx == -1).all()
        assert (dist == 1e5).all()


@pytest.mark.parametrize("name", ["grouping", "interpolation", "subtraction", "aggregation"])
@pytest.mark.parametrize("value", [-2, 50])
def test_indices_outside_are_refused(device, name, value):
    arguments = list(samples(device)[name])
    place = next(i for i, a in enumerate(arguments) if a.dtype == torch.int32)
    arguments[place][5, 2] = value
    with pytest.raises(ValueError, match="idx must lie from -1 to 49; element 22"):
        getattr(torch.ops.pointops, name)(*arguments)


@pytest.mark.parametrize("name", ["attention_relation_step", "attention_fusion_step"])
@pytest.mark.parametrize("value", [-1, 20])
def test_pairs_outside_are_refused(device, name, value):
    for place, argument in ((-2, "index_target"), (-1, "index_refer")):
        arguments = list(samples(device)[name])
        arguments[place][7] = value
        with pytest.raises(ValueError, match=f"{argument} must lie from 0 to 19; element 7"):
            getattr(torch.ops.pointops, name)(*arguments)


@pytest.mark.parametrize("name", OPERATORS)
def test_every_tensor_is_checked(device, name):
    """Wrong dtype, wrong shape, non-contiguous, with a gradient: for each tensor in its turn, by its own name."""
    operator = getattr(torch.ops.pointops, name)
    names = [argument.name for argument in operator.default._schema.arguments]
    for place, argument in enumerate(names):
        good = samples(device)[name]
        if not isinstance(good[place], Tensor):
            continue
        with pytest.raises(TypeError, match=f"{argument} must be"):
            operator(*good[:place], good[place].bool(), *good[place + 1 :])
        with pytest.raises(ValueError, match=f"{argument} must have .* dimension"):
            operator(*good[:place], good[place][None], *good[place + 1 :])
        doubled = torch.stack((good[place], good[place]), -1)[..., 0]
        with pytest.raises(ValueError, match=f"{argument} must be contiguous"):
            operator(*good[:place], doubled, *good[place + 1 :])
        if good[place].is_floating_point():
            learning = good[place].clone().requires_grad_()
            with pytest.raises(ValueError, match=f"^{argument} requires grad; this operator is forward only"):
                operator(*good[:place], learning, *good[place + 1 :])
            with torch.no_grad():
                operator(*good[:place], learning, *good[place + 1 :])


def test_half_a_pair_of_centres_is_refused():
    with pytest.raises(ValueError, match="new_xyz and new_offset must be given together"):
        pointops.knn_query(3, ROWS, ENDS, new_xyz=ROWS)
    with pytest.raises(ValueError, match="nsample and offset are needed"):
        pointops.knn_query_and_group(ROWS, ROWS, ENDS)
    with pytest.raises(ValueError, match="max_radio are needed"):
        pointops.ball_query_and_group(ROWS, ROWS, ENDS, nsample=3)


@pytest.mark.gpu
def test_tensors_of_two_devices_are_refused():
    with pytest.raises(ValueError, match="offset is on cpu, the other arguments are on cuda"):
        pointops.knn_query(3, ROWS.cuda(), ENDS)
    with pytest.raises(ValueError, match="xyz is on cpu, the other arguments are on cuda"):
        pointops.knn_query(3, ROWS, ENDS.cuda())
    with pytest.raises(ValueError, match="feat is on cpu, the other arguments are on cuda"):
        pointops.grouping2(ROWS, torch.zeros(2, 3, dtype=torch.int32, device="cuda"))


@pytest.mark.gpu
def test_results_past_int32(device):
    """More than 2**31 numbers in the result: 8.6 GB."""
    if device == "cpu" or torch.cuda.get_device_properties(0).total_memory < 40e9:
        pytest.skip("needs 40 GB of GPU memory")
    feat = torch.arange(300, dtype=torch.float32, device=device).reshape(3, 100)
    idx = torch.zeros(1_400_000, 16, dtype=torch.int32, device=device)
    idx[-1, -1] = 2
    grouped = pointops.grouping2(feat, idx)
    assert grouped.numel() > 2**31
    assert torch.equal(grouped[-1, -1], feat[2])
    assert torch.equal(grouped[-1, -2], feat[0])


def test_one_import_loads_the_operators():
    code = "import pointops._C, torch; torch.ops.pointops.knn_query"
    subprocess.run([sys.executable, "-c", f"import torch; {code}"], check=True)
