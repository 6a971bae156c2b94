"""Encoders without a head: what their checkpoints say, and the features that they give."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from service.errors import ServiceError
from service.models.catalogue import FAMILIES
from service.models.experiment import Experiment
from service.transforms.recipe import FEATURES
from service.values import ModelCard
from tests.models import experiments, golden, objects
from tests.models.clouds import cloud, together

pytestmark = pytest.mark.usefixtures("quick_checkpoints")

CPU = torch.device("cpu")


def _card(path: Path) -> ModelCard:
    found = Experiment("encoder", path, FAMILIES).card_or_error()
    assert not isinstance(found, ServiceError), found.detail
    return found


@pytest.mark.parametrize(
    ("carried", "family", "whose", "grid_size"),
    [(objects.SONATA, "PT-v3m2", "Sonata", 0.02), (objects.UTONIA, "PT-v3m3", "Utonia", 0.01)],
)
@torch.inference_mode()
def test_a_published_checkpoint_gives_features(
    tmp_path: Path, carried: dict[str, Any], family: str, whose: str, grid_size: float
) -> None:
    network = objects.write_encoder(tmp_path / "encoder.pth", carried, family)
    card = _card(tmp_path / "encoder.pth")
    assert (card.tasks, card.family, card.classes, card.grid_size) == (("embed",), family, (), grid_size)
    assert card.inputs == ("coord", "color", "normal") and sum(FEATURES[name] for name in card.inputs) == 9
    assert f"{whose}'s transforms were taken" in card.about["warnings"][0]
    assert card.title == f"{family}, features without classes"
    model = Experiment("encoder", tmp_path / "encoder.pth", FAMILIES).load(CPU, "native")
    batches = [cloud(200, 20, 9, 0), cloud(50, 9, 9, 1)]
    features = model.embed(together(batches))
    assert features.shape == (sum(len(batch.coord) for batch in batches), 12 + 24 + 36)
    alone = torch.cat([network(batch) for batch in batches])
    assert torch.allclose(features, alone, atol=1e-4)


PRETRAINING = """model = dict(
    type='Sonata-v1m1',
    backbone={backbone!r},
    teacher_custom=dict(drop_path=0.0),
    head_in_channels=60,
    num_global_view=2)
amp_dtype = 'bfloat16'
empty_cache = False
enable_amp = True
data = dict(
    train=dict(
        type='ConcatDataset',
        datasets=[
            dict(
                type='DefaultDataset',
                transform=[
                    dict(type='GridSample', grid_size=0.04, hash_type='fnv', mode='train'),
                    dict(type='MultiViewGenerator', global_view_num=2)
                ])
        ],
        loop=1))
"""


@torch.inference_mode()
def test_an_experiment_of_a_training_without_labels_gives_its_students_features(tmp_path: Path) -> None:
    backbone = {"type": "PT-v3m2", **objects.SONATA}
    student, teacher = objects.network(backbone, 1), objects.network(backbone, 2)
    saved = {f"student.backbone.{key}": value for key, value in student.state_dict().items()}
    saved |= {f"teacher.backbone.{key}": value for key, value in teacher.state_dict().items()}
    saved |= {"student.mask_head.last_layer.weight": torch.zeros(4, 4)}
    (tmp_path / "model").mkdir()
    (tmp_path / "config.py").write_text(PRETRAINING.format(backbone=backbone))
    torch.save(
        {**experiments.state(student), "state_dict": {f"module.{k}": v for k, v in saved.items()}},
        tmp_path / "model" / "model_last.pth",
    )
    card = _card(tmp_path)
    assert (card.title, card.tasks) == ("Sonata-v1m1 of PT-v3m2, features without classes", ("embed",))
    assert card.grid_size == 0.04
    assert "The training's views are not what a cloud is seen in" in card.about["warnings"][0]
    model = Experiment("encoder", tmp_path, FAMILIES).load(CPU, "native")
    batch = cloud(200, 20, 9, 0)
    assert torch.allclose(model.embed(batch), student(batch), atol=1e-4)
    torch.save(
        {"state_dict": {f"module.{k}": v for k, v in list(saved.items())[3:]}}, tmp_path / "model" / "model_last.pth"
    )
    with pytest.raises(ServiceError, match="3 missing"):
        Experiment("encoder", tmp_path, FAMILIES).load(CPU, "native")


@torch.inference_mode()
def test_a_segmentor_with_a_head_gives_what_the_head_reads(tmp_path: Path) -> None:
    made = experiments.write(tmp_path / "exp", experiments.POINT_TRANSFORMER)
    model = Experiment("room", tmp_path / "exp", FAMILIES).load(CPU, "native")
    assert model.card.tasks == ("segment", "embed")
    batch = cloud(200, 20, 6, 0)
    features = model.embed(batch)
    assert features.shape[1] == 16
    assert torch.allclose(made.seg_head(features), model.forward(batch), atol=1e-4)


@pytest.mark.parametrize("name", ["ptv3m2_encmode"])
@torch.inference_mode()
def test_features_are_those_that_pointcepts_head_reads(shared: Path, native: Any, name: str) -> None:
    from service.models.site import Site

    case = golden.read(shared, name)
    network: Any = case.build(Site(native, FAMILIES))
    logits = network.seg_head(network.features(case.batch()))
    assert golden.error(logits, case.expected)[0] < 1e-4


@pytest.mark.gpu
@torch.inference_mode()
def test_a_gpu_gives_the_same_features(tmp_path: Path, cuda: torch.device) -> None:
    objects.write_encoder(tmp_path / "encoder.pth", objects.SONATA)
    experiment = Experiment("encoder", tmp_path / "encoder.pth", FAMILIES)
    batch = cloud(500, 20, 9, 0)
    expected = experiment.load(CPU, "native").embed(batch)
    found = experiment.load(cuda, "auto").embed(batch.to(cuda)).cpu()
    assert float((found - expected).abs().max()) < 0.05 * float(expected.std())


def test_another_network_without_a_head_is_refused_as_before(tmp_path: Path) -> None:
    contents = {"config": {"channels": 3, "layers": 2}, "state_dict": {"weight": torch.zeros(1)}}
    torch.save(contents, tmp_path / "other.pth")
    found = Experiment("other", tmp_path / "other.pth", FAMILIES).card_or_error()
    assert isinstance(found, ServiceError) and "describes a network without a head" in found.detail


def test_an_experiment_of_nine_channels_without_transforms_is_refused(tmp_path: Path) -> None:
    experiments.write(tmp_path / "exp", experiments.SPUNET.replace("in_channels=6", "in_channels=9"))
    config = tmp_path / "exp" / "config.py"
    text = config.read_text()
    config.write_text(text[: text.index("data = dict(")])
    found = Experiment("nine", tmp_path / "exp", FAMILIES).card_or_error()
    assert isinstance(found, ServiceError) and "has no `data`" in found.detail


def test_an_encoder_of_other_channels_says_that_its_input_is_unknown(tmp_path: Path) -> None:
    objects.write_encoder(tmp_path / "six.pth", {**objects.SONATA, "in_channels": 6})
    found = Experiment("six", tmp_path / "six.pth", FAMILIES).card_or_error()
    assert isinstance(found, ServiceError) and "has no `data`" in found.detail
