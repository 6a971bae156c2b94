"""Clouds become labels: prepare -> forward -> restore, several clouds in one pass. No process is known here."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

import structlog
import torch

from service import transforms
from service.engine import shortage, testtime
from service.engine.testtime import Tick
from service.errors import InternalError, MalformedRequest, OutOfMemory, ServiceError
from service.models.batch import collate
from service.models.model import Model
from service.transforms import Prepared, Tile, fragments, summary
from service.transforms.fragments import Scene
from service.transforms.restore import from_votes
from service.values import TASKS, Answer, PointCloud, Segmentation

T = TypeVar("T")
A = TypeVar("A", Segmentation, Answer)
TTA = ("none", "full")
CPU = torch.device("cpu")
log = structlog.get_logger()


class DeviceLost(Exception):
    """The device answers no call any more; the process that owns it must end."""


@dataclass(frozen=True)
class Wishes:
    """What the answer to one cloud shall hold.

    Attributes:
        scores: class probabilities, and confidence with them.
        confidence: the probability of the chosen class.
        tta: `none`, one pass; `full`, the test-time procedure of the model's recipe.
        condition: the dataset whose norms, head and classes shall be used; None: the one of the model's configuration.
        task: what is wanted of the model, out of `service.values.TASKS`.
    """

    scores: bool = False
    confidence: bool = False
    tta: str = "none"
    condition: str | None = None
    task: str = "segment"


@dataclass(frozen=True)
class Ready:
    """A cloud that waits for the network.

    Attributes:
        prepared: its tiles.
        seconds: how long preparing it took.
        scene: what the test-time procedure starts from, where that is wished for; there are no tiles then.
        task: what is wanted; clouds for which it is the same go through the network together.
    """

    prepared: Prepared
    seconds: float
    scene: Scene | None = None
    task: str = "segment"

    @property
    def voxels(self) -> int:
        """Rows that the network will see, overlaps included."""
        return sum(len(tile.coord) for tile in self.prepared.tiles)


def prepare(model: Model, cloud: PointCloud, wishes: Wishes) -> Ready | ServiceError:
    """Return the cloud as the network wants it, on the model's device, or what is wrong with it."""
    if wishes.task not in model.card.tasks:
        return MalformedRequest(_cannot(model, wishes.task))
    if wishes.tta not in TTA:
        return MalformedRequest(f"tta {wishes.tta!r} is unknown: use none or full")
    if wishes.tta == "full" and wishes.task != "segment":
        return MalformedRequest(f"tta=full labels points and cannot {wishes.task}: use tta=none")
    if wishes.tta == "full" and not model.recipe.augmentations:
        return MalformedRequest(f"the model {model.card.name} has no test-time augmentations: use tta=none")

    def work() -> Ready:
        model.under(wishes.condition)
        started = time.perf_counter()
        if wishes.tta == "full":
            scene = fragments.scene(cloud, model.recipe, model.device)
            return Ready(scene.prepared, time.perf_counter() - started, scene)
        prepared = transforms.prepare(cloud, model.recipe, model.device)
        if _whole(model, wishes):
            summary.check_whole(prepared, model.recipe)
        return Ready(prepared, time.perf_counter() - started, task=wishes.task)

    return _guarded(model, work)


def _whole(model: Model, wishes: Wishes) -> bool:
    """Return whether the answer is of a cloud as a whole, which is then not cut into tiles."""
    objects = wishes.task == "segment" and model.grouping is not None and model.grouping.whole
    return wishes.task == "classify" or objects


def _cannot(model: Model, task: str) -> str:
    if task not in TASKS:
        return f"task {task!r} is unknown: use {', '.join(TASKS)}"
    return f"the model {model.card.name} cannot {task}; it can {' and '.join(model.card.tasks)}"


@torch.inference_mode()
def label(
    model: Model,
    clouds: Sequence[PointCloud],
    wishes: Sequence[Wishes],
    *,
    ready: Sequence[Ready | ServiceError] | None = None,
    max_voxels: int | None = None,
    tick: Tick = lambda done: None,
    spare: Callable[[], Model] | None = None,
) -> list[Answer | ServiceError]:
    """Label a batch of clouds; an error of one cloud is that cloud's only.

    A cloud's answer is the same, to the bit on a CPU, whichever clouds stand beside it. Where the device has too little
    memory for a batch, its halves are run; for a single cloud, see `shortage.rescue`.

    Args:
        model: whose labels.
        clouds: any number, of any sizes.
        wishes: one for each cloud.
        ready: what `prepare` returned for each cloud, where that was done before.
        max_voxels: most voxels in one pass of the network; the recipe's own bound on one tile when absent.
        tick: called again and again during the test-time procedure of a cloud with the share that is done, 0 to 1; a
            ServiceError that it raises becomes that cloud's.
        spare: returns the same model on the CPU, for clouds that the device has too little memory for.

    Returns:
        For each cloud its labels, or what else was wished for, with `timing_ms` of prepare, forward and restore; or
        its error.

    Raises:
        DeviceLost: the device is of no use any more.
    """
    if ready is None:
        ready = [prepare(model, cloud, wish) for cloud, wish in zip(clouds, wishes, strict=True)]
    if any(wish.condition is not None for wish in wishes):
        return _label_each_condition(model, clouds, wishes, ready, max_voxels, tick, spare)
    results: list[Answer | ServiceError | None] = [r if isinstance(r, ServiceError) else None for r in ready]
    waiting = []
    for index, one in enumerate(ready):
        if isinstance(one, Ready) and one.scene is not None:
            results[index] = _look_again(model, one, one.scene, wishes[index], tick)
        elif isinstance(one, Ready):
            waiting.append((index, one))
    waiting.sort(key=lambda each: each[1].task)
    for together in _batches(waiting, max_voxels or model.recipe.max_voxels):
        for (index, one), logits in zip(together, _forward_each(model, [one for _, one in together]), strict=True):
            if isinstance(logits, ServiceError):
                results[index] = logits
            else:
                results[index] = _restore(model, one, *logits, wishes[index])
    for index, failure in enumerate(results):
        if isinstance(failure, OutOfMemory):
            results[index] = _rescue(model, clouds[index], wishes[index], ready[index], failure, tick, spare)
    return [result for result in results if result is not None]


def _label_each_condition(
    model: Model,
    clouds: Sequence[PointCloud],
    wishes: Sequence[Wishes],
    ready: Sequence[Ready | ServiceError],
    max_voxels: int | None,
    tick: Tick,
    spare: Callable[[], Model] | None,
) -> list[Answer | ServiceError]:
    """Label clouds of which those of one condition go through the network together."""
    results: dict[int, Answer | ServiceError] = {}
    for condition in dict.fromkeys(wish.condition for wish in wishes):
        rows = [row for row, wish in enumerate(wishes) if wish.condition == condition]
        told = _guarded(model, lambda condition=condition: model.under(condition))  # type: ignore[misc]
        if isinstance(told, ServiceError):
            results |= dict.fromkeys(rows, told)
            continue
        answers = label(
            told,
            [clouds[row] for row in rows],
            [dataclasses.replace(wishes[row], condition=None) for row in rows],
            ready=[ready[row] for row in rows],
            max_voxels=max_voxels,
            tick=tick,
            spare=None if spare is None else lambda condition=condition: spare().under(condition),  # type: ignore[misc]
        )
        results |= dict(zip(rows, answers, strict=True))
    return [results[row] for row in range(len(wishes))]


def _rescue(
    model: Model,
    cloud: PointCloud,
    wishes: Wishes,
    ready: Ready | ServiceError,
    failure: OutOfMemory,
    tick: Tick,
    spare: Callable[[], Model] | None,
) -> Answer | ServiceError:
    """Label a cloud that the device had too little memory for."""
    tiles = ready.prepared.tiles if isinstance(ready, Ready) else ()
    voxels = max((len(tile.coord) for tile in tiles), default=model.recipe.max_voxels)

    def in_tiles(most: int) -> Answer | ServiceError:
        return _guarded(model, lambda: _label_in_tiles(model, cloud, wishes, most))

    def on_cpu() -> Answer | ServiceError:
        assert spare is not None
        found = _guarded(model, spare)
        return found if isinstance(found, ServiceError) else label(found, [cloud], [wishes], tick=tick)[0]

    return shortage.rescue(
        failure,
        voxels,
        None if wishes.tta == "full" or _whole(model, wishes) else in_tiles,
        None if spare is None or model.device.type == "cpu" else on_cpu,
    )


def _label_in_tiles(model: Model, cloud: PointCloud, wishes: Wishes, max_voxels: int) -> Answer:
    """Label a cloud of which only one tile at a time, of at most so many voxels, is on the device."""
    started = time.perf_counter()
    recipe = dataclasses.replace(model.recipe, max_voxels=max_voxels)
    prepared = transforms.prepare(cloud, recipe, CPU)
    prepared_at = time.perf_counter()
    logits = [_run(model, wishes.task, [tile]).cpu() for tile in prepared.tiles]
    forwarded_at = time.perf_counter()
    result = _answer(model, prepared, logits, wishes)
    ended = time.perf_counter()
    return _timed(result, prepared_at - started, forwarded_at - prepared_at, ended - forwarded_at)


def _look_again(model: Model, one: Ready, scene: Scene, wishes: Wishes, tick: Tick) -> Segmentation | ServiceError:
    """Return the cloud's labels by the test-time procedure."""

    def work() -> Segmentation:
        started = time.perf_counter()
        votes = testtime.vote(model, scene, tick)
        if model.device.type == "cuda":
            torch.cuda.synchronize(model.device)
        voted = time.perf_counter()
        found = from_votes(one.prepared, votes, model.card, scores=wishes.scores, confidence=wishes.confidence)
        return _timed(found, one.seconds, voted - started, time.perf_counter() - voted)

    return _guarded(model, work)


Logits = tuple[list[torch.Tensor], float]
"""Of one cloud's tiles, and the seconds that the pass took."""


def _batches(waiting: Sequence[tuple[int, Ready]], max_voxels: int) -> Iterator[list[tuple[int, Ready]]]:
    """Yield runs of clouds with one task that together have at most so many voxels; a larger cloud stands alone."""
    batch: list[tuple[int, Ready]] = []
    voxels = 0
    for index, one in waiting:
        if batch and (voxels + one.voxels > max_voxels or one.task != batch[0][1].task):
            yield batch
            batch, voxels = [], 0
        batch.append((index, one))
        voxels += one.voxels
    if batch:
        yield batch


def _forward_each(model: Model, clouds: Sequence[Ready]) -> list[Logits | ServiceError]:
    """Return each cloud's logits: of one pass, or where that fails of a pass for each cloud."""
    together = _guarded(model, lambda: _forward(model, clouds))
    if not isinstance(together, ServiceError):
        return list(together)
    if len(clouds) == 1:
        return [together]
    if isinstance(together, OutOfMemory):
        log.warning("out of memory, the batch is halved", clouds=len(clouds))
        half = len(clouds) // 2
        return [*_forward_each(model, clouds[:half]), *_forward_each(model, clouds[half:])]
    alone = [_guarded(model, lambda one=one: _forward(model, [one])) for one in clouds]  # type: ignore[misc]
    return [found if isinstance(found, ServiceError) else found[0] for found in alone]


def _forward(model: Model, clouds: Sequence[Ready]) -> list[Logits]:
    """Run the network on the tiles of clouds; those of a cloud that has several one by one."""
    started, task = time.perf_counter(), clouds[0].task
    if len(clouds) == 1:
        found = [[_run(model, task, [tile]) for tile in clouds[0].prepared.tiles]]
    else:
        tiles: list[Tile] = [tile for one in clouds for tile in one.prepared.tiles]
        sizes = [1 if task == "classify" else len(tile.coord) for tile in tiles]
        rows = iter(_run(model, task, tiles).split(sizes))
        found = [[next(rows) for _ in one.prepared.tiles] for one in clouds]
    if model.device.type == "cuda":
        torch.cuda.synchronize(model.device)
    seconds = time.perf_counter() - started
    return [(logits, seconds) for logits in found]


def _run(model: Model, task: str, tiles: Sequence[Tile]) -> torch.Tensor:
    """Return the tiles' rows of logits or features, one after another; of a classifier a row for each tile."""
    batch = collate(tiles).to(model.device)
    return model.embed(batch) if task == "embed" else model.forward(batch)


def _answer(model: Model, prepared: Prepared, found: Sequence[torch.Tensor], wishes: Wishes) -> Answer:
    """Return what was wished for, made of what `_run` returned for the tiles."""
    if wishes.task == "classify":
        return summary.classify(prepared, found[0], model.card)
    if wishes.task == "embed":
        return summary.embed(prepared, found, model.card)
    return transforms.restore(
        prepared, found, model.card, scores=wishes.scores, confidence=wishes.confidence, groups=model.grouping
    )


def _restore(
    model: Model, one: Ready, logits: Sequence[torch.Tensor], forward_s: float, wishes: Wishes
) -> Answer | ServiceError:
    started = time.perf_counter()
    result = _guarded(model, lambda: _answer(model, one.prepared, logits, wishes))
    if isinstance(result, ServiceError):
        return result
    return _timed(result, one.seconds, forward_s, time.perf_counter() - started)


def _timed(result: A, prepare_s: float, forward_s: float, restore_s: float) -> A:
    timing = {"prepare": prepare_s, "forward": forward_s, "restore": restore_s}
    return dataclasses.replace(result, timing_ms={stage: round(s * 1e3, 3) for stage, s in timing.items()})


def _guarded(model: Model, work: Callable[[], T]) -> T | ServiceError:
    """Return what the work returns, or its failure as an error for the user.

    Raises:
        DeviceLost: it failed, and so does the device ever after.
    """
    try:
        return work()
    except ServiceError as error:
        # From here on it is a value: its traceback would keep the frames, and with them the cloud, until they are
        # collected as garbage.
        error.__cause__ = error.__context__ = None
        return error.with_traceback(None)
    except Exception as error:
        if not shortage.is_shortage(error):
            log.exception("model failed", model=model.card.name)
            if model.device.type == "cuda":
                try:
                    # After a fault in a kernel every later call on the process's CUDA context fails too.
                    torch.cuda.synchronize(model.device)
                except RuntimeError:
                    raise DeviceLost(str(error)) from error
            return InternalError(f"the model failed on this cloud: {type(error).__name__}")
    # Out here the error is gone, and with it the frames that hold the tensors of the failed work.
    shortage.release(model.device)
    return shortage.out_of_memory(model.device)
