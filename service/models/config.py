"""Configurations of Pointcept's experiments, read without running them.

A configuration is a Python file. Ours is a reader of the small part of Python that such files use to write down values:
it walks the syntax tree and computes, so no name of the file is ever looked up in Python, imported or called. What it
does not know is an error with the file, the line and what stands there.
"""

from __future__ import annotations

import ast
import io
import tokenize
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from service.errors import UnusableModel
from service.models.expression import Evaluator, Refused

MAX_FILE_BYTES = 1 << 20
MAX_FILES = 16
MAX_TOKENS = 1500
_RUNTIME = "default_runtime.py"


def read(path: Path) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Return the values of a configuration with those of its `_base_` files under them.

    Args:
        path: a `config.py` as Pointcept's training writes it, or one of Pointcept's `configs/`.

    Returns:
        The top-level names and their values (numbers, strings, booleans, None, lists, tuples, dicts), and sentences
        about what was taken for granted.

    Raises:
        UnusableModel: the file is absent, too large, not Python, or does more than write down values; a base is absent
            (but for the one that holds run-time settings alone), or bases and file contradict each other.
    """
    return _read(path, [])


def read_text(text: str, name: str) -> dict[str, Any]:
    """Return the values of a configuration that stands alone, from its text; errors as in `read`."""
    return _values(text, name)


def _read(
    path: Path, chain: Sequence[Path], opened: list[Path] | None = None
) -> tuple[dict[str, Any], tuple[str, ...]]:
    opened = [] if opened is None else opened
    real = path.resolve()
    if real in chain:
        raise UnusableModel(f"The configuration {path} has itself as a base.")
    opened.append(real)
    if len(opened) > MAX_FILES:
        raise UnusableModel(f"The configuration {opened[0]} has more than {MAX_FILES} base files.")
    values = _values(_text(path), str(path))
    bases = values.pop("_base_", [])
    bases = bases if isinstance(bases, list) else [bases]
    under: dict[str, Any] = {}
    notes: list[str] = []
    for base in bases:
        target = _base(path, base)
        if target.name == _RUNTIME and not target.exists():
            notes.append(f"The configuration's base {base} is absent; it holds settings of training alone.")
            continue
        found, more = _read(target, [*chain, real], opened)
        twice = sorted(under.keys() & found.keys())
        if twice:
            raise UnusableModel(f"The bases of {path} both set {', '.join(twice)}; each name may stand in one of them.")
        under.update(found)
        notes.extend(more)
    return _merge(values, under, str(path)), tuple(notes)


def _base(path: Path, base: object) -> Path:
    if not isinstance(base, str) or not base.endswith(".py") or Path(base).is_absolute():
        raise UnusableModel(
            f"The configuration {path} has the base {base!r}; a base is the relative path of a .py file."
        )
    return path.parent / base


def _text(path: Path) -> str:
    try:
        if not path.is_file():
            raise UnusableModel(f"There is no configuration {path}.")
        if path.stat().st_size > MAX_FILE_BYTES:
            raise UnusableModel(f"The configuration {path} is larger than {MAX_FILE_BYTES} bytes.")
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UnusableModel(f"The configuration {path} cannot be read: {error}.") from error


def _values(text: str, name: str) -> dict[str, Any]:
    """Return the top-level names of a file's text; those that begin with two underscores are Python's own."""
    try:
        _check_depth(text)
        tree = ast.parse(text, filename=name)
    except tokenize.TokenError as error:
        raise UnusableModel(
            f"The configuration {name} is not Python in line {error.args[1][0]}: {error.args[0]}."
        ) from error
    except SyntaxError as error:
        line = error.lineno or 1
        raise UnusableModel(f"The configuration {name} is not Python in line {line}: {error.msg}.") from error
    except (RecursionError, MemoryError, ValueError) as error:
        why = str(error) or "it is nested too deeply"
        raise UnusableModel(f"The configuration {name} cannot be parsed: {why}.") from error
    try:
        values = Evaluator().run(tree)
    except Refused as error:
        raise UnusableModel(f"The configuration {name} has in line {error.line} {error.what}.") from error
    return {key: value for key, value in values.items() if not key.startswith("__") and key != "_deprecation_"}


def _check_depth(text: str) -> None:
    """Refuse expressions so long that their syntax tree would overflow Python 3.10's own stack, which ends the process.

    Raises:
        ValueError: more than MAX_TOKENS words and signs between two commas, those around their brackets counted too.
        SyntaxError, tokenize.TokenError: it is not Python.
    """
    open_brackets = [0]
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type in (tokenize.NL, tokenize.COMMENT):
            continue
        if token.type == tokenize.NEWLINE or token.string == ",":
            open_brackets[-1] = 0
            continue
        # Before Python 3.12 an f-string is one token, whatever stands in it.
        open_brackets[-1] += 1 if token.type != tokenize.STRING or not _is_f_string(token.string) else len(token.string)
        if sum(open_brackets) > MAX_TOKENS:
            raise ValueError(f"an expression in line {token.start[0]} is too long")
        if token.string in ("(", "[", "{"):
            open_brackets.append(0)
        elif token.string in (")", "]", "}") and len(open_brackets) > 1:
            open_brackets.pop()


def _is_f_string(token: str) -> bool:
    return "f" in token[: min(token.find("'") % len(token), token.find('"') % len(token))].lower()


def _merge(over: Mapping[str, Any], under: Mapping[str, Any], name: str, where: str = "") -> dict[str, Any]:
    """Return `under` with `over` laid on it: dicts merge key by key unless they hold `_delete_`, all else replaces."""
    merged = dict(under)
    for key, value in over.items():
        inside = f"{where}.{key}" if where else str(key)
        if isinstance(value, dict) and value.get("_delete_"):
            merged[key] = {inner: kept for inner, kept in value.items() if inner != "_delete_"}
        elif isinstance(value, dict) and key in under:
            value = {inner: kept for inner, kept in value.items() if inner != "_delete_"}
            if not isinstance(under[key], dict):
                kind = type(under[key]).__name__
                raise UnusableModel(
                    f"The configuration {name} sets {inside} to a dict, and its base to a {kind}; add _delete_=True."
                )
            merged[key] = _merge(value, under[key], name, inside)
        else:
            merged[key] = value
    return merged
