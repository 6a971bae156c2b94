"""PT-v3m1, m2, m3 and PPT-v1m2 against the numbers of Pointcept's own code, and the same for a cloud in any company."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from service.models.batch import Batch
from service.models.catalogue import FAMILIES
from service.models.layers.engine import Engine, engine
from service.models.layers.stages import by_code
from service.models.point_transformer_v3 import generation_of
from service.models.site import Generation, Site
from tests.models import golden
from tests.models.clouds import cloud, together

CPU = torch.device("cpu")
EXACT = (
    "ptv3m1_a",
    "ptv3m1_bigpatch",
    "ptv3m1_depthstep",
    "ptv3m1_encmode",
    "ptv3m1_pdnorm",
    "ptv3m1_poolshuffle",
    "ptv3m1_postnorm",
    "ptv3m1_rpe",
    "ptv3m1_rpe_noupcast",
    "ptv3m1_shuffled",
    "ptv3m1_v151",
    "ptv3m1_v151_depthstep",
    "ptv3m1_v151_postnorm_rpe",
    "ptv3m2_a",
    "ptv3m2_encmode",
    "ptv3m2_stride3",
    "ptv3m3_a",
    "ptv3m3_norope_dec",
)
FLASH = ("ptv3m1_flash", "ptv3m1_v151_flash")
"""Cases whose numbers were rounded to 16 bits inside attention, with a tolerance of their own; ours are not."""


def built(case: golden.Case, layers: Engine) -> Any:
    """Return the case's network with the case's weights, all of them, and the orders that were drawn for the case."""
    network = case.build(Site(layers, FAMILIES, case.generation))
    if "shuffle_perms" in case.arrays:
        _shuffle(network.backbone, case.arrays["shuffle_perms"].tolist())
    return network


def _blocks(backbone: Any, stage: int) -> list[list[Any]]:
    """Return the blocks of a stage, in the encoder and in the decoder."""
    parts = (
        part[name] for part, name in ((backbone.enc, f"enc{stage}"), (backbone.dec, f"dec{stage}")) if name in part
    )
    return [[module for name, module in part.items() if name.startswith("block")] for part in parts]


def _shuffle(backbone: Any, drawn: Sequence[Sequence[int]]) -> None:
    """Use the curves of each stage in the order that Pointcept drew: one for the first stage, one at each pooling."""
    stages, curves = len(backbone.enc), list(range(len(backbone.orders)))
    for stage, drawn_here in enumerate([curves] * (stages - len(drawn)) + list(drawn)):
        curves = [curves[i] for i in drawn_here]
        for blocks in _blocks(backbone, stage):
            for i, block in enumerate(blocks):
                block.attn.curve = curves[i % len(curves)]


def given_to(network: Any, case: golden.Case, device: torch.device = CPU) -> Batch:
    """Return the case's batch; where there are no numbers of each cloud alone, made to depend on the batch as theirs.

    Pointcept takes the smallest cloud for the size of a patch, and the largest for the depth of the octree.
    """
    batch, backbone = case.batch().to(device), network.backbone
    if case.clouds > 1 and "logits_alone" not in case.arrays:
        depth = (int(batch.grid_coord.max()) + 1).bit_length()
        made = by_code(batch, backbone.orders, backbone.strides, lambda _: depth)
        batch.made[backbone] = made
        for stage, cells in enumerate(made.stages):
            for block in (block for blocks in _blocks(backbone, stage) for block in blocks):
                block.attn.patch_size = min(block.attn.patch_size, *cells.sizes)
    return batch


@pytest.mark.parametrize("name", EXACT + FLASH)
def test_names_shapes_and_order_of_the_weights_are_pointcepts(shared: Path, name: str) -> None:
    case = golden.read(shared, name)
    network = case.build(Site(engine("native", CPU), FAMILIES, case.generation))
    ours = [[key, list(value.shape), str(value.dtype)[6:]] for key, value in network.state_dict().items()]
    assert ours == case.about["state_dict"]


@torch.inference_mode()
@pytest.mark.parametrize("name", EXACT)
def test_logits_are_pointcepts(shared: Path, either_engine: Engine, name: str) -> None:
    case = golden.read(shared, name)
    network = built(case, either_engine)
    ours = network(given_to(network, case))
    assert golden.error(ours, case.expected)[0] < 1e-4
    assert golden.agreement(ours, case.expected) > 0.9999
    if either_engine.folds:
        network.fold()
        assert golden.error(network(given_to(network, case)), case.expected)[0] < 1e-4


@torch.inference_mode()
@pytest.mark.parametrize("name", FLASH)
def test_logits_are_those_of_flash_attention_but_for_its_rounding(shared: Path, native: Engine, name: str) -> None:
    case = golden.read(shared, name)
    largest, mean = golden.error(built(case, native)(case.batch()), case.expected)
    tolerance = case.about["tolerance"]
    assert largest < tolerance["suggested_max"] / 4
    assert mean < tolerance["suggested_mean"] / 3


@torch.inference_mode()
@pytest.mark.parametrize(
    "name", ["ptv3m1_a", "ptv3m1_bigpatch", "ptv3m1_flash", "ptv3m1_rpe", "ptv3m1_pdnorm", "ptv3m3_a"]
)
def test_each_cloud_alone_gives_what_it_gives_in_a_batch(shared: Path, native: Engine, name: str) -> None:
    case = golden.read(shared, name)
    network = built(case, native)
    limit = 0.05 if name in FLASH else 1e-4
    for i in range(case.clouds):
        assert golden.error(network(case.batch(i)), case.expected[case.rows(i)])[0] < limit


CONFIGS: dict[str, dict[str, Any]] = {
    "plain": {"order": ("hilbert", "z-trans"), "enc_patch_size": (16, 8, 8), "dec_patch_size": (16, 8)},
    "wide strides": {"order": "hilbert-trans", "stride": (4, 2), "pre_norm": False, "enable_rpe": True},
    "no blocks": {"order": ("z",), "enc_depths": (0, 1, 0), "dec_depths": (1, 0), "enc_patch_size": (30,) * 3},
    "encoder": {"order": ("z", "hilbert"), "enc_mode": True},
    "m2": {"type": "PT-v3m2", "order": ("hilbert", "z"), "stride": (3, 2), "layer_scale": 0.3, "mask_token": True},
    "m3": {"type": "PT-v3m3", "enc_num_head": (1, 2, 1), "dec_num_head": (1, 2), "rope_base": 10, "enable_rpe": True},
    "m3 without": {"type": "PT-v3m3", "rope_base": None, "stride": (2, 5), "enc_depths": (1, 0, 2)},
}


def small(options: dict[str, Any], generation: Generation, seed: int = 0) -> Any:
    """Return a small network of random weights."""
    sizes = {
        "in_channels": 3,
        "stride": (2, 2),
        "enc_depths": (1, 2, 1),
        "enc_channels": (6, 12, 18),
        "enc_num_head": (2, 2, 3),
        "enc_patch_size": (24,) * 3,
        "dec_depths": (1, 1),
        "dec_channels": (6, 12),
        "dec_num_head": (2, 2),
        "dec_patch_size": (24,) * 2,
    }
    torch.manual_seed(seed)
    config = {"type": "PT-v3m1", **sizes, **options}
    if "enc_patch_size" in options and "dec_patch_size" not in options:
        config["dec_patch_size"] = options["enc_patch_size"][:2]
    network: Any = Site(engine("native", CPU), FAMILIES, generation).build(config).eval()
    for name, tensor in network.state_dict().items():
        if "running_var" in name:
            tensor.uniform_(0.5, 2)
        elif "norm" in name and tensor.is_floating_point():
            tensor.uniform_(-1, 1.5)
    return network


@pytest.mark.parametrize("generation", ["v1.5.1", "v1.6"])
@pytest.mark.parametrize("config", list(CONFIGS))
@given(
    st.lists(st.tuples(st.sampled_from([1, 2, 3, 7, 40, 90, 300]), st.integers(1, 50)), min_size=1, max_size=4),
    st.integers(0, 2**31),
)
@settings(max_examples=12, deadline=None)
@torch.inference_mode()
def test_any_cloud_gives_the_same_in_any_company(
    config: str, generation: Generation, clouds: list[tuple[int, int]], seed: int
) -> None:
    network = small(CONFIGS[config], generation, seed)
    batches = [cloud(voxels, extent, 3, seed + i) for i, (voxels, extent) in enumerate(clouds)]
    expected = torch.cat([network(batch) for batch in batches])
    scale = float(expected.abs().max()) + 1e-6
    assert bool(torch.isfinite(expected).all())
    assert float((network(together(batches)) - expected).abs().max()) < 1e-5 * scale
    backwards = torch.cat([network(batch) for batch in reversed(batches)])
    assert float((network(together(batches[::-1])) - backwards).abs().max()) < 1e-5 * scale
    network.fold()
    assert float((network(together(batches)) - expected).abs().max()) < 1e-4 * scale


@torch.inference_mode()
def test_rows_of_a_cloud_may_stand_in_any_order() -> None:
    network, batch = small(CONFIGS["plain"], "v1.6"), cloud(300, 12, 3, 1)
    mixed = torch.randperm(len(batch.coord), generator=torch.Generator().manual_seed(2))
    other = Batch(batch.coord[mixed], batch.grid_coord[mixed], batch.feat[mixed], batch.offset)
    assert torch.allclose(network(other), network(batch)[mixed], atol=1e-5)


@torch.inference_mode()
def test_two_runs_are_equal_to_the_bit_whatever_is_shuffled_in_training() -> None:
    batch = cloud(500, 20, 3, 0)
    network = small({"shuffle_orders": True, "drop_path": 0.5, "attn_drop": 0.5, "proj_drop": 0.5}, "v1.6")
    assert torch.equal(network(batch), network(batch))
    assert torch.equal(network(batch), small({"shuffle_orders": False}, "v1.6")(batch))


@torch.inference_mode()
def test_stages_are_made_once_for_all_batches_of_the_same_cells() -> None:
    network, batch = small(CONFIGS["plain"], "v1.6"), cloud(300, 12, 3, 1)
    network(batch)
    made = network.stages(batch)
    again = batch.with_features(batch.coord, batch.feat.flip(0))
    shared = network(again)
    assert network.stages(again) is made
    assert torch.equal(shared, network(replace(again, made={})))


@torch.inference_mode()
def test_the_generations_differ() -> None:
    # The largest cell is 2^k - 1, where the octree's depth differs too.
    batch = cloud(2000, 16, 3, 3)
    old, between, new = (
        small({"order": ("hilbert",)}, generation)(batch) for generation in ("v1.5.1", "v1.5.2", "v1.6")
    )
    assert not torch.allclose(old, between, atol=1e-3)
    assert not torch.allclose(between, new, atol=1e-3)
    z_order = {"order": ("z", "z-trans")}
    assert torch.equal(small(z_order, "v1.5.2")(batch), small(z_order, "v1.6")(batch))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({"type": "PT-v3m1"}, 46_166_272),
        ({"type": "PT-v3m2"}, 46_142_496),
        ({"type": "PT-v3m3", "enc_channels": (48, 96, 192, 384, 576), "dec_channels": (48, 96, 192, 384)}, None),
    ],
)
@torch.inference_mode()
def test_the_full_size_runs(config: dict[str, Any], expected: int | None) -> None:
    if expected is None:
        config = {**config, "enc_num_head": (2, 4, 8, 16, 24), "dec_num_head": (2, 4, 8, 16)}
    network: Any = Site(engine("native", CPU), FAMILIES).build(config).eval()
    parameters = sum(parameter.numel() for parameter in network.parameters())
    print(json.dumps({config["type"]: parameters}))
    assert expected is None or parameters == expected
    batch = together([cloud(3000, 40, 6, 0), cloud(1, 1, 6, 1)])
    logits = network(batch)
    assert logits.shape == (len(batch.coord), 48 if expected is None else 64)
    assert bool(torch.isfinite(logits).all())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"order": ("z", "z_trans")}, "order has 'z_trans'; known are z, z-trans, hilbert, hilbert-trans"),
        ({"enc_depths": (1, 1)}, "enc_depths has 2 numbers; by the length of stride it must be 3"),
        ({"dec_num_head": (2,)}, "dec_num_head has 1 numbers; by the length of stride it must be 2"),
        ({"dec_patch_size": (24, 48)}, r"enc_patch_size\[1\] is 24, dec_patch_size\[1\] is 48; they must be equal"),
        ({"enc_num_head": (4, 2, 3)}, "4 heads cannot share 6 channels"),
        ({"pdnorm_ln": True, "pdnorm_decouple": False}, "pdnorm_decouple=False is not supported"),
        ({"type": "PT-v3m3"}, "heads of a multiple of 6 channels, not 3"),
        ({"type": "PT-v3m2", "rope_base": 10}, "its PT-v3m2 has rope_base, which only PT-v3m3 knows"),
        ({"patch_sizes": 3}, "unexpected keyword argument 'patch_sizes'"),
    ],
)
def test_a_configuration_that_cannot_be_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        small(options, "v1.6")


@pytest.mark.parametrize(("family", "stride"), [("PT-v3m1", 3), ("PT-v3m1", 0), ("PT-v3m2", 0), ("PT-v3m3", 0.5)])
def test_a_stride_that_cannot_be_is_refused_when_it_is_built(family: str, stride: float) -> None:
    with pytest.raises(ValueError, match=f"stride of {stride}"):
        small({"type": family, "stride": (2, stride)}, "v1.6")


@torch.inference_mode()
def test_a_rotary_embedding_stays_in_float32() -> None:
    network = small(CONFIGS["m3"], "v1.6")
    before = {key: value.clone() for key, value in network.state_dict().items() if "inv_freq" in key}
    network.half()
    assert before
    assert all(torch.equal(network.state_dict()[key], value) for key, value in before.items())


def test_both_names_of_an_encoder_alone_are_known() -> None:
    assert not hasattr(small({"cls_mode": True}, "v1.5.1"), "dec")
    assert not hasattr(small({"enc_mode": True}, "v1.6"), "dec")


PROMPTED = {
    "type": "PPT-v1m2",
    "backbone": {
        "type": "PT-v3m1",
        "in_channels": 3,
        "stride": [2],
        "enc_depths": [1, 1],
        "enc_channels": [8, 8],
        "enc_num_head": [2, 2],
        "enc_patch_size": [16, 16],
        "dec_depths": [1],
        "dec_channels": [8],
        "dec_num_head": [2],
        "dec_patch_size": [16],
        "pdnorm_bn": True,
        "pdnorm_ln": True,
        "pdnorm_adaptive": True,
        "pdnorm_conditions": ["A", "B"],
    },
    "backbone_out_channels": 8,
    "conditions": ["A", "B"],
    "num_classes": [3, 5],
}


@torch.inference_mode()
def test_each_condition_has_its_own_norms_and_head() -> None:
    network = Site(engine("native", CPU), FAMILIES).build(PROMPTED).eval()
    batch = cloud(100, 9, 3, 0)
    assert network(replace(batch, condition="A")).shape[1] == 3
    assert network(replace(batch, condition="B")).shape[1] == 5
    for condition in (None, "C"):
        with pytest.raises(ValueError, match=f"The network knows the datasets A, B; condition is {condition!r}"):
            network(replace(batch, condition=condition))


@torch.inference_mode()
def test_norms_of_datasets_work_without_a_network_of_prompts() -> None:
    backbone = {**PROMPTED["backbone"], "pdnorm_adaptive": False}  # type: ignore[dict-item]
    network = Site(engine("native", CPU), FAMILIES).build(backbone).eval()
    batch = cloud(100, 9, 3, 0)
    assert network(replace(batch, condition="A")).shape == (len(batch.coord), 8)
    with pytest.raises(ValueError, match="condition is None"):
        network(batch)
    adaptive = Site(engine("native", CPU), FAMILIES).build(PROMPTED["backbone"]).eval()
    with pytest.raises(ValueError, match="runs inside a network that makes a context"):
        adaptive(replace(batch, condition="A"))


def test_conditions_and_classes_pair() -> None:
    with pytest.raises(ValueError, match="conditions has 2 names, but num_classes 1 numbers"):
        Site(engine("native", CPU), FAMILIES).build({**PROMPTED, "num_classes": [3]})


RUN = {"empty_cache": False, "enable_amp": True}


@pytest.mark.parametrize(
    ("config", "generation"),
    [
        ({**RUN}, "v1.5.1"),
        ({**RUN, "empty_cache_per_epoch": False}, "v1.5.2"),
        ({**RUN, "empty_cache_per_epoch": False, "amp_dtype": "float16"}, "v1.6"),
        ({"backbone": {"enc_mode": False}}, "v1.6"),
        ({"model": {"type": "DefaultSegmentorV2", "backbone": {"type": "PT-v3m1", "enc_mode": False}}}, "v1.6"),
        ({"model": {"type": "DefaultSegmentorV2", "backbone": {"type": "PT-v3m1", "cls_mode": False}}}, None),
        ({"enable_amp": True, "epoch": 800}, None),
        ({}, None),
    ],
)
def test_a_configuration_tells_its_generation_or_that_it_does_not(
    config: dict[str, Any], generation: str | None
) -> None:
    assert generation_of(config, ["backbone.embedding.stem.conv.weight"]) == generation


@pytest.mark.gpu
@torch.inference_mode()
@pytest.mark.parametrize("engine_name", ["spconv", "native"])
@pytest.mark.parametrize("name", EXACT + FLASH)
def test_a_gpu_gives_the_same(shared: Path, cuda: torch.device, name: str, engine_name: Any) -> None:
    if engine_name == "spconv":
        pytest.importorskip("spconv", reason="spconv is not installed")
    case = golden.read(shared, name)
    network = built(case, engine(engine_name, cuda)).to(cuda)
    batch = given_to(network, case, cuda)
    limit = 0.05 if name in FLASH else 1e-3
    plain = network(batch)
    network.fold()
    single = network(batch)
    half = network.half()(replace(batch, feat=batch.feat.half()))
    about = {
        "case": name,
        "engine": engine_name,
        "float32": golden.error(plain, case.expected),
        "folded": golden.error(single, case.expected),
        "half": golden.error(half, case.expected),
        "half_agreement": golden.agreement(half, case.expected),
    }
    print(json.dumps(about))
    assert about["float32"][0] < limit
    assert about["folded"][0] < limit
    assert golden.agreement(single, case.expected) > (0.995 if name in FLASH else 0.9999)
    assert about["half_agreement"] > 0.97
