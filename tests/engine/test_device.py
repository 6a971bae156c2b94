"""On a GPU: a fault in a kernel ends the worker, and batches are as large as the memory allows."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from service.engine.worker import Worker, choose_device
from service.settings import Settings
from service.values import PointCloud, Segmentation
from tests.http.clouds import parcel_scene

ROOT = Path(__file__).resolve().parents[2]
POISON = """
import torch
from service.engine.labelling import DeviceLost, Wishes, label
from service.engine.worker import Worker
from service.settings import Settings
from service.values import PointCloud
from tests.http.clouds import parcel_scene

worker = Worker(Settings(device="cuda"))
model = worker.models["parcels"]

def forward(batch):
    numbers = torch.zeros(4, device="cuda")
    return numbers[torch.full((4,), 10**8, device="cuda")].cpu()

model.forward = forward
try:
    label(model, [PointCloud(parcel_scene(5000))], [Wishes()])
except DeviceLost:
    print("lost")
"""


@pytest.mark.gpu
def test_a_fault_in_a_kernel_is_a_lost_device() -> None:
    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    result = subprocess.run([sys.executable, "-c", POISON], cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert result.stdout.split()[-1:] == ["lost"], result.stdout + result.stderr[-2000:]


@pytest.mark.gpu
def test_batches_on_a_gpu_follow_its_memory() -> None:
    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    worker = Worker(Settings(device="cuda", batch_memory_bytes=256 << 20))
    wishes = worker.wishes({"scores": True})
    clouds = [PointCloud(parcel_scene(points, seed)) for seed, points in enumerate((20_000, 30_000, 1_000))]
    ready = [worker.prepare("parcels", cloud, wishes) for cloud in clouds]
    together = worker.label("parcels", clouds, [wishes] * 3, [one[0] for one in ready])  # type: ignore[index]
    assert 1000 < worker.max_voxels("parcels") < 256 << 20
    for cloud, one, answer in zip(clouds, ready, together, strict=True):
        (alone,) = worker.label("parcels", [cloud], [wishes], [one[0]])  # type: ignore[index]
        assert isinstance(answer, Segmentation) and isinstance(alone, Segmentation)
        assert answer.scores is not None and alone.scores is not None
        np.testing.assert_allclose(answer.scores, alone.scores, atol=2e-2)  # half precision
        assert np.mean(answer.label == alone.label) > 0.999


def test_cuda_without_a_number_is_the_first_gpu() -> None:
    assert [str(choose_device(name)) for name in ("cuda", "cuda:1", "cpu")] == ["cuda:0", "cuda:1", "cpu"]


def test_a_worker_on_a_cpu_says_how_much_it_takes_at_once() -> None:
    worker = Worker(Settings(device="cpu", threads=1, batch_memory_bytes=4096 * 5000))
    assert worker.max_voxels("parcels") == 5000
    assert worker.ready()["batch_voxels"] == 5000
    assert worker.memory() == {}
