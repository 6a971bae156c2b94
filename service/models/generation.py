"""Which Pointcept trained a model: its configuration tells, or somebody who knows, or else it is assumed and said."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, get_args

from service.models import point_transformer_v3
from service.models.site import Generation

NEWEST: Generation = "v1.6"
GENERATIONS: tuple[Generation, ...] = get_args(Generation)
_SINCE_V1_6 = ("PT-v3m2", "PT-v3m3", "LitePT-v1", "PPT-v1m3")


@dataclass(frozen=True)
class Known:
    """A generation, and how it is known.

    Attributes:
        generation: see `site.Generation`.
        how: words that follow "because".
        sure: whether that leaves no other.
    """

    generation: Generation
    how: str
    sure: bool


def of(config: Mapping[str, Any], told: str | None) -> Known:
    """Return the generation of an experiment's weights.

    The whole configuration that training leaves tells it (see `point_transformer_v3.generation_of`). One that is not
    whole may still hold what only one side of v1.6.0 accepts: GridSample lost its argument `keys` there, the transform
    Add became Update, the hook ModelHook and several networks are new. Where nothing tells, the newest is assumed: the
    weights published for older ones come with their whole configuration.

    Args:
        config: the configuration.
        told: what an operator says.

    Raises:
        ValueError: what an operator says is no generation.
    """
    if told is not None:
        chosen = next((known for known in GENERATIONS if known == told), None)
        if chosen is None:
            raise ValueError(f"The generation {told!r} is unknown; there are: {', '.join(GENERATIONS)}.")
        return Known(chosen, "the operator says so", True)
    found = point_transformer_v3.generation_of(config)
    if found is not None:
        return Known(found, "its configuration has the names that this version writes", True)
    model = config.get("model")
    families = {part.get("type") for part in (model, _inner(model)) if isinstance(part, Mapping)}
    if families & set(_SINCE_V1_6):
        return Known("v1.6", "there is no such network before it", True)
    entries = list(_entries(config))
    if any(entry.get("type") in ("ModelHook", "Update") for entry in entries):
        return Known("v1.6", "its configuration has a hook or a transform that is not there before it", True)
    if any(entry.get("type") == "Add" or (entry.get("type") == "GridSample" and "keys" in entry) for entry in entries):
        return Known("v1.5.1", "its configuration has what v1.6.0 does not accept; v1.5.2 might be right too", False)
    return Known(NEWEST, "nothing in its configuration tells, and it is the newest", False)


def _inner(model: Any) -> Any:
    return model.get("backbone") if isinstance(model, Mapping) else None


def _entries(value: Any) -> Iterator[Mapping[str, Any]]:
    """Yield every dict with a type in a configuration, however deep."""
    if isinstance(value, Mapping):
        if "type" in value:
            yield value
        for inner in value.values():
            yield from _entries(inner)
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from _entries(inner)
