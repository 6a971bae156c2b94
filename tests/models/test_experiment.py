"""Experiments become models: what their configuration says is what runs, and what does not fit is named."""

from __future__ import annotations

import dataclasses
import importlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from service.errors import ServiceError, UnusableModel
from service.models import conventions
from service.models.catalogue import FAMILIES
from service.models.experiment import Experiment
from service.models.site import Generation
from service.values import ModelCard
from tests.models import experiments

pytestmark = pytest.mark.usefixtures("quick_checkpoints")

CPU = torch.device("cpu")
UNKNOWN = "hooks = []\n"


def _edit(folder: Path, old: str, new: str) -> None:
    """Change the text of a folder's configuration."""
    text = (folder / "config.py").read_text()
    assert old in text
    (folder / "config.py").write_text(text.replace(old, new))


def _card(path: Path, told: str | None = None) -> ModelCard:
    found = Experiment("tiny", path, FAMILIES, told).card_or_error()
    assert isinstance(found, ModelCard), found
    return found


def _wrong(path: Path, told: str | None = None) -> str:
    found = Experiment("tiny", path, FAMILIES, told).card_or_error()
    assert isinstance(found, ServiceError)
    return found.detail


@pytest.fixture(scope="module")
def spunet(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A SpUNet experiment that no test changes."""
    folder = tmp_path_factory.mktemp("exp") / "spunet"
    experiments.write(folder)
    return folder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A SpUNet configuration to be changed; its checkpoint is never read."""
    (tmp_path / "model").mkdir()
    (tmp_path / "config.py").write_text(experiments.config())
    torch.save({"state_dict": {"a": torch.ones(1)}}, tmp_path / "model" / "model_last.pth")
    return tmp_path


def test_the_card_tells_what_the_folder_says(spunet: Path) -> None:
    model = Experiment("tiny", spunet, FAMILIES).load(CPU, "native")
    card = model.card
    assert (card.name, card.family, card.inputs, card.grid_size) == ("tiny", "SpUNet-v1m1", ("color", "normal"), 0.02)
    assert [(c.name, c.color) for c in card.classes] == [
        ("wall", (174, 199, 232)),
        ("floor", (152, 223, 138)),
        ("cabinet", (31, 119, 180)),
    ]
    assert card.parameters == sum(p.numel() for p in experiments.network().parameters())
    assert card.source == str(spunet)
    assert card.about["generation"] == "v1.6"
    assert card.about["warnings"] == []
    assert card.about["checkpoint"]["epoch"] == 100
    assert len(card.about["checkpoint"]["sha256"]) == 64
    about = {key: value for key, value in card.about.items() if key != "checkpoint"}
    assert dataclasses.replace(card, about=about) == _card(spunet)
    assert len(model.recipe.augmentations) == 2


def test_a_checkpoint_may_carry_its_configuration_or_stand_beside_it(spunet: Path, tmp_path: Path) -> None:
    from service.models import config

    weights = spunet / "model" / "model_best.pth"
    assert _card(weights).classes == _card(spunet).classes
    contents = torch.load(weights, weights_only=False)
    text = experiments.config()
    values = config.read_text(text, "config.py")
    for carried in (text, values):
        torch.save({"config": carried, "state_dict": contents["state_dict"]}, tmp_path / "one.pth")
        assert _card(tmp_path / "one.pth").inputs == ("color", "normal")
    assert Experiment("one", tmp_path / "one.pth", FAMILIES).load(CPU, "native").card.parameters > 0
    torch.save({"state_dict": contents["state_dict"]}, tmp_path / "none.pth")
    assert "carries no configuration, and there is no config.py beside it" in _wrong(tmp_path / "none.pth")
    sonata = {"in_channels": 9, "order": ["z"], "enc_mode": True}
    torch.save({"config": sonata, "state_dict": contents["state_dict"]}, tmp_path / "bare.pth")
    assert "describes a network without a head" in _wrong(tmp_path / "bare.pth")
    torch.save({"config": values["model"], "state_dict": contents["state_dict"]}, tmp_path / "model.pth")
    assert "has no `data`" in _wrong(tmp_path / "model.pth")
    nine = experiments.SPUNET.replace("in_channels=6", "in_channels=9")
    made = experiments.network(nine)
    carried = config.read_text(f"model = {nine}", "config.py")["model"]
    torch.save({"config": carried, "state_dict": made.state_dict()}, tmp_path / "nine.pth")
    card = Experiment("nine", tmp_path / "nine.pth", FAMILIES).load(CPU, "native").card
    assert card.inputs == ("coord", "color", "normal")
    assert "Sonata's transforms were taken" in card.about["warnings"][0]


@pytest.mark.parametrize(
    ("runtime", "told", "generation", "color"),
    [
        (experiments.V1_6, None, "v1.6", "color"),
        (experiments.V1_5_2, None, "v1.5.2", "color_signed"),
        ("", None, "v1.5.1", "color_signed"),
        (experiments.V1_6, "v1.5.1", "v1.5.1", "color_signed"),
        ("", "v1.6", "v1.6", "color"),
    ],
)
def test_the_generation_is_what_the_configuration_or_the_operator_says(
    folder: Path, runtime: str, told: str | None, generation: Generation, color: str
) -> None:
    (folder / "config.py").write_text(experiments.config(experiments.POINT_TRANSFORMER, runtime))
    card = _card(folder, told)
    assert (card.about["generation"], card.inputs[0], card.about["warnings"]) == (generation, color, [])
    assert "because" in card.about["generation_known"]


def test_an_unknown_generation_is_assumed_and_said(folder: Path) -> None:
    _edit(folder, "enable_amp = True\n" + experiments.V1_6, "")
    (warning,) = _card(folder).about["warnings"]
    assert "v1.6 was assumed" in warning
    assert "GENERATION" in warning
    # What v1.6.0 refuses was written before it; which version before it, is a guess again.
    _edit(folder, "mode='test',", "mode='test', keys=('coord', 'color'),")
    card = _card(folder)
    assert card.about["generation"] == "v1.5.1"
    assert "v1.5.1 was assumed" in card.about["warnings"][0]
    assert _card(folder, "v1.5.2").about["warnings"] == []
    assert "The generation 'v9' is unknown; there are: v1.5.1, v1.5.2, v1.6" in _wrong(folder, "v9")


def test_a_model_without_colours_computes_alike_in_every_generation(folder: Path) -> None:
    _edit(folder, "enable_amp = True\n" + experiments.V1_6, "")
    _edit(folder, "('color', 'normal')", "('coord', 'normal')")
    assert _card(folder).about["warnings"] == []


def _drop_checkpoint(folder: Path) -> None:
    (folder / "model" / "model_last.pth").unlink()


@pytest.mark.parametrize(
    ("change", "what"),
    [
        (_drop_checkpoint, "has no checkpoint: neither model/model_best.pth nor model/model_last.pth"),
        (lambda folder: (folder / "config.py").unlink(), "has no config.py"),
        (lambda folder: _edit(folder, "'cabinet'", "'cabinet', 'bed'"), "names 4 classes"),
        (
            lambda folder: _edit(folder, "num_classes=3,\n    ignore", "num_classes=4,\n    ignore"),
            "data.num_classes is 4",
        ),
        (lambda folder: _edit(folder, "        num_classes=3,\n", "        num_classes=13,\n"), "num_classes is 13"),
        (lambda folder: _edit(folder, "in_channels=6", "in_channels=9"), "reads 9 input channels, .* make 6: color"),
        (
            lambda folder: _edit(folder, "'SpUNet-v1m1'", "'Swin3D-v1m1'"),
            "unknown family 'Swin3D-v1m1'; known are: Def",
        ),
        (lambda folder: _edit(folder, "base_channels=8", "base_chanels=8"), "base_chanels"),
        (lambda folder: _edit(folder, "base_channels=8", "base_channels=0"), "its network cannot be built"),
        (lambda folder: _edit(folder, "layers=(1", "layers=(10**9"), r"has the number 1e\+09 in its network"),
        (lambda folder: _edit(folder, "type='ToTensor'", "type=[]"), "must be a list of transforms"),
        (lambda folder: _edit(folder, "    backbone=dict(", "    backbones=dict("), "lacks 'backbone'"),
        (lambda folder: _edit(folder, "model = dict(", "models = dict("), "has no `model`"),
        (lambda folder: _edit(folder, "data = dict(", "date = dict("), "has no `data`"),
        (lambda folder: _edit(folder, "weight = None", "import os"), "has in line 1 an import"),
        (
            lambda folder: _edit(folder, "'NormalizeColor'", "'ChromaticJitter'"),
            "unsupported transform 'ChromaticJitter'",
        ),
        (
            lambda folder: _edit(folder, "apply_z=False", "apply_x=False"),
            "CenterShift has the unknown argument 'apply_x'",
        ),
        (lambda folder: _edit(folder, "('color', 'normal')", "('color', 'image')"), "reads the feature 'image'"),
        (lambda folder: _edit(folder, "feat_keys=('color', 'normal')", "x=1"), "has a Collect with the feat_keys None"),
        (lambda folder: _edit(folder, "grid_size=0.02", "grid_size=0"), "has the grid_size 0"),
        (lambda folder: _edit(folder, "voxelize=dict(", "voxelise=dict("), "must be a GridSample, not None"),
    ],
)
def test_what_cannot_be_served_is_named(folder: Path, change: Callable[[Path], Any], what: str) -> None:
    change(folder)
    with pytest.raises(UnusableModel, match=what):
        raise UnusableModel(_wrong(folder))


def test_a_folder_that_is_not_there_is_named(tmp_path: Path) -> None:
    assert _wrong(tmp_path / "nothing") == f"There is no experiment {tmp_path / 'nothing'}."


def test_a_family_whose_package_is_missing_names_the_package(spunet: Path) -> None:
    def build(*_: Any) -> torch.nn.Module:
        importlib.import_module("a_package_that_nobody_has")

        raise AssertionError

    found = Experiment("tiny", spunet, {**FAMILIES, "SpUNet-v1m1": build}).card_or_error()
    assert isinstance(found, UnusableModel)
    assert "needs the package a_package_that_nobody_has, which is not installed" in found.detail


def _load(folder: Path, contents: dict[str, Any]) -> str:
    torch.save(contents, folder / "model" / "model_best.pth")
    with pytest.raises(UnusableModel) as caught:
        Experiment("tiny", folder, FAMILIES).load(CPU, "native")
    return caught.value.detail


def test_weights_that_do_not_fit_are_counted_and_named(folder: Path) -> None:
    contents = experiments.state(experiments.network(), prefix="")
    whole = dict(contents["state_dict"])
    less = {key: value for key, value in whole.items() if "final" not in key}
    said = _load(folder, {"state_dict": {**less, "extra": torch.ones(1)}})
    assert "2 missing (backbone.final.weight, backbone.final.bias); 1 left over (extra)" in said
    key = "backbone.final.weight"
    said = _load(folder, {"state_dict": {**whole, key: torch.ones(13, 1, 1, 1, 8)}})
    assert "1 of another shape (backbone.final.weight (13, 1, 1, 1, 8) in the place of (3, 1, 1, 1, 8))" in said
    said = _load(folder, {"state_dict": {**whole, key: whole[key] * torch.nan}})
    assert "has weights that are not numbers: 1 broken (backbone.final.weight)" in said
    said = _load(folder, {"state_dict": {f"m{i}": torch.ones(1) for i in range(9)}})
    assert "and 4 more" in said


def test_a_head_that_gives_other_classes_than_are_named_is_refused(folder: Path) -> None:
    # The head's size stands under no name that the configuration check knows.
    head = experiments.POINT_TRANSFORMER.replace("num_classes=3", "num_classes=4")
    (folder / "config.py").write_text(experiments.config(head))
    _edit(folder, "    num_classes=3,\n    ignore_index=-1,\n", "    ignore_index=-1,\n")
    assert "names 3 classes (data.names), and the network's num_classes is 4" in _wrong(folder)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_weights_of_any_precision_run_in_the_models_own(folder: Path, dtype: torch.dtype) -> None:
    made = experiments.network()
    weights = {key: value.to(dtype) if value.is_floating_point() else value for key, value in made.state_dict().items()}
    torch.save({"state_dict": weights}, folder / "model" / "model_best.pth")
    model = Experiment("tiny", folder, FAMILIES).load(CPU, "native")
    assert model.dtype == torch.float32


def test_classes_without_names_are_those_of_the_data_set_or_numbers(folder: Path) -> None:
    _edit(folder, "    names=['wall', 'floor', 'cabinet'],\n", "")
    card = _card(folder)
    assert [info.name for info in card.classes] == ["class 0", "class 1", "class 2"]
    assert "classes are numbered" in card.about["warnings"][0]
    _edit(folder, "num_classes=3", "num_classes=13")
    _edit(folder, "'ScanNetDataset'", "'S3DISDataset'")
    card = _card(folder)
    assert [info.name for info in card.classes][:3] == ["ceiling", "floor", "wall"]
    assert "taken from S3DISDataset" in card.about["warnings"][0]


def test_the_colours_of_data_sets_and_of_others() -> None:
    for dataset in ("ScanNet", "ScanNet200", "S3DIS", "nuScenes", "SemanticKITTI", "Waymo", "Structured3D"):
        found = conventions.classes(conventions.names(dataset))
        assert [info.id for info in found] == list(range(len(found)))
        assert all(0 <= part <= 255 for info in found for part in info.color)
    counts = {"ScanNet": 20, "ScanNet200": 200, "S3DIS": 13, "nuScenes": 16, "SemanticKITTI": 19, "Waymo": 22}
    assert {dataset: len(conventions.names(dataset)) for dataset in counts} == counts
    assert conventions.classes(["car", "road"])[1].color == (255, 0, 255)
    assert conventions.classes(["Refrigerator", "SHOWER_CURTAIN"])[0].color == (255, 127, 14)
    own = conventions.classes([f"thing {index}" for index in range(40)])
    assert len({info.color for info in own}) == 40


def test_random_augmentations_take_the_procedure_away_and_are_said(folder: Path) -> None:
    _edit(folder, "[dict(type='RandomFlip', p=1)]", "[dict(type='RandomFlip', p=0.5)]")
    (note,) = _card(folder).about["warnings"]
    assert "tta=full) is not offered" in note


def test_a_crop_of_the_testers_is_left_out_and_said(folder: Path) -> None:
    _edit(folder, "crop=None", "crop=dict(type='SphereCrop', point_max=1000000, mode='all')")
    (note,) = _card(folder).about["warnings"]
    assert "test_cfg.crop, which cuts large clouds at random places, is not carried out" in note


def test_the_transforms_of_validation_are_taken_where_those_of_test_do_not_fit(folder: Path) -> None:
    _edit(folder, "in_channels=6", "in_channels=3")
    text = (folder / "config.py").read_text()
    (folder / "config.py").write_text(text.replace("feat_keys=('color', 'normal')", "feat_keys=['color']", 1))
    card = _card(folder)
    assert card.inputs == ("color",)
    assert "are those of data.val" in card.about["warnings"][0]


def test_a_made_up_cloud_is_labelled_before_a_model_counts_as_loaded(spunet: Path) -> None:
    class Broken(torch.nn.Module):
        def __init__(self, network: torch.nn.Module) -> None:
            super().__init__()
            self.backbone = network.backbone

        def forward(self, batch: Any) -> torch.Tensor:
            return torch.zeros(len(batch.feat), 13)

    def build(config: Any, site: Any) -> torch.nn.Module:
        return Broken(FAMILIES["DefaultSegmentor"](config, site))

    with pytest.raises(UnusableModel, match="gives 13 numbers for each point, and its configuration names 3 classes"):
        Experiment("tiny", spunet, {**FAMILIES, "DefaultSegmentor": build}).load(CPU, "native")


def test_labels_are_the_networks_own(spunet: Path) -> None:
    from service.engine.labelling import Wishes, label
    from service.models.batch import Batch
    from service.values import PointCloud

    model = Experiment("tiny", spunet, FAMILIES).load(CPU, "native")
    random = np.random.default_rng(0)
    # One point in each voxel's middle: whichever represents it, the input is known.
    cells = np.unique(random.integers(0, 40, (3000, 3)), axis=0)
    coord = (cells + 0.5) * 0.02
    low, high = coord.min(axis=0), coord.max(axis=0)
    zero = np.array([*((low + high) / 2)[:2], low[2]])
    color = random.integers(0, 256, coord.shape).astype(np.uint8)
    normal = random.normal(size=coord.shape).astype(np.float32)
    (answer,) = label(model, [PointCloud(coord, color, normal)], [Wishes(scores=True)])
    assert not isinstance(answer, ServiceError)
    grid = np.floor((coord - zero).astype(np.float32) / np.float32(0.02)).astype(np.int64)
    grid -= grid.min(axis=0)
    assert len(np.unique(grid, axis=0)) == len(grid)
    feat = np.concatenate([color / 255, normal], axis=1)
    place, voxels, inputs = map(torch.from_numpy, (np.float32(coord), grid.astype(np.int32), np.float32(feat)))
    batch = Batch(place, voxels, inputs, torch.tensor([len(grid)]))
    with torch.inference_mode():
        scores = experiments.network()(batch).softmax(dim=1).numpy()
    assert answer.scores is not None
    assert np.abs(answer.scores - scores).max() < 1e-4
    assert (answer.label == scores.argmax(axis=1)).mean() > 0.999
    assert len(set(answer.label.tolist())) > 1
