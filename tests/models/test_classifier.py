"""Classifiers against the numbers of Pointcept's own code, and from the folders that its training leaves."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from service.errors import ServiceError
from service.models.catalogue import FAMILIES
from service.models.experiment import Experiment
from service.models.layers.engine import Engine, engine
from service.models.site import Site
from tests.models import golden, objects
from tests.models.clouds import cloud, together

pytestmark = pytest.mark.usefixtures("quick_checkpoints")

CPU = torch.device("cpu")
CASES = ("cls_ptv3m1", "cls_spunet")


@pytest.mark.parametrize("name", CASES)
@torch.inference_mode()
def test_weights_and_logits_are_pointcepts(shared: Path, either_engine: Engine, name: str) -> None:
    case = golden.read(shared, name)
    network: Any = case.build(Site(either_engine, FAMILIES))
    ours = [[key, list(value.shape), str(value.dtype)[6:]] for key, value in network.state_dict().items()]
    assert ours == case.about["state_dict"]
    whole = network(case.batch())
    alone = torch.cat([network(case.batch(i)) for i in range(case.clouds)])
    errors = [golden.error(logits, case.expected)[0] for logits in (whole, alone)]
    if either_engine.folds:
        network.fold()
        errors.append(golden.error(network(case.batch()), case.expected)[0])
    print(json.dumps({"case": name, "engine": either_engine.name, "errors": errors}))
    assert max(errors) < 1e-4
    assert golden.agreement(whole, case.expected) == 1


@pytest.mark.gpu
@pytest.mark.parametrize("name", CASES)
@torch.inference_mode()
def test_a_gpu_gives_the_same(shared: Path, cuda: torch.device, name: str) -> None:
    case = golden.read(shared, name)
    network: Any = case.build(Site(engine("auto", cuda), FAMILIES)).to(cuda)
    batch = case.batch().to(cuda)
    single = network(batch)
    half = network.half()(replace(batch, feat=batch.feat.half()))
    errors = [golden.error(logits, case.expected) for logits in (single, half)]
    print(json.dumps({"case": name, "errors": errors}))
    assert errors[0][0] < 1e-3
    assert golden.agreement(half, case.expected) == 1


def _built(backbone: dict[str, Any], channels: int) -> Any:
    torch.manual_seed(0)
    config = {"type": "DefaultClassifier", "num_classes": 4, "backbone_embed_dim": channels, "backbone": backbone}
    return Site(engine("native", CPU), FAMILIES).build(config).eval()


BACKBONES: list[tuple[dict[str, Any], int]] = [
    (objects.ENCODER, 24),
    ({**objects.ENCODER, "type": "PT-v3m2"}, 24),
    (objects.DECODER, 16),
    (objects.SPUNET, 16),
    ({**objects.SPUNET, "num_classes": 7}, 7),
    ({"type": "PointTransformer-Cls26", "in_channels": 6, "num_classes": 9}, 9),
    ({"type": "PointTransformer-Cls38", "in_channels": 3, "num_classes": 9}, 9),
]


@pytest.mark.parametrize(("backbone", "channels"), BACKBONES)
@given(
    st.lists(st.tuples(st.sampled_from([1, 2, 3, 60, 300]), st.integers(1, 40)), min_size=1, max_size=3),
    st.integers(0, 2**31),
)
@settings(max_examples=4, deadline=None)
@torch.inference_mode()
def test_any_cloud_has_the_same_class_in_any_company(
    backbone: dict[str, Any], channels: int, clouds: list[tuple[int, int]], seed: int
) -> None:
    network = _built(backbone, channels)
    batches = [cloud(voxels, extent, 3, seed + i) for i, (voxels, extent) in enumerate(clouds)]
    expected = torch.cat([network(batch) for batch in batches])
    assert expected.shape == (len(batches), 4) and bool(torch.isfinite(expected).all())
    assert torch.allclose(network(together(batches)), expected, atol=1e-5)


@torch.inference_mode()
def test_three_channels_of_pointtransformer_cls_are_the_coordinates() -> None:
    network = _built({"type": "PointTransformer-Cls26", "in_channels": 3, "num_classes": 9}, 9)
    batch = cloud(100, 9, 5, 0)
    assert torch.equal(network(batch), network(replace(batch, feat=torch.zeros_like(batch.feat))))


def test_a_backbone_that_has_no_answer_for_a_cloud_is_refused() -> None:
    with pytest.raises(ValueError, match="has an answer for each point, and none for a cloud as a whole"):
        _built({**objects.SPUNET, "enc_mode": False}, 16)


def test_an_experiment_says_what_it_is_good_for(tmp_path: Path) -> None:
    objects.write(tmp_path / "exp")
    source = Experiment("shapes", tmp_path / "exp", FAMILIES)
    card = source.card_or_error()
    assert not isinstance(card, ServiceError)
    assert card.tasks == ("classify",)
    assert [one.name for one in card.classes] == objects.CLASSES
    assert card.inputs == ("coord", "normal") and card.grid_size == 0.01
    assert card.title == "DefaultClassifier of PT-v3m1, 4 classes"
    model = source.load(CPU, "native")
    assert model.card.tasks == ("classify",)
    assert [step.to_dict()["type"] for step in model.recipe.before or ()] == ["NormalizeCoord"]


def test_its_input_is_that_of_its_tests_or_else_of_its_validation(tmp_path: Path) -> None:
    text = objects.config()
    folder = tmp_path / "exp"
    objects.write(folder)
    for old, new in (("test_cfg=dict(", "other_cfg=dict("), ("mode='test-of-objects'", "mode='train'")):
        (folder / "config.py").write_text(text.replace(old, new))
        card = Experiment("shapes", folder, FAMILIES).card_or_error()
        assert not isinstance(card, ServiceError) and card.grid_size == 0.01
    (folder / "config.py").write_text(
        text.replace("feat_keys=('coord', 'normal')", "feat_keys=('coord', 'color', 'normal')")
    )
    wrong = Experiment("shapes", folder, FAMILIES).card_or_error()
    assert isinstance(wrong, ServiceError) and "reads 6 input channels, and its transforms make 9" in wrong.detail


def test_the_channels_of_pointtransformer_cls_count_its_coordinates(tmp_path: Path) -> None:
    backbone = "dict(type='PointTransformer-Cls26', in_channels=9, num_classes=16)"
    objects.write(tmp_path / "exp", backbone, 16)
    card = Experiment("shapes", tmp_path / "exp", FAMILIES).card_or_error()
    assert not isinstance(card, ServiceError) and card.inputs == ("coord", "normal")


def test_outputs_that_no_class_belongs_to_are_numbered(tmp_path: Path) -> None:
    objects.write(tmp_path / "exp")
    config = tmp_path / "exp" / "config.py"
    text = (
        config.read_text()
        .replace("'sphere', ", "")
        .replace("data = dict(\n    num_classes=4", "data = dict(\n    num_classes=3")
    )
    config.write_text(text)
    card = Experiment("shapes", tmp_path / "exp", FAMILIES).card_or_error()
    assert not isinstance(card, ServiceError)
    assert [one.name for one in card.classes] == ["cube", "cone", "tube", "class 3"]
    assert card.about["warnings"] == [
        "The network has 4 outputs and the configuration 3 names: the others are numbered."
    ]


def test_a_head_with_other_classes_than_the_names_is_refused(tmp_path: Path) -> None:
    objects.write(tmp_path / "exp")
    config = tmp_path / "exp" / "config.py"
    config.write_text(config.read_text().replace("'sphere', ", ""))
    wrong = Experiment("shapes", tmp_path / "exp", FAMILIES).card_or_error()
    assert isinstance(wrong, ServiceError) and "names 3 classes" in wrong.detail
