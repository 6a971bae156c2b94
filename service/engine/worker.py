"""The process that owns one device: it loads the models once and labels the clouds that the engine sends."""

from __future__ import annotations

import contextlib
import os
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import structlog
import torch

from service import environment
from service.engine import labelling
from service.engine.channel import Channel, ChannelClosed, Message
from service.engine.child import inherited_channel
from service.engine.labelling import Ready, Wishes
from service.engine.lane import BATCH_VOXELS
from service.engine.pipeline import Pipeline
from service.engine.testtime import Tick
from service.errors import InternalError, OutOfMemory, ServiceError, UnusableModel, to_message
from service.logs import configure
from service.models import catalogue
from service.models.model import Model
from service.models.shelf import Shelf
from service.settings import Settings, settings
from service.values import Answer, PointCloud, Segmentation

INTAKES = {"cuda": 2, "cpu": 1}
"""Threads that prepare clouds. On a GPU a preparation is many short kernels, so that two of them go side by side."""
BATCH_BYTES_CPU = 128 << 20
VOXEL_BYTES = 4096.0
"""Memory of a forward for one voxel, until one was measured; on a CPU it is not, and this is what parcels takes."""
MEASURED_VOXELS = 1000
OOM_SCORE = "500"
log = structlog.get_logger()


def choose_device(wanted: str) -> torch.device:
    """Return the device that the setting names: `cuda` is the first GPU, `auto` too, or the CPU where there is none."""
    if wanted == "auto":
        wanted = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device("cuda:0" if wanted == "cuda" else wanted)


def describe(device: torch.device, models: Mapping[str, Model]) -> dict[str, Any]:
    """Return what `/health` says of the device."""
    on_gpu = device.type == "cuda"
    return {
        "device": str(device),
        "name": torch.cuda.get_device_name(device) if on_gpu else "CPU",
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "cuda": torch.version.cuda if on_gpu else None,
        "gpus": torch.cuda.device_count() if on_gpu else 0,
        "engines": {name: model.engine for name, model in models.items()},
        "precision": {name: model.precision for name, model in models.items()},
    }


class Worker:
    """The models on their device, as a `pipeline.Labeller`.

    Args:
        chosen: which models, on which device, with which engine.
    """

    def __init__(self, chosen: Settings) -> None:
        self._threads = chosen.threads or os.cpu_count() or 1
        torch.set_num_threads(self._threads)
        self.device = choose_device(chosen.device)
        self.intakes = INTAKES[self.device.type]
        self.window_s = chosen.batch_window_ms / 1e3
        self._local = threading.local()
        self.say: Callable[[Message], None] = lambda message: None  # until the pipeline gives a voice
        self.enter("main")
        self._chosen = chosen
        self._sources = catalogue.sources(chosen)
        self._spares: dict[str, Model] = {}
        self._voxel_bytes: dict[str, float] = {}
        self._with_objects: set[str] = set()
        self._batch_bytes = chosen.batch_memory_bytes or BATCH_BYTES_CPU
        # One network at a time: a model is tried out while another one works.
        self._network = threading.Lock()
        self.shelf = Shelf(self._sources, self._load, self.device, chosen.model_memory_bytes, self._tell)
        if chosen.load_models == "start":
            self.shelf.load_all()
        self._refuse_if_all_failed()

    @property
    def models(self) -> dict[str, Model]:
        """The models that are loaded now."""
        found = {name: self.shelf.peek(name) for name in self._sources}
        return {name: model for name, model in found.items() if model is not None}

    def _refuse_if_all_failed(self) -> None:
        """Raise the first model's reason where there is nothing to serve: the engine then tries again by and by."""
        states = self.shelf.states()
        if states and all(model["state"] == "failed" for model in states):
            raise UnusableModel(f"the model {states[0]['name']} cannot be used: {states[0]['reason']}")

    def _tell(self) -> None:
        """Tell the engine of the models' states, and see how much memory they leave."""
        if self.device.type == "cuda" and not self._chosen.batch_memory_bytes:
            self._batch_bytes = torch.cuda.mem_get_info(self.device)[0] // 2
        self.say({"cards": self._cards()})

    def _cards(self) -> list[dict[str, Any]]:
        """Return the models' cards and states; `objects` says whether a model that was tried tells objects apart."""
        return [{**state, "objects": state["name"] in self._with_objects} for state in self.shelf.states()]

    def _load(self, name: str) -> Model:
        """Load a model and label a made-up cloud with it; the shelf calls this.

        So a model that cannot work is known before a request meets it, and no request pays for libraries that set
        themselves up on their first call.
        """
        exact = self._chosen.precision == "float32"
        model = self._sources[name].load(self.device, self._chosen.engine, exact=exact)
        if self._chosen.precision == "bfloat16":
            model.try_bfloat16()
        points = np.random.default_rng(0).uniform(0, 50 * model.recipe.grid_size, (5000, 3))
        points[:4000, 2] = 0
        color, intensity = np.zeros(points.shape, np.uint8), np.zeros(len(points), np.float32)
        cloud = PointCloud(points, color, np.ones(points.shape, np.float32), intensity)
        with self._network:
            (answer,) = labelling.label(model, [cloud], [Wishes(task=model.card.tasks[0])])
        if isinstance(answer, ServiceError):
            raise answer
        if isinstance(answer, Segmentation) and answer.instance is not None:
            self._with_objects.add(name)
        return model

    def has(self, model: str) -> bool:
        """Return whether a model is loaded."""
        return self.shelf.peek(model) is not None

    def fetch(self, model: str) -> ServiceError | None:
        """Load a model, and return why it cannot be where it cannot."""
        found = self._model(model)
        return found if isinstance(found, ServiceError) else None

    def _model(self, name: str) -> Model | ServiceError:
        try:
            return self.shelf.get(name)
        except ServiceError as error:
            return error

    def ready(self) -> Message:
        """Return what the engine is told at the start."""
        return {
            "ready": True,
            "cards": self._cards(),
            "device": describe(self.device, self.models),
            "environment": environment.report(),
            "batch_voxels": max((self.max_voxels(name) for name in self.models), default=BATCH_VOXELS),
        }

    def enter(self, role: Literal["intake", "main"]) -> None:
        """Set up the calling thread: its GPU, its stream, and how many threads torch takes there."""
        if self.device.type == "cuda":
            torch.cuda.set_device(self.device)
            self._local.stream = torch.cuda.Stream(self.device) if role == "intake" else None
        torch.set_num_threads(1 if role == "intake" else self._threads)

    def wishes(self, message: Message) -> Wishes:
        """Return what a request wants."""
        task = message.get("task", "segment")
        tta, condition = message.get("tta", "none"), message.get("condition")
        return Wishes(bool(message["scores"]), bool(message.get("confidence")), tta, condition, task)

    @torch.inference_mode()
    def prepare(self, model: str, cloud: PointCloud, wishes: Wishes) -> tuple[Ready | OutOfMemory, int] | ServiceError:
        """Return a cloud as `label` takes it, with its voxels; see `labelling.prepare`."""
        chosen = self._model(model)
        if isinstance(chosen, ServiceError):
            return chosen
        stream: torch.cuda.Stream | None = getattr(self._local, "stream", None)
        with torch.cuda.stream(stream) if stream is not None else contextlib.nullcontext():
            ready = labelling.prepare(chosen, cloud, wishes)
            if stream is not None:
                stream.synchronize()  # the network runs on another stream
        # The rescue of a cloud that found too little memory is many passes, and so is the test-time procedure: nobody
        # else shall wait for them in one batch.
        if isinstance(ready, OutOfMemory):
            return ready, self.max_voxels(model)
        if isinstance(ready, ServiceError):
            return ready
        return ready, ready.voxels if wishes.tta == "none" else self.max_voxels(model)

    def max_voxels(self, model: str) -> int:
        """Return how many voxels a batch may have: what its memory allows, and one tile of the recipe at most."""
        chosen = self.shelf.peek(model)
        if chosen is None:
            return 1
        return max(1, min(chosen.recipe.max_voxels, int(self._batch_bytes / self._voxel_bytes.get(model, VOXEL_BYTES))))

    def label(
        self,
        model: str,
        clouds: Sequence[PointCloud],
        wishes: Sequence[Wishes],
        ready: Sequence[Ready | ServiceError],
        tick: Tick = lambda done: None,
    ) -> list[Answer | ServiceError]:
        """Label clouds with one model; see `labelling.label`."""
        chosen = self._model(model)  # it may have made room for another since the clouds were prepared
        if isinstance(chosen, ServiceError):
            return [chosen for _ in clouds]
        with self._network:
            return self._label(chosen, clouds, wishes, ready, tick)

    def _label(
        self,
        chosen: Model,
        clouds: Sequence[PointCloud],
        wishes: Sequence[Wishes],
        ready: Sequence[Ready | ServiceError],
        tick: Tick,
    ) -> list[Answer | ServiceError]:
        """Label clouds, and on a GPU learn how much memory that takes."""
        model = chosen.card.name
        if self.device.type != "cuda":
            return labelling.label(chosen, clouds, wishes, ready=ready, tick=tick)
        torch.cuda.reset_peak_memory_stats(self.device)
        before = torch.cuda.memory_allocated(self.device)
        answers = labelling.label(chosen, clouds, wishes, ready=ready, tick=tick, spare=lambda: self._on_cpu(model))
        voxels = sum(one.voxels for one in ready if isinstance(one, Ready) and one.scene is None)
        if MEASURED_VOXELS <= voxels <= chosen.recipe.max_voxels:
            taken = (torch.cuda.max_memory_allocated(self.device) - before) / voxels
            # The memory of one voxel falls with their number; the last word is the best guess for the next batch.
            self._voxel_bytes[model] = max(1.0, taken)
        return answers

    def _on_cpu(self, name: str) -> Model:
        """Return a model on the CPU, for clouds that the GPU has too little memory for; it stays loaded."""
        if name not in self._spares:
            self._spares[name] = self._sources[name].load(torch.device("cpu"), "native")
        return self._spares[name]

    def memory(self) -> dict[str, Any]:
        """Return the GPU memory that torch holds here, and what is free on the device, in bytes; {} on a CPU."""
        if self.device.type != "cuda":
            return {}
        free, total = torch.cuda.mem_get_info(self.device)
        allocated, reserved = torch.cuda.memory_allocated(self.device), torch.cuda.memory_reserved(self.device)
        return {"allocated_bytes": allocated, "reserved_bytes": reserved, "free_bytes": free, "total_bytes": total}


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
    channel.send(worker.ready())
    Pipeline(channel, worker, worker).run()


def main() -> None:
    """Answer the engine's requests until it goes away."""
    chosen = settings()
    configure("worker", chosen.log_level)
    with contextlib.suppress(OSError):
        # Where the whole machine runs out of memory, the kernel ends this process, which is replaced, not the engine.
        Path("/proc/self/oom_score_adj").write_text(OOM_SCORE)
    sys.setswitchinterval(0.001)
    with contextlib.suppress(ChannelClosed):
        _serve(inherited_channel(), chosen)


if __name__ == "__main__":
    main()
