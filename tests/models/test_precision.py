"""Products in bfloat16 on a CPU: taken where they err little enough, and said."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from service.models import catalogue
from service.models import model as model_module
from service.models.batch import Batch, collate
from service.models.catalogue import FAMILIES
from service.models.layers.engine import engine
from service.models.model import Model
from service.models.site import Site
from service.transforms import prepare
from service.values import PointCloud
from tests.models import golden

CPU = torch.device("cpu")
sparseconv = pytest.importorskip("sparseconv", reason="libs/sparseconv is not built")


@pytest.fixture
def model(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Model:
    """An untrained model on a processor that is told to be faster in bfloat16; its products are right on any."""
    from service.models.layers.compiled import CompiledEngine

    monkeypatch.setattr(CompiledEngine, "narrows", True)
    return catalogue.load("parcels", CPU, "native", folder)


def batch_of(model: Model) -> Batch:
    cloud = PointCloud(np.random.default_rng(0).uniform(0, 0.5, (20000, 3)))
    return collate(list(prepare(cloud, model.recipe, model.device).tiles))


def test_bfloat16_stays_where_it_errs_little(model: Model) -> None:
    batch = batch_of(model)
    exact = model.forward(batch)
    assert model.precision == "float32"
    model.try_bfloat16()
    assert torch.equal(model.forward(batch), exact), "the trial itself answers in float32"
    assert model.precision == "bfloat16"
    error = (model.forward(batch) - exact).norm() / exact.norm()
    assert 0 < error < model_module.LARGEST_ERROR


@pytest.mark.parametrize("bound", [0.0, float("nan")])
def test_float32_stays_where_bfloat16_errs_much(model: Model, monkeypatch: pytest.MonkeyPatch, bound: float) -> None:
    monkeypatch.setattr(model_module, "LARGEST_ERROR", bound)
    batch = batch_of(model)
    model.try_bfloat16()
    exact = model.forward(batch)
    assert model.precision == "float32"
    assert torch.equal(model.forward(batch), exact)


def test_nothing_is_tried_where_bfloat16_is_no_faster(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from service.models.layers.compiled import CompiledEngine

    monkeypatch.setattr(CompiledEngine, "narrows", False)
    model = catalogue.load("parcels", CPU, "native", folder)
    batch = batch_of(model)
    model.try_bfloat16()
    assert torch.equal(model.forward(batch), model.forward(batch))
    assert model.precision == "float32"


@torch.inference_mode()
@pytest.mark.parametrize("name", ["spunet_v1m1_a", "spunet_v1m1_b"])
def test_pointcepts_logits_are_met_within_a_hundredth(shared: Path, name: str) -> None:
    case = golden.read(shared, name)
    network = case.build(Site(engine("native", CPU), FAMILIES))
    network.fold()
    for module in network.modules():
        if hasattr(module, "narrow"):
            setattr(module, "narrow", True)  # noqa: B010  torch types attributes of modules as tensors
    expected = torch.from_numpy(case.arrays["logits"])
    error = float((network(case.batch()) - expected).norm() / expected.norm())
    print(f"{name}: {error:.1e}")
    assert 0 < error < 1e-2


def test_the_setting_reaches_the_models_and_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    from service.engine.worker import Worker, describe
    from service.models.layers.compiled import CompiledEngine
    from service.settings import Settings

    monkeypatch.setattr(CompiledEngine, "narrows", True)
    threads = torch.get_num_threads()
    try:
        for wanted, precision in (("auto", "float32"), ("float32", "float32"), ("bfloat16", "bfloat16")):
            worker = Worker(Settings(device="cpu", precision=wanted, models="parcels", threads=threads))
            assert describe(worker.device, worker.models)["precision"] == {"parcels": precision}
    finally:
        torch.set_num_threads(threads)


@pytest.mark.gpu
def test_a_gpu_computes_in_half_precision_unless_it_shall_be_exact() -> None:
    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    device = torch.device("cuda:0")
    half, exact = (catalogue.load("parcels", device, exact=wanted) for wanted in (False, True))
    plain = catalogue.load("parcels", CPU)
    assert (half.precision, exact.precision) == ("float16", "float32")
    batch = batch_of(plain)
    expected, spread = plain.forward(batch), plain.forward(batch).std()
    errors = [float((model.forward(batch.to(device)).cpu() - expected).abs().max() / spread) for model in (half, exact)]
    assert errors[1] < 1e-3 < errors[0]
