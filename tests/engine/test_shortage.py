"""Out of memory: what a batch, a cloud and the device come to."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch

from service.engine import labelling
from service.engine.labelling import Wishes, label
from service.engine.shortage import is_shortage
from service.errors import OutOfMemory
from service.models import catalogue
from service.models.batch import Batch
from service.models.model import Model
from service.transforms import prepare
from service.values import PointCloud, Segmentation
from tests.http.clouds import parcel_scene

BOTH = Wishes(scores=True, confidence=True)


@pytest.fixture(scope="module")
def model() -> Model:
    return catalogue.load("parcels", torch.device("cpu"))


def scene(seed: int, points: int) -> PointCloud:
    return PointCloud(parcel_scene(points, seed) * 2)


def voxels_of(model: Model, cloud: PointCloud) -> int:
    return prepare(cloud, model.recipe, model.device).voxels


def shrink(model: Model, most: int, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Let the model's forward run out of memory above so many voxels; return a list of the passes that did not."""
    forward, passes = model.forward, []

    def scarce(batch: Batch) -> torch.Tensor:
        if len(batch.coord) > most:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.")
        passes.append(len(batch.coord))
        return forward(batch)

    monkeypatch.setattr(model, "forward", scarce)
    return passes


def answer_of(result: object) -> Segmentation:
    assert isinstance(result, Segmentation), result
    return result


def test_a_batch_is_halved_until_it_fits_and_no_answer_changes(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    clouds = [scene(seed, 700) for seed in range(5)]
    expected = [answer_of(label(model, [cloud], [BOTH])[0]) for cloud in clouds]
    voxels = [voxels_of(model, cloud) for cloud in clouds]
    passes = shrink(model, max(voxels) * 2, monkeypatch)
    results = label(model, clouds, [BOTH] * 5)
    for found, wanted in zip(results, expected, strict=True):
        np.testing.assert_array_equal(answer_of(found).scores, wanted.scores)
        assert answer_of(found).warnings == wanted.warnings
    assert sum(passes) == sum(voxels) and len(passes) < 5


def test_a_cloud_is_cut_into_smaller_tiles_and_says_so(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    cloud, small = scene(1, 60_000), scene(2, 500)
    whole = answer_of(label(model, [cloud], [BOTH])[0])
    most = voxels_of(model, cloud) // 3
    passes = shrink(model, most, monkeypatch)
    found, beside = (answer_of(result) for result in label(model, [cloud, small], [BOTH, BOTH]))
    (warning,) = set(found.warnings) - set(whole.warnings)
    assert "tiles" in warning and "memory" in warning
    assert max(passes) <= most
    assert (found.label == whole.label).mean() > 0.97
    assert not [said for said in beside.warnings if "memory" in said]


def test_what_fits_in_no_tile_goes_to_the_cpu(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    cloud = scene(1, 3000)
    expected = answer_of(label(model, [cloud], [BOTH])[0])
    spare = catalogue.load("parcels", torch.device("cpu"))
    shrink(model, 0, monkeypatch)
    monkeypatch.setattr(model, "device", torch.device("meta"))  # any that is not the CPU
    monkeypatch.setattr(labelling, "prepare", _prepare_on(spare))
    found = answer_of(label(model, [cloud], [BOTH], spare=lambda: spare)[0])
    np.testing.assert_array_equal(found.scores, expected.scores)
    assert "CPU" in found.warnings[-1]


def _prepare_on(spare: Model) -> Callable[..., object]:
    original = labelling.prepare

    def prepare(model: Model, cloud: PointCloud, wishes: Wishes) -> object:
        return original(model, cloud, wishes) if model is spare else OutOfMemory("no memory for its points")

    return prepare


def test_what_fits_nowhere_is_refused_and_the_next_cloud_is_labelled(
    model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as scarce:
        shrink(model, 0, scarce)
        (refused,) = label(model, [scene(1, 3000)], [BOTH])
    assert isinstance(refused, OutOfMemory)
    assert refused.retry_after_s
    assert "memory" in refused.detail
    answer_of(label(model, [scene(1, 3000)], [BOTH])[0])


@pytest.mark.parametrize(
    ("error", "short"),
    [
        (torch.OutOfMemoryError("CUDA out of memory."), True),
        (MemoryError(), True),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes."), True),
        (RuntimeError("CUDA error: out of memory"), True),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"), True),
        (RuntimeError("CUDA error: an illegal memory access was encountered"), False),
        (ValueError("out of memory"), False),
    ],
)
def test_which_errors_say_that_memory_is_short(error: Exception, short: bool) -> None:
    assert is_shortage(error) is short


@pytest.mark.gpu
def test_a_gpu_with_little_memory_answers_and_stays_usable() -> None:
    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    device = torch.device("cuda:0")
    model = catalogue.load("parcels", device)
    spare = catalogue.load("parcels", torch.device("cpu"))
    cloud, small = PointCloud(parcel_scene(2_000_000) * 6), scene(2, 3000)
    expected = answer_of(label(model, [small], [BOTH])[0])
    total = torch.cuda.get_device_properties(device).total_memory
    steps: set[str] = set()
    for budget_mb in (1500, 600, 300, 150, 60):
        torch.cuda.empty_cache()
        torch.cuda.set_per_process_memory_fraction((budget_mb << 20) / total, device)
        try:
            found = label(model, [cloud, small], [BOTH, BOTH], spare=lambda: spare)
        finally:
            torch.cuda.set_per_process_memory_fraction(1.0, device)
        assert len(answer_of(found[0]).label) == len(cloud)
        steps |= {word for word in ("tiles", "CPU") if word in " ".join(answer_of(found[0]).warnings)}
        np.testing.assert_array_equal(answer_of(found[1]).label, expected.label)
    assert "tiles" in steps
    torch.cuda.synchronize(device)
    np.testing.assert_array_equal(answer_of(label(model, [small], [BOTH])[0]).label, expected.label)
