"""Names become models; cards are read without torch; files that do not fit together are refused by name."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from service.errors import InternalError, UnknownModel
from service.models import cards, catalogue
from service.models.batch import collate
from service.models.layers.engine import engine
from service.models.site import Site
from service.transforms import prepare, restore
from service.values import PointCloud
from tests.models import untrained

CPU = torch.device("cpu")


def test_a_model_labels_a_cloud(folder: Path) -> None:
    model = catalogue.load("parcels", CPU, "auto", folder)
    assert (model.engine, model.card.family) == ("native", "SpUNet-v1m1")
    coord = np.random.default_rng(0).uniform(0, 0.5, (5000, 3))
    prepared = prepare(PointCloud(coord), model.recipe, CPU)
    logits = [model.forward(collate([tile])) for tile in prepared.tiles]
    assert logits[0].dtype == torch.float32
    result = restore(prepared, logits, model.card, scores=True)
    assert result.label.shape == (5000,)
    assert set(np.unique(result.label)) <= {0, 1}


def test_half_weights_are_used_in_float32_on_a_cpu_and_folding_keeps_the_answer(folder: Path) -> None:
    from safetensors.torch import load_file

    model = catalogue.load("parcels", CPU, "native", folder)
    prepared = prepare(PointCloud(np.random.default_rng(0).uniform(0, 0.5, (5000, 3))), model.recipe, CPU)
    batch = collate(prepared.tiles)
    plain = Site(engine("native", CPU), catalogue.FAMILIES).build(untrained.NETWORK)
    plain.load_state_dict(load_file(folder / "parcels.safetensors"))
    with torch.inference_mode():
        assert torch.allclose(plain.eval()(batch), model.forward(batch), atol=1e-5)


def test_two_clouds_in_one_batch_get_what_each_gets_alone(folder: Path) -> None:
    model = catalogue.load("parcels", CPU, "native", folder)
    random = np.random.default_rng(1)
    tiles = [prepare(PointCloud(random.uniform(0, size, (3000, 3))), model.recipe, CPU).tiles[0] for size in (0.3, 0.5)]
    batch = collate(tiles)
    assert batch.sizes == [len(tile.coord) for tile in tiles]
    parts = model.forward(batch).split(batch.sizes)
    for tile, part in zip(tiles, parts, strict=True):
        assert torch.allclose(model.forward(collate([tile])), part, atol=1e-5)


def test_an_unknown_name_is_answered_with_the_known_ones(folder: Path) -> None:
    with pytest.raises(UnknownModel, match=r"no model 'parcel'; the models are: parcels\."):
        catalogue.load("parcel", CPU, "native", folder)
    with pytest.raises(UnknownModel, match="the models are: none"):
        catalogue.load("../parcels", CPU, "native", folder / "nothing")


def _without(key: str) -> Callable[[dict[str, Any]], None]:
    def change(description: dict[str, Any]) -> None:
        del description[key]

    return change


def _with(key: str, **changes: Any) -> Callable[[dict[str, Any]], None]:
    def change(description: dict[str, Any]) -> None:
        if changes:
            description[key].update(changes)

    return change


def _with_backbone(**changes: Any) -> Callable[[dict[str, Any]], None]:
    def change(description: dict[str, Any]) -> None:
        description["network"]["backbone"].update(changes)

    return change


def _set(key: str, value: Any) -> Callable[[dict[str, Any]], None]:
    def change(description: dict[str, Any]) -> None:
        description[key] = value

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_without("recipe"), "lacks 'recipe'"),
        (_without("title"), "lacks the field 'title'"),
        (_set("classes", [{"id": 0, "name": "a", "color": [1, 2]}]), "malformed"),
        (_set("parameters", 7), "card says parameters = 7, but it is"),
        (_set("inputs", ["coord"]), "card says inputs"),
        (_set("grid_size", 0.5), "card says grid_size = 0.5, but it is 0.01"),
        (_with("network", type="PT-v9"), "unknown family 'PT-v9'; known are: DefaultSegmentor, "),
        (_with_backbone(base_channels=12), "does not hold this network's weights"),
        (_with_backbone(depth=12), "SpUNet-v1m1 cannot be built: .*depth"),
        (_with("recipe", grid=12), r"unknown keys \['grid'\]"),
    ],
)
def test_files_that_do_not_fit_together_are_refused(
    folder: Path, change: Callable[[dict[str, Any]], None], message: str
) -> None:
    description = json.loads((folder / "parcels.json").read_text())
    change(description)
    untrained.save(folder, description)
    with pytest.raises(InternalError, match=message):
        catalogue.load("parcels", CPU, "native", folder)


def test_broken_files_are_refused(folder: Path) -> None:
    weights = folder / "parcels.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(InternalError, match=r"parcels\.safetensors does not hold"):
        catalogue.load("parcels", CPU, "native", folder)
    weights.unlink()
    with pytest.raises(InternalError, match="cannot be loaded"):
        catalogue.load("parcels", CPU, "native", folder)
    (folder / "parcels.json").write_text("{")
    with pytest.raises(InternalError, match=r"parcels\.json is not JSON"):
        cards.cards(folder)
    (folder / "parcels.json").write_text("[]")
    with pytest.raises(InternalError, match="list where an object is wanted"):
        cards.cards(folder)


def test_a_missing_engine_is_said(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "spconv", None)
    monkeypatch.setitem(sys.modules, "spconv.pytorch", None)
    with pytest.raises(InternalError, match="engine spconv is not installed"):
        catalogue.load("parcels", CPU, "spconv", folder)


def test_cards_travel_as_json(folder: Path) -> None:
    (card,) = cards.cards(folder)
    assert card.inputs == ("ones", "residual")
    message = cards.card_message(replace(card, about={"accuracy": 0.9}))
    again = cards.card_from(json.loads(json.dumps(message)))
    assert again == replace(card, about={"accuracy": 0.9})


def test_cards_are_read_without_torch_and_models_load_without_spconv(folder: Path) -> None:
    read = "import sys; from pathlib import Path; from service.models import cards; cards.cards(Path(sys.argv[1]));"
    check = read + "assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", check, str(folder)], check=True)
    load = (
        "import sys, torch; from pathlib import Path; from service.models import catalogue;"
        "catalogue.load('parcels', torch.device('cpu'), 'auto', Path(sys.argv[1]));"
        "assert not {'spconv', 'cumm', 'timm', 'open3d'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", load, str(folder)], check=True)


@pytest.mark.gpu
@pytest.mark.parametrize("engine_name", ["spconv", "native"])
def test_a_gpu_runs_in_half_precision(folder: Path, cuda: torch.device, engine_name: Any) -> None:
    if engine_name == "spconv":
        pytest.importorskip("spconv", reason="spconv is not installed")
    model = catalogue.load("parcels", cuda, engine_name, folder)
    reference = catalogue.load("parcels", CPU, "native", folder)
    cloud = PointCloud(np.random.default_rng(0).uniform(0, 0.5, (20000, 3)))
    answers = []
    for each in (model, reference):
        prepared = prepare(cloud, each.recipe, each.device)
        logits = [each.forward(collate([tile])) for tile in prepared.tiles]
        answers.append(restore(prepared, logits, each.card, scores=False).label)
    assert model.dtype == torch.float16
    assert float((answers[0] == answers[1]).mean()) > 0.97
