"""The process that owns one device: it loads the models once and labels one cloud after another.

A cloud's way: transforms.prepare -> model.forward -> transforms.restore.
"""

from __future__ import annotations

import os
import sys
import time
from typing import Any

import numpy as np
import structlog
import torch

from service import environment, transforms
from service.engine import shared
from service.engine.channel import Channel, ChannelClosed, Message, close_all
from service.engine.child import inherited_channel
from service.errors import InternalError, ServiceError, UnknownModel, to_message
from service.logs import configure
from service.models import catalogue
from service.models.batch import collate
from service.models.cards import card_message
from service.models.model import Model
from service.settings import Settings, settings
from service.values import PointCloud, segmentation_message

log = structlog.get_logger()


def choose_device(wanted: str) -> torch.device:
    """Return the device that the setting names; `auto` takes the first GPU, or the CPU where there is none."""
    if wanted == "auto":
        return torch.device("cuda:0" if torch.cuda.is_available() else "cpu")
    return torch.device(wanted)


def describe(device: torch.device, models: dict[str, Model]) -> dict[str, Any]:
    """Return what `/health` says of the device."""
    on_gpu = device.type == "cuda"
    return {
        "device": str(device),
        "name": torch.cuda.get_device_name(device) if on_gpu else "CPU",
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "cuda": torch.version.cuda if on_gpu else None,
        "engines": {name: model.engine for name, model in models.items()},
    }


class Worker:
    """The models on their device.

    Args:
        chosen: which models, on which device, with which engine.
    """

    def __init__(self, chosen: Settings) -> None:
        torch.set_num_threads(chosen.threads or os.cpu_count() or 1)
        self.device = choose_device(chosen.device)
        names = [name.strip() for name in chosen.models.split(",") if name.strip()]
        self.models = {name: catalogue.load(name, self.device, chosen.engine) for name in names}
        for name in names:
            self._warm_up(name)

    def _warm_up(self, name: str) -> None:
        """Label a made-up cloud, so that no request pays for libraries that set themselves up on their first call."""
        points = np.random.default_rng(0).uniform(0, 50 * self.models[name].recipe.grid_size, (5000, 3))
        points[:4000, 2] = 0
        color, intensity = np.zeros(points.shape, np.uint8), np.zeros(len(points), np.float32)
        cloud = PointCloud(points, color, np.ones(points.shape, np.float32), intensity)
        _reply, descriptor = self.segment({"model": name, "scores": False}, cloud)
        os.close(descriptor)

    @torch.inference_mode()
    def segment(self, message: Message, cloud: PointCloud) -> tuple[Message, int]:
        """Label one cloud.

        Args:
            message: `model`: its name; `scores`, `confidence`: whether these are wanted.
            cloud: the cloud, any number of points.

        Returns:
            The reply and the descriptor of the labels' arrays.

        Raises:
            UnknownModel: no such model is loaded.
            UnusableCloud: the cloud lacks what the model needs.
        """
        model = self.models.get(message["model"])
        if model is None:
            raise UnknownModel(f"no model {message['model']!r} is loaded; there are: {', '.join(self.models)}")
        started = time.perf_counter()
        prepared = transforms.prepare(cloud, model.recipe, self.device)
        prepared_at = time.perf_counter()
        logits = [model.forward(collate([tile])) for tile in prepared.tiles]
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        forwarded_at = time.perf_counter()
        result = transforms.restore(prepared, logits, model.card, scores=bool(message["scores"]))
        arrays = {"label": result.label, "confidence": result.confidence, "scores": result.scores}
        descriptor, layout = shared.pack(arrays)
        timing = {
            "prepare": prepared_at - started,
            "forward": forwarded_at - prepared_at,
            "restore": time.perf_counter() - forwarded_at,
        }
        reply = segmentation_message(result)
        reply["timing_ms"] = {stage: round(seconds * 1e3, 3) for stage, seconds in timing.items()}
        return {"segmentation": reply, "layout": layout}, descriptor


def _answer(worker: Worker, message: Message, descriptors: list[int]) -> tuple[Message, tuple[int, ...]]:
    try:
        arrays: dict[str, Any] = shared.unpack(descriptors[0], message["layout"])
        reply, descriptor = worker.segment(message, PointCloud(**arrays))
        return reply, (descriptor,)
    except ServiceError as error:
        return {"error": to_message(error)}, ()
    except Exception as error:
        log.exception("model failed", model=message.get("model"), request_id=message.get("request_id"))
        if worker.device.type == "cuda" and "CUDA error" in str(error):
            # After such an error every later call on this context fails too: leave, and be replaced.
            sys.exit(1)
        return {"error": to_message(InternalError(f"the model failed on this cloud: {type(error).__name__}"))}, ()


def _serve(channel: Channel, chosen: Settings) -> None:
    try:
        worker = Worker(chosen)
    except ServiceError as error:
        channel.send({"error": to_message(error)})
        return
    except Exception as error:
        log.exception("models do not load")
        channel.send({"error": to_message(InternalError(f"the models do not load: {error}"))})
        return
    cards = [card_message(model.card) for model in worker.models.values()]
    about = {"device": describe(worker.device, worker.models), "environment": environment.report()}
    channel.send({"ready": True, "cards": cards, **about})
    while True:
        message, descriptors = channel.receive()
        try:
            reply, answers = _answer(worker, message, descriptors)
        finally:
            close_all(descriptors)
        try:
            channel.send(reply, answers)
        finally:
            close_all(answers)


def main() -> None:
    """Answer the engine's requests until it goes away."""
    chosen = settings()
    configure("worker", chosen.log_level)
    try:
        _serve(inherited_channel(), chosen)
    except ChannelClosed:
        return


if __name__ == "__main__":
    main()
