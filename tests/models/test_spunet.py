"""SpUNet-v1m1 against the numbers of Pointcept's own code."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from service.models import spunet
from service.models.batch import Batch
from service.models.catalogue import FAMILIES
from service.models.layers.engine import Engine, engine
from service.models.site import Site
from tests.models import golden

CASES = ("spunet_v1m1_a", "spunet_v1m1_b")


def built(case: golden.Case, layers: Engine) -> Any:
    """Return the case's network with the case's weights, all of them."""
    return case.build(Site(layers, FAMILIES))


@pytest.mark.parametrize("name", CASES)
def test_names_shapes_and_order_of_the_weights_are_pointcepts(shared: Path, native: Engine, name: str) -> None:
    case = golden.read(shared, name)
    ours = [[key, list(value.shape), str(value.dtype)[6:]] for key, value in built(case, native).state_dict().items()]
    assert ours == case.about["state_dict"]


@torch.inference_mode()
@pytest.mark.parametrize("name", CASES)
def test_logits_are_pointcepts(shared: Path, either_engine: Engine, name: str) -> None:
    case = golden.read(shared, name)
    largest, mean = golden.error(built(case, either_engine)(case.batch()), case.arrays["logits"])
    assert largest < 1e-4
    assert mean < 1e-5


@torch.inference_mode()
@pytest.mark.parametrize("name", CASES)
def test_folded_norms_change_nothing(shared: Path, native: Engine, name: str) -> None:
    case = golden.read(shared, name)
    network = built(case, native)
    network.fold()
    assert not any(isinstance(module, torch.nn.BatchNorm1d) for module in network.modules())
    assert golden.error(network(case.batch()), case.arrays["logits"])[0] < 1e-4


@torch.inference_mode()
def test_each_cloud_alone_gives_what_it_gives_in_a_batch(shared: Path, native: Engine) -> None:
    case = golden.read(shared, "spunet_v1m1_a")
    network = built(case, native)
    together = network(case.batch())
    for cloud in range(2):
        alone = network(case.batch(cloud))
        assert torch.allclose(alone, together[case.rows(cloud)], atol=1e-5 * float(together.std()), rtol=0)
    swapped = [case.batch(1), case.batch(0)]
    other = network(
        Batch(
            *(torch.cat([getattr(part, name) for part in swapped]) for name in ("coord", "grid_coord", "feat")),
            torch.tensor([len(swapped[0].coord), len(case.arrays["coord"])]),
        )
    )
    first = len(swapped[0].coord)
    assert torch.allclose(other[:first], together[case.rows(1)], atol=1e-5 * float(together.std()), rtol=0)


@torch.inference_mode()
def test_the_compiled_engine_gives_a_cloud_the_same_bits_in_any_batch(shared: Path) -> None:
    pytest.importorskip("sparseconv", reason="libs/sparseconv is not built")
    case = golden.read(shared, "spunet_v1m1_a")
    network = built(case, engine("native", torch.device("cpu")))
    network.fold()
    together = network(case.batch())
    for cloud in range(2):
        assert torch.equal(network(case.batch(cloud)), together[case.rows(cloud)])


@torch.inference_mode()
def test_two_runs_are_equal_to_the_bit(shared: Path, native: Engine) -> None:
    case = golden.read(shared, "spunet_v1m1_a")
    network = built(case, native)
    assert torch.equal(network(case.batch()), network(case.batch()))


@torch.inference_mode()
def test_without_classes_the_features_come_out(shared: Path, native: Engine) -> None:
    case = golden.read(shared, "spunet_v1m1_b")
    network = spunet.SpUNet(native, **{**case.backbone, "num_classes": 0}).eval()
    assert network(case.batch()).shape == (4446, 16)
    assert not any(key.startswith("final") for key in network.state_dict())


def test_a_list_of_stages_that_does_not_pair_is_refused(native: Engine) -> None:
    with pytest.raises(ValueError, match="as many layers as channels"):
        spunet.SpUNet(native, 4, 2, channels=(8, 8, 8), layers=(1, 1, 1))


def test_an_encoder_alone_labels_no_points_and_its_switch_is_known(native: Engine) -> None:
    site = Site(native, FAMILIES)
    config = {"type": "SpUNet-v1m1", "in_channels": 3, "num_classes": 2, "channels": [8, 8], "layers": [1, 1]}
    for switch in ("enc_mode", "cls_mode"):
        whole = {"type": "DefaultSegmentor", "backbone": {**config, switch: False}}
        assert isinstance(site.build(whole).backbone, spunet.SpUNet)
        with pytest.raises(ValueError, match="an encoder alone, which has one answer for a cloud"):
            site.build({**whole, "backbone": {**config, switch: True}})


def test_the_spconv_engine_trains() -> None:
    pytest.importorskip("spconv", reason="spconv is not installed")
    network = spunet.SpUNet(engine("spconv", torch.device("cpu")), 1, 2, 4, (4, 8, 8, 4), (1, 1, 1, 1))
    cells = torch.unique(torch.randint(0, 9, (200, 3), generator=torch.Generator().manual_seed(0)).int(), dim=0)
    batch = Batch(cells.float(), cells, torch.ones(len(cells), 1), torch.tensor([len(cells)]))
    network(batch).square().mean().backward()
    assert all(
        parameter.grad is not None and bool(parameter.grad.abs().sum() > 0) for parameter in network.parameters()
    )


@pytest.mark.gpu
@torch.inference_mode()
@pytest.mark.parametrize("engine_name", ["spconv", "native"])
@pytest.mark.parametrize("name", CASES)
def test_a_gpu_gives_the_same(shared: Path, cuda: torch.device, name: str, engine_name: str) -> None:
    if engine_name == "spconv":
        pytest.importorskip("spconv", reason="spconv is not installed")
    case = golden.read(shared, name)
    batch = case.batch().to(cuda)
    network = built(case, engine(engine_name, cuda)).to(cuda)
    network.fold()
    single = network(batch)
    assert golden.error(single, case.arrays["logits"])[0] < 1e-3
    half = network.half()(replace(batch, feat=batch.feat.half()))
    assert float((half.argmax(1) == single.argmax(1)).float().mean()) > 0.97
    print(json.dumps({"case": name, "engine": engine_name, "float32": golden.error(single, case.arrays["logits"])}))
