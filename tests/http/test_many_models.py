"""Several models in one service: loaded on their first use, within a budget, a broken one beside them; and tta=full."""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from service.engine.labelling import Wishes, label
from service.models import catalogue
from service.settings import Settings
from service.values import PointCloud, Segmentation
from tests.http.conftest import Service, start, wait_ready, wait_until
from tests.models import experiments

BUDGET = 3 << 20
"""Less than two of the models, more than one of them."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two experiments that work, and one whose checkpoint is cut off."""
    folder = tmp_path_factory.mktemp("exp")
    wide = experiments.SPUNET.replace("channels=(8, 16, 24, 16, 16, 8)", "channels=(8, 32, 32, 32, 16, 8)")
    for name in ("first", "second", "broken"):
        experiments.write(folder / name, wide)
    weights = folder / "broken" / "model" / "model_best.pth"
    weights.write_bytes(weights.read_bytes()[:1000])
    return folder


@pytest.fixture(scope="module")
def serving(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """A service with all three, each loaded on its first use; a request may have to wait for many of these."""
    models = ",".join(str(folder / name) for name in ("first", "second", "broken"))
    own = {"LOAD_MODELS": "use", "MODEL_MEMORY_BYTES": str(BUDGET), "DEADLINE_S": "600"}
    running = start(tmp_path_factory.mktemp("service"), MODELS=models, **own)
    wait_ready(running)
    yield running
    running.stop()


def cloud(points: int = 400) -> dict[str, NDArray[Any]]:
    random = np.random.default_rng(0)
    coord = random.uniform(0, 0.3, (points, 3))
    coord[:, 2] *= 0.1
    color = random.integers(0, 256, coord.shape)
    return {"points": coord, "colors": color, "normals": random.normal(size=coord.shape)}


def body(points: int = 400) -> str:
    return json.dumps({name: array.tolist() for name, array in cloud(points).items()})


def ask(service: Service, query: str, points: int = 400, **headers: str) -> Any:
    return service.post(f"/v1/segment?{query}", body(points), headers={"Content-Type": "application/json", **headers})


def states(service: Service) -> dict[str, str]:
    return {model["name"]: model["state"] for model in service.get("/v1/models").json()["models"]}


def test_models_come_and_go_as_they_are_asked_for(serving: Service) -> None:
    before = states(serving)
    assert (before["first"], before["second"]) == ("waiting", "waiting")
    assert ask(serving, "").json()["model"] == "first"
    assert states(serving)["first"] == "ready"
    assert ask(serving, "model=second").json()["model"] == "second"
    assert (states(serving)["first"], states(serving)["second"]) == ("evicted", "ready")
    sizes = {model["name"]: model["bytes"] for model in serving.get("/v1/models").json()["models"]}
    assert 0 < sizes["second"] <= BUDGET < 2 * sizes["second"]
    assert sizes["first"] == 0
    assert ask(serving, "model=first").status_code == 200
    health = serving.get("/health").json()
    assert health["model_states"]["first"] == "ready"
    assert health["model_states"]["second"] == "evicted"


def test_a_broken_model_says_why_and_stops_no_other(serving: Service) -> None:
    for _ in range(2):
        answer = ask(serving, "model=broken")
        assert answer.status_code == 503
        assert answer.json()["type"].endswith("unusable-model")
        assert "the model broken cannot be used: " in answer.json()["detail"]
    shown = serving.get("/v1/models/broken").json()
    assert shown["state"] == "failed"
    assert shown["reason"] in answer.json()["detail"]
    health = serving.get("/health")
    assert health.status_code == 200
    assert any(line.startswith("broken: it cannot be used: ") for line in health.json()["warnings"])
    index = {model["name"]: model for model in serving.post("/v2/repository/index").json()}
    assert (index["broken"]["state"], index["broken"]["reason"]) == ("UNAVAILABLE", shown["reason"])
    assert ask(serving, "model=second").status_code == 200


def test_many_clients_of_two_models_that_do_not_fit_together(serving: Service) -> None:
    names = ["first", "second"] * 3
    with ThreadPoolExecutor(6) as pool:
        answers = list(pool.map(lambda name: ask(serving, f"model={name}"), names))
    assert [answer.status_code for answer in answers] == [200] * len(names)
    assert [answer.json()["model"] for answer in answers] == names


def test_the_test_time_procedure_over_http(serving: Service, folder: Path) -> None:
    answer = ask(serving, "model=first&tta=full&scores=true")
    assert answer.status_code == 200, answer.text
    source = catalogue.sources(Settings(models=str(folder / "first")))["first"]
    model = source.load(torch.device("cpu"), "auto")
    assert len(model.recipe.augmentations) == 2
    arrays = cloud()
    parts = (arrays["points"], arrays["colors"].astype(np.uint8), arrays["normals"].astype(np.float32))
    (expected,) = label(model, [PointCloud(*parts)], [Wishes(scores=True, tta="full")])
    assert isinstance(expected, Segmentation) and expected.scores is not None
    np.testing.assert_allclose(answer.json()["scores"], expected.scores, atol=1e-4)
    assert (np.array(answer.json()["labels"]) == expected.label).mean() > 0.999
    plain = ask(serving, "model=first&scores=true").json()
    assert np.abs(np.array(plain["scores"]) - expected.scores).max() > 1e-4


def test_what_tta_can_be(service: Service, serving: Service) -> None:
    wrong = ask(serving, "tta=half")
    assert (wrong.status_code, "option 'tta'" in wrong.json()["detail"]) == (400, True)
    without = ask(service, "tta=full")
    assert without.status_code == 400
    assert without.json()["detail"] == "the model parcels has no test-time augmentations: use tta=none"
    parameters = service.get("/openapi.json").json()["paths"]["/v1/segment"]["post"]["parameters"]
    (tta,) = [parameter for parameter in parameters if parameter["name"] == "tta"]
    assert tta["schema"]["enum"] == ["none", "full"]


def test_a_test_time_procedure_past_its_deadline_is_ended(serving: Service) -> None:
    assert ask(serving, "model=first").status_code == 200  # it is there now
    late = ask(serving, "model=first&tta=full", points=200_000, **{"X-Deadline-Seconds": "0.5"})
    assert late.status_code == 504
    # Once the pass that ran is over: the worker does not go on with work that nobody waits for.
    wait_until(lambda: bool(ask(serving, "model=first", **{"X-Deadline-Seconds": "60"}).status_code == 200), 60)
