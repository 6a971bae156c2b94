"""What MODELS and MODELS_DIR name: bundled models, experiment folders, checkpoints. Nothing of a model is read here."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from service.errors import UnusableModel
from service.models import cards

MAX_DEPTH = 5
MAX_FOLDERS = 20_000
_PLAIN_FILES = ("model_best", "model_last")
_GENERATION = re.compile(r"(.+)@(v\d[\w.]*)")
_NAMED = re.compile(r"([\w.+-]+)=(.+)")


class Choice(Protocol):
    """The settings that say which models are served."""

    @property
    def models(self) -> str:
        """Entries, separated by commas: `[name=]place[@generation]`."""

    @property
    def models_dir(self) -> str:
        """Folder whose experiments are all served; empty: none."""


@dataclass(frozen=True)
class Entry:
    """One model to serve.

    Attributes:
        name: by which requests ask for it.
        path: an experiment folder or a checkpoint; None: the bundled model of that name.
        generation: what the entry says of its weights, or None.
    """

    name: str
    path: Path | None
    generation: str | None = None


def entries(chosen: Choice) -> tuple[Entry, ...]:
    """Return the models that the settings name, each once, under names of their own.

    Raises:
        UnusableModel: the models folder is not there, or no model is named.
    """
    inside = {_name(path): path for path in reversed(_experiments(chosen.models_dir))}
    found: list[Entry] = []
    for text in chosen.models.split(","):
        if text.strip():
            found.append(_entry(text.strip(), inside))
    named = {entry.path for entry in found}
    found += [Entry(_name(path), path) for path in _experiments(chosen.models_dir) if path not in named]
    if not found:
        raise UnusableModel(
            f"No model is named: MODELS is empty, and MODELS_DIR ({chosen.models_dir or 'not set'}) has no experiment, "
            "which is a folder with a config.py."
        )
    return tuple(_apart(found))


def _entry(text: str, inside: dict[str, Path]) -> Entry:
    """Return what one entry of MODELS names; a bundled model where nothing else has that name."""
    generation = None
    if match := _GENERATION.fullmatch(text):
        text, generation = match.groups()
    if text in cards.names():
        return Entry(text, None, generation)
    if text in inside:
        return Entry(text, inside[text], generation)
    name = None
    if not os.path.exists(text) and (match := _NAMED.fullmatch(text)):
        name, text = match.groups()
        if text in inside:
            return Entry(name, inside[text], generation)
    if os.sep not in text and not os.path.exists(text) and name is None:
        return Entry(text, None, generation)
    path = Path(os.path.abspath(text))
    return Entry(name or _name(path), path, generation)


def _experiments(folder: str) -> tuple[Path, ...]:
    """Return the folders with a config.py under a folder, or the folder itself; what lies inside one is its own."""
    if not folder:
        return ()
    root = Path(os.path.abspath(folder))
    if not root.is_dir():
        raise UnusableModel(f"The models folder {root} (MODELS_DIR) is not there.")
    return tuple(_walk(root, MAX_DEPTH, [MAX_FOLDERS]))


def _walk(folder: Path, depth: int, left: list[int]) -> Iterator[Path]:
    left[0] -= 1
    if left[0] < 0:
        raise UnusableModel(f"The models folder (MODELS_DIR) has more than {MAX_FOLDERS} folders in it.")
    if (folder / "config.py").is_file():
        yield folder
    elif depth:
        try:
            inner = sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))
        except OSError:
            return
        for path in inner:
            yield from _walk(path, depth - 1, left)


def _name(path: Path) -> str:
    """Return the name of an experiment: its folder's, or its file's where that says more than `model_best`."""
    if path.suffix != ".pth":
        return _clean(path.name)
    if path.stem not in _PLAIN_FILES:
        return _clean(path.stem)
    return _clean((path.parent.parent if path.parent.name == "model" else path.parent).name)


def _clean(name: str) -> str:
    return re.sub(r"[^\w.+-]+", "-", name) or "model"


def _apart(found: Sequence[Entry]) -> Iterator[Entry]:
    """Yield the entries; the second of a name has its folder's before its own, or a number where that is taken too."""
    taken: set[str] = set()
    seen: set[tuple[Path | None, str]] = set()
    for entry in found:
        if (entry.path, entry.name) in seen:
            continue
        seen.add((entry.path, entry.name))
        name = entry.name
        if name in taken and entry.path is not None:
            name = f"{_clean(entry.path.parent.name)}-{entry.name}"
        number = 2
        while name in taken:
            name, number = f"{entry.name}-{number}", number + 1
        taken.add(name)
        yield Entry(name, entry.path, entry.generation)
