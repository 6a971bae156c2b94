"""The process that owns one device: it loads the models once and labels the clouds that the engine sends."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import Any

import numpy as np
import structlog
import torch

from service import environment
from service.engine import shared
from service.engine.channel import Channel, ChannelClosed, Message, close_all
from service.engine.child import inherited_channel
from service.engine.labelling import DeviceLost, Wishes, label
from service.errors import InternalError, ServiceError, UnknownModel, to_message
from service.logs import configure
from service.models import catalogue
from service.models.cards import card_message
from service.models.model import Model
from service.settings import Settings, settings
from service.values import PointCloud, Segmentation, segmentation_message

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
        sources = catalogue.sources(chosen)
        self.models = {name: source.load(self.device, chosen.engine) for name, source in sources.items()}
        for name in self.models:
            self._warm_up(name)

    def _warm_up(self, name: str) -> None:
        """Label a made-up cloud, so that no request pays for libraries that set themselves up on their first call."""
        points = np.random.default_rng(0).uniform(0, 50 * self.models[name].recipe.grid_size, (5000, 3))
        points[:4000, 2] = 0
        color, intensity = np.zeros(points.shape, np.uint8), np.zeros(len(points), np.float32)
        cloud = PointCloud(points, color, np.ones(points.shape, np.float32), intensity)
        (answer,) = self.label(name, [cloud], [Wishes()])
        if isinstance(answer, ServiceError):
            raise answer

    def label(
        self, name: str, clouds: Sequence[PointCloud], wishes: Sequence[Wishes]
    ) -> list[Segmentation | ServiceError]:
        """Label clouds with one model; see `labelling.label`."""
        model = self.models.get(name)
        if model is None:
            known = ", ".join(self.models)
            return [UnknownModel(f"no model {name!r} is loaded; there are: {known}") for _ in clouds]
        return label(model, clouds, wishes)


def _answer(worker: Worker, message: Message, descriptors: list[int]) -> tuple[Message, tuple[int, ...]]:
    try:
        stored: dict[str, Any] = shared.unpack(descriptors[0], message["layout"])
        cloud = PointCloud(**stored)
        wishes = Wishes(bool(message["scores"]), bool(message.get("confidence")), message.get("tta", "none"))
        (answer,) = worker.label(message["model"], [cloud], [wishes])
        if isinstance(answer, ServiceError):
            return {"error": to_message(answer)}, ()
        arrays = {"label": answer.label, "confidence": answer.confidence, "scores": answer.scores}
        descriptor, layout = shared.pack(arrays)
        return {"segmentation": segmentation_message(answer), "layout": layout}, (descriptor,)
    except ServiceError as error:
        return {"error": to_message(error)}, ()
    except DeviceLost:
        sys.exit(1)  # and be replaced
    except Exception as error:
        log.exception("request failed", model=message.get("model"), request_id=message.get("request_id"))
        return {"error": to_message(InternalError(f"the worker failed on this cloud: {type(error).__name__}"))}, ()


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
