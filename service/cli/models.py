"""`pointserve models`: the model cards as a table."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from service.cli.remote import Remote
from service.errors import ServiceError
from service.models import cards, entries
from service.settings import Settings
from service.values import ModelCard
from service.wire import json_v1


def show(url: str | None, settings: Settings) -> int:
    """Print a table of models, those of the service at `url` or those that the settings name; return the exit status.

    A model that cannot be served is told with the reason, and the status is then 1; of others it is told what was
    taken for granted. Without a service, configurations are read and checkpoints looked over; weights are not loaded.
    """
    rows: list[dict[str, Any]] = []
    errors: list[tuple[str, str]] = []
    if url is not None:
        rows = Remote(url, api_key=settings.api_key).models()
    else:
        for name, found in _local(settings):
            if isinstance(found, ModelCard):
                rows.append(_row(found))
            else:
                errors.append((name, found.detail))
    _print(rows)
    for row in rows:
        for warning in row["about"].get("warnings", ()):
            print(f"{row['name']}: warning: {warning}", file=sys.stderr)
    for name, reason in errors:
        print(f"{name}: {reason}", file=sys.stderr)
    return 1 if errors else 0


def _local(settings: Settings) -> Iterator[tuple[str, ModelCard | ServiceError]]:
    """Yield the models that the settings name, each with its card or why it has none."""
    named = entries.entries(settings)
    if all(entry.path is None for entry in named):
        for entry in named:
            yield entry.name, _bundled(entry.name)
        return
    # Only for these, since this takes torch, and seconds.
    from service.models import catalogue

    for name, source in catalogue.sources(settings).items():
        yield name, source.card_or_error()


def _bundled(name: str) -> ModelCard | ServiceError:
    try:
        return cards.card(name)
    except ServiceError as error:
        return error


def _print(rows: list[dict[str, Any]]) -> None:
    if not rows:
        print("No models.")
        return
    table = Table(title_justify="left", header_style="bold", box=None, pad_edge=False)
    for name in ("model", "family", "classes", "inputs", "voxel", "weights", "about"):
        table.add_column(name, overflow="fold")
    for row in rows:
        classes = Text(", ").join(Text(entry["name"], style=entry["color"]) for entry in row["classes"])
        inputs, voxel = ", ".join(row["inputs"]), f"{row['grid_size'] * 1000:g} mm"
        table.add_row(row["name"], row["family"], classes, inputs, voxel, f"{row['parameters']:,}", row["title"])
    Console().print(table)


def _row(card: ModelCard) -> dict[str, Any]:
    """Return a card with the fields of the HTTP answer that the table shows."""
    return {
        "name": card.name,
        "title": card.title,
        "about": card.about,
        "family": card.family,
        "classes": [json_v1.describe_class(info) for info in card.classes],
        "inputs": card.inputs,
        "grid_size": card.grid_size,
        "parameters": card.parameters,
    }
