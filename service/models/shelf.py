"""Many models on one device: loaded when they are wanted, kept while there is room, the least recently used leaves."""

from __future__ import annotations

import gc
import itertools
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import structlog
import torch

from service.errors import InternalError, NotReady, ServiceError, UnknownModel, UnusableModel
from service.models.cards import card_message
from service.models.model import Model
from service.values import ModelCard

State = Literal["waiting", "loading", "ready", "failed", "evicted"]
MB = 1 << 20
log = structlog.get_logger()
_NOTHING_KNOWN = ModelCard("", "", "", (), (), 0.0, 0, "")


class Source(Protocol):
    """Where a model comes from; `catalogue.sources` returns such."""

    def card_or_error(self) -> ModelCard | ServiceError:
        """Return what can be said of the model before it is loaded, or why it cannot be served."""


Loader = Callable[[str], Model]
"""Loads the model of a name onto the device and tries it out; raises ServiceError where it cannot be used."""


@dataclass
class _Place:
    """One model's place on the shelf.

    Attributes:
        card: of the model once it was loaded, until then what its source says; None where that says nothing.
        model: where it is loaded.
        size: bytes that it takes, or took when it was last there.
        used: when it was last asked for, as a count of all requests.
    """

    state: State = "waiting"
    reason: str = ""
    card: ModelCard | None = None
    model: Model | None = None
    size: int = 0
    used: int = 0


class Shelf:
    """The models of one device. Safe to use from many threads; one model loads at a time.

    Args:
        sources: where the models come from, by their names; the first is the default.
        load: see `Loader`.
        device: where they run.
        budget: most bytes that the loaded models may take together; 0: no limit but the device's own.
        changed: called after each change of a model's state.
    """

    def __init__(
        self,
        sources: Mapping[str, Source],
        load: Loader,
        device: torch.device,
        budget: int = 0,
        changed: Callable[[], None] = lambda: None,
    ) -> None:
        self._load, self._device, self._budget, self._changed = load, device, budget, changed
        self._lock = threading.RLock()
        self._clock = itertools.count(1)
        self._places: dict[str, _Place] = {}
        for name, source in sources.items():
            found = source.card_or_error()
            if isinstance(found, ServiceError):
                log.error("model cannot be served", model=name, reason=found.detail)
                self._places[name] = _Place("failed", found.detail)
            else:
                self._places[name] = _Place(card=found)

    def load_all(self) -> None:
        """Load the models in their order, as many as the budget has room for; one that does not load is passed over."""
        for name, place in self._places.items():
            if place.state == "waiting" and not self._over(_estimate(place, self._device)):
                try:
                    self.get(name)
                except ServiceError as error:
                    log.error("model does not load", model=name, reason=error.detail)

    def get(self, name: str) -> Model:
        """Return a model, loaded now if it is not there.

        Raises:
            UnknownModel: no model of that name; the sentence lists the names.
            UnusableModel: it does not load, and why.
            NotReady: the device has no room for it now.
        """
        place = self._places.get(name)
        if place is None:
            raise UnknownModel(f"there is no model {name!r}; there are: {', '.join(self._places)}")
        place.used = next(self._clock)
        # Whoever wants a model that is there must not wait for one that is being loaded.
        model = place.model
        if model is not None:
            return model
        with self._lock:
            if place.state == "failed":
                raise UnusableModel(f"the model {name} cannot be used: {place.reason}")
            return place.model or self._fetch(name, place)

    def peek(self, name: str) -> Model | None:
        """Return a model that is loaded, and nothing when it is not."""
        place = self._places.get(name)
        return None if place is None else place.model

    def states(self) -> list[dict[str, Any]]:
        """Return the models' cards in their order as JSON values, each with `state`, `reason` and `bytes`.

        The state is `waiting` (not asked for yet), `loading`, `ready`, `failed` (for the reason) or `evicted` (made
        room for others; comes back when it is asked for). The card of a model of which nothing is known is empty.
        """
        return [
            {
                **card_message(place.card or _NOTHING_KNOWN),
                "name": name,
                "state": place.state,
                "reason": place.reason,
                "bytes": place.size if place.model is not None else 0,
            }
            for name, place in self._places.items()
        ]

    def _fetch(self, name: str, place: _Place) -> Model:
        """Load a model into its place, after others have made room."""
        before, size = place.state, _estimate(place, self._device)
        if 0 < self._budget < size:
            raise self._too_large(name, place, size)
        self._set(place, "loading")
        try:
            self._make_room(size)
            try:
                model, size = self._measured(name)
            except torch.cuda.OutOfMemoryError:
                self._evict(self._loaded())
                model, size = self._measured(name)
        except torch.cuda.OutOfMemoryError:
            self._set(place, before)
            raise NotReady(f"the device has no room for the model {name} now", retry_after_s=30) from None
        except ServiceError as error:
            self._set(place, "failed", error.detail)
            raise UnusableModel(f"the model {name} cannot be used: {error.detail}") from error
        except Exception as error:
            log.exception("model does not load", model=name)
            self._set(place, "failed", f"it does not load: {type(error).__name__}: {error}")
            raise InternalError(f"the model {name} does not load; the service's log knows more") from error
        if 0 < self._budget < size:
            del model
            self._clean()
            raise self._too_large(name, place, size)
        self._make_room(size)
        place.model, place.card, place.size = model, model.card, size
        self._set(place, "ready")
        return model

    def _too_large(self, name: str, place: _Place, size: int) -> UnusableModel:
        """Note that a model is larger than the budget, and return the error."""
        reason = f"it takes {size / MB:.0f} MB, and MODEL_MEMORY_BYTES allows {self._budget / MB:.0f} MB"
        self._set(place, "failed", reason)
        return UnusableModel(f"the model {name} cannot be used: {reason}")

    def _measured(self, name: str) -> tuple[Model, int]:
        """Return a model, and the bytes that it takes: its numbers, and on CUDA what trying it out took besides."""
        on_gpu = self._device.type == "cuda"
        if on_gpu:
            torch.cuda.reset_peak_memory_stats(self._device)
        model = self._load(name)
        size = model.bytes
        if on_gpu:
            peak = torch.cuda.max_memory_allocated(self._device) - torch.cuda.memory_allocated(self._device)
            size += max(0, peak)
        return model, size

    def _loaded(self) -> list[_Place]:
        """Return the places that are taken, the least recently used first."""
        return sorted((p for p in self._places.values() if p.model is not None), key=lambda p: p.used)

    def _over(self, size: int) -> bool:
        """Return whether so many bytes more are over the budget."""
        return 0 < self._budget < size + sum(place.size for place in self._loaded())

    def _make_room(self, size: int) -> None:
        for place in self._loaded():
            if not self._over(size):
                return
            self._evict([place])

    def _evict(self, places: Sequence[_Place]) -> None:
        for place in places:
            place.model = None
            self._set(place, "evicted")
        self._clean()

    def _clean(self) -> None:
        gc.collect()
        if self._device.type == "cuda":
            torch.cuda.empty_cache()

    def _set(self, place: _Place, state: State, reason: str = "") -> None:
        place.state, place.reason = state, reason
        self._changed()


def _estimate(place: _Place, device: torch.device) -> int:
    """Return about how many bytes a model will take."""
    if place.size or place.card is None:
        return place.size
    return place.card.parameters * (2 if device.type == "cuda" else 4)
