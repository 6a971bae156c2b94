"""`pointserve serve --model DIR`: experiments as training leaves them, asked over HTTP and from the shell."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from service.models.batch import Batch
from tests.http.conftest import ROOT, Service, start, wait_ready
from tests.models import experiments

CLASSES = ["wall", "floor", "cabinet"]
BAD = ["s3dis", "broken", "coded"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Experiments of Pointcept v1.6 and v1.5.2, and one whose data set has zeros for colours and normals."""
    folder = tmp_path_factory.mktemp("exp")
    experiments.write(folder / "scannet" / "semseg-spunet-v1m1-0-base")
    experiments.write(
        folder / "scannet" / "semseg-pt-v3m1-0-base",
        experiments.POINT_TRANSFORMER,
        experiments.V1_5_2,
        "v1.5.2",
    )
    lidar = folder / "nuscenes" / "lidar"
    experiments.write(lidar)
    text = (lidar / "config.py").read_text()
    (lidar / "config.py").write_text(text.replace("ScanNetDataset", "NuScenesColorNormalDataset"))
    return folder


@pytest.fixture(scope="module")
def bad(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three that cannot be served: no checkpoint yet, a checkpoint and a configuration that would run something."""
    folder = tmp_path_factory.mktemp("bad")
    (folder / "s3dis" / "model").mkdir(parents=True)
    (folder / "s3dis" / "config.py").write_text(experiments.config())
    _broken(folder / "broken", folder / "made")
    _coded(folder / "coded", folder / "made")
    return folder


@pytest.fixture(scope="module")
def serving(folder: Path, bad: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """A service with all of them."""
    names = ("semseg-spunet-v1m1-0-base", "semseg-pt-v3m1-0-base")
    good = (*(folder / "scannet" / name for name in names), folder / "nuscenes" / "lidar")
    models = ",".join(str(path) for path in (*good, *(bad / name for name in BAD)))
    running = start(tmp_path_factory.mktemp("service"), MODELS=models)
    wait_ready(running)
    yield running
    running.stop()


def _cloud() -> tuple[NDArray[Any], NDArray[np.uint8], NDArray[np.float32]]:
    """Return one point in the middle of each of some voxels, so that it alone stands for its voxel."""
    random = np.random.default_rng(0)
    cells = np.unique(random.integers(0, 40, (3000, 3)), axis=0)
    color = random.integers(0, 256, cells.shape).astype(np.uint8)
    return (cells + 0.5) * 0.02, color, random.normal(size=cells.shape).astype(np.float32)


def _npz(**arrays: NDArray[Any]) -> bytes:
    file = io.BytesIO()
    np.savez(file, **arrays)
    return file.getvalue()


@pytest.mark.parametrize(
    ("name", "model", "generation", "feature"),
    [
        ("semseg-spunet-v1m1-0-base", experiments.SPUNET, "v1.6", lambda color: color / 255),
        ("semseg-pt-v3m1-0-base", experiments.POINT_TRANSFORMER, "v1.5.2", lambda color: color / 127.5 - 1),
    ],
)
def test_answers_are_the_networks_own(
    serving: Service, name: str, model: str, generation: Any, feature: Callable[[NDArray[Any]], NDArray[Any]]
) -> None:
    coord, color, normal = _cloud()
    body = _npz(coord=coord, color=color, normal=normal)
    answer = serving.post(f"/v1/segment?model={name}&scores=true&format=npz", body)
    assert answer.status_code == 200, answer.text
    result = answer.json()
    assert result["model"] == name
    assert [entry["name"] for entry in result["classes"]] == CLASSES
    grid = np.round(coord / 0.02 - 0.5).astype(np.int32)
    feat = np.concatenate([feature(color), normal], axis=1).astype(np.float32)
    place, cells, inputs = map(torch.from_numpy, (coord.astype(np.float32), grid - grid.min(axis=0), feat))
    batch = Batch(place, cells, inputs, torch.tensor([len(grid)]))
    with torch.inference_mode():
        scores = experiments.network(model, generation)(batch).softmax(dim=1).numpy()
    assert np.abs(np.array(result["scores"]) - scores).max() < 1e-3
    assert (np.array(result["labels"]) == scores.argmax(axis=1)).mean() > 0.999
    assert len(set(result["labels"])) > 1
    assert result["warnings"] == []


def test_the_cards_tell_where_models_come_from(serving: Service, folder: Path) -> None:
    listed = serving.get("/v1/models").json()["models"]
    assert [card["name"] for card in listed] == [
        "semseg-spunet-v1m1-0-base",
        "semseg-pt-v3m1-0-base",
        "lidar",
        *BAD,
    ]
    card = serving.get("/v1/models/semseg-pt-v3m1-0-base").json()
    assert card["family"] == "PT-v3m1"
    assert card["source"] == str(folder / "scannet" / "semseg-pt-v3m1-0-base")
    assert card["classes"][0] == {"id": 0, "name": "wall", "color": "#aec7e8"}
    assert card["about"]["generation"] == "v1.5.2"
    assert card["about"]["checkpoint"]["best_metric_value"] == 0.776


def test_a_model_that_cannot_be_served_stops_no_other_and_says_why(serving: Service) -> None:
    answer = serving.post("/v1/segment?model=s3dis&format=npz", _npz(coord=_cloud()[0]))
    assert answer.status_code == 503
    assert answer.json()["type"].endswith("unusable-model")
    assert "has no checkpoint: neither model/model_best.pth nor model/model_last.pth" in answer.json()["detail"]
    unfinished = next(card for card in serving.get("/v1/models").json()["models"] if card["name"] == "s3dis")
    assert unfinished["state"] == "failed"
    assert "has no checkpoint" in unfinished["reason"]
    health = serving.get("/health")
    assert health.status_code == 200
    assert [warning.split(": ")[0] for warning in health.json()["warnings"]] == BAD


def test_a_cloud_without_colours_is_refused_and_one_without_normals_is_not(serving: Service) -> None:
    coord, color, _ = _cloud()
    answer = serving.post("/v1/segment?format=npz", _npz(coord=coord))
    assert answer.status_code == 422
    assert answer.json()["detail"] == "The model needs colours (red, green, blue) and the cloud has none."
    answer = serving.post("/v1/segment?format=npz", _npz(coord=coord, color=color))
    if answer.status_code == 422:
        assert "to compute them this machine needs Open3D" in answer.json()["detail"]
    else:
        assert any("normals" in warning for warning in answer.json()["warnings"])


def test_a_model_trained_on_zeros_for_colours_and_normals_gets_zeros(serving: Service) -> None:
    coord, color, normal = _cloud()
    bare = serving.post("/v1/segment?model=lidar&scores=true&format=npz", _npz(coord=coord))
    assert bare.status_code == 200, bare.text
    assert bare.json()["warnings"] == []
    body = _npz(coord=coord, color=color, normal=normal)
    whole = serving.post("/v1/segment?model=lidar&scores=true&format=npz", body).json()
    assert whole["scores"] == bare.json()["scores"]
    assert serving.get("/v1/models/lidar").json()["inputs"] == ["blank", "blank"]


def _pointserve(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "service.cli", *arguments]
    wide = {**os.environ, "COLUMNS": "200", **environment}
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=180, env=wide)


def test_the_command_lists_models_and_what_is_wrong_with_others(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "empty" / "model").mkdir(parents=True)
    (tmp_path / "empty" / "config.py").write_text(experiments.config())
    experiments.write(tmp_path / "undated", runtime="hooks = []\n")
    text = (tmp_path / "undated" / "config.py").read_text()
    (tmp_path / "undated" / "config.py").write_text(text.replace("enable_amp = True\n", ""))
    models = ("--model", str(tmp_path / "empty"), "--model", str(tmp_path / "undated"))
    done = _pointserve("models", "--models-dir", str(folder), *models)
    assert "semseg-pt-v3m1-0-base" in done.stdout
    assert "semseg-spunet-v1m1-0-base" in done.stdout
    assert "has no checkpoint: neither model/model_best.pth nor model/model_last.pth" in done.stderr
    assert "undated: warning: Which Pointcept trained this model is not known: v1.6 was assumed" in done.stderr
    assert done.stderr.count("warning:") == 1
    assert done.returncode == 1


def test_the_command_labels_files_with_an_experiment(folder: Path, tmp_path: Path) -> None:
    coord, color, normal = _cloud()
    (tmp_path / "cloud.npz").write_bytes(_npz(coord=coord, color=color, normal=normal))
    model = str(folder / "scannet" / "semseg-spunet-v1m1-0-base")
    done = _pointserve("segment", str(tmp_path / "cloud.npz"), "-o", str(tmp_path / "out"), "--model", model)
    assert done.returncode == 0, done.stderr
    with np.load(tmp_path / "out" / "cloud_labelled.npz") as labelled:
        assert set(np.unique(labelled["label"])) <= {0, 1, 2}


def _payload(made: Path) -> Any:
    class Payload:
        def __reduce__(self) -> tuple[Any, ...]:
            return os.system, (f"touch {made}",)

    return Payload()


def _broken(folder: Path, made: Path) -> None:
    experiments.write(folder)
    torch.save({"state_dict": {"a": _payload(made)}}, folder / "model" / "model_best.pth")


def _coded(folder: Path, made: Path) -> None:
    experiments.write(folder)
    (folder / "config.py").write_text(f"open({str(made)!r}, 'w')\n" + experiments.config())


@pytest.mark.parametrize(
    ("name", "what"), [("broken", "asks for posix.system"), ("coded", "has in line 1 a call of `open`")]
)
def test_a_hostile_experiment_is_named_by_health_and_runs_nothing(
    serving: Service, bad: Path, name: str, what: str
) -> None:
    (warning,) = [line for line in serving.get("/health").json()["warnings"] if line.startswith(f"{name}: ")]
    assert what in warning
    card = serving.get(f"/v1/models/{name}").json()
    assert (card["state"], what in card["reason"]) == ("failed", True)
    assert not (bad / "made").exists()


def test_a_model_that_tells_no_objects_apart_measures_nothing(serving: Service) -> None:
    coord, color, normal = _cloud()
    body = _npz(coord=coord, color=color, normal=normal)
    response = serving.post("/v1/measure?model=semseg-spunet-v1m1-0-base", body)
    assert response.status_code == 400
    assert "tells no objects apart" in response.json()["detail"]
