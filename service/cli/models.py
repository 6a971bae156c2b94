"""`pointserve models`: the model cards as a table."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from service.cli.remote import Remote
from service.models import cards
from service.values import ModelCard
from service.wire import json_v1


def show(url: str | None, api_key: str = "") -> None:
    """Print a table of models, those of the service at `url` or those of this installation."""
    if url is not None:
        rows = Remote(url, api_key=api_key).models()
    else:
        rows = [_row(card) for card in cards.cards()]
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
        "family": card.family,
        "classes": [json_v1.describe_class(info) for info in card.classes],
        "inputs": card.inputs,
        "grid_size": card.grid_size,
        "parameters": card.parameters,
    }
