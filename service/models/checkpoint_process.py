"""The process that reads one checkpoint: `python -m service.models.checkpoint_process PATH DESCRIPTOR SECONDS`.

It writes the file's tensors to the descriptor as safetensors, or one sentence to its standard output.
"""

from __future__ import annotations

import json
import math
import os
import pickletools
import re
import resource
import sys
import zipfile
from _compat_pickle import IMPORT_MAPPING, NAME_MAPPING
from collections.abc import Iterator, Mapping
from typing import Any

import torch

LONGEST_CONFIG = 4 << 20
_ROOM = 1 << 30

# What torch, numpy and Pointcept leave in the states of optimizers and schedulers beside tensors and numbers. Nothing
# of it is needed, so nothing of it is looked up: each name is read as a stand-in that does nothing.
_IGNORED_MODULES = re.compile(r"torch\.optim(\.\w+)*|pointcept(\.\w+)*|addict\.addict")
_IGNORED_NAMES = {
    *(f"builtins.{name}" for name in ("getattr", "object", "dict", "list", "set", "tuple", "int", "float", "str")),
    "copyreg._reconstructor",
    "collections.defaultdict",
}


class Refusal(Exception):
    """Why a checkpoint is not read, in words."""


class _StandIn:
    """What stands in a pickle where an object is that nobody needs; it takes everything and does nothing."""

    def __new__(cls, *_arguments: Any, **_more: Any) -> _StandIn:
        return object.__new__(cls)

    def __setstate__(self, _state: Any) -> None:
        return

    def __setitem__(self, _key: Any, _value: Any) -> None:
        return

    def append(self, _value: Any) -> None:
        return

    def extend(self, _values: Any) -> None:
        return


def _names(pickle: bytes) -> Iterator[str]:
    """Yield the full names that a pickle asks for.

    Raises:
        Refusal: a way of asking that torch.save does not use.
    """
    for opcode, argument, _position in pickletools.genops(pickle):
        if opcode.name == "GLOBAL":
            module, _, name = str(argument).partition(" ")
            # torch.save writes the names of Python 2, as pickles of protocol 2 do.
            module, name = NAME_MAPPING.get((module, name), (IMPORT_MAPPING.get(module, module), name))
            yield f"{module}.{name}"
        elif opcode.name in ("STACK_GLOBAL", "INST", "OBJ", "EXT1", "EXT2", "EXT4"):
            raise Refusal(f"its pickle has the instruction {opcode.name}, which torch.save does not write")


def _ignored(full_name: str) -> bool:
    module = full_name.rpartition(".")[0]
    return full_name in _IGNORED_NAMES or _IGNORED_MODULES.fullmatch(module) is not None


def _allow(names: set[str]) -> None:
    """Tell torch's unpickler which names to take beside its own: numpy's scalars, and stand-ins for what is ignored."""
    import _codecs

    import numpy as np

    scalar: Any = vars(np.core.multiarray)["scalar"]
    kinds = (np.float64, np.float32, np.int64, np.int32, np.bool_)
    # best_metric_value is a numpy scalar.
    numbers = [type(np.dtype(kind)) for kind in kinds]
    allowed: list[Any] = [scalar, np.dtype, _codecs.encode, *numbers]
    for full_name in names:
        module, _, name = full_name.rpartition(".")
        if _ignored(full_name):
            allowed.append(type(name, (_StandIn,), {"__module__": module}))
    torch.serialization.add_safe_globals(allowed)


def read(path: str) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """Return a checkpoint's tensors by name, and what else is told of it: `config`, `about`.

    Raises:
        Refusal: it holds something that is refused, or lacks weights.
    """
    reader: Any = torch._C.PyTorchFileReader(path)
    # What torch itself sees of the archive; Python's zipfile might have been shown another index.
    records = set(reader.get_all_records())
    if any(record == "constants.pkl" or record.startswith("code/") for record in records):
        raise Refusal("it is a TorchScript archive, which is code")
    names = set(_names(reader.get_record("data.pkl")))
    del reader
    _allow(names)
    torch.jit.load = _refuse_code
    try:
        loaded = torch.load(path, map_location="cpu", weights_only=True)
    except Refusal:
        raise
    except Exception as error:
        strange = _strange(names)
        if strange:
            what = ", ".join(strange)
            raise Refusal(f"its pickle asks for {what}, which is neither a number nor a tensor") from error
        raise Refusal(
            f"torch cannot read it: {str(error).splitlines()[0] if str(error) else type(error).__name__}"
        ) from error
    if not isinstance(loaded, Mapping):
        raise Refusal(f"it holds a {type(loaded).__name__}, not a dict with `state_dict`")
    weights = loaded.get("state_dict", loaded if all(isinstance(v, torch.Tensor) for v in loaded.values()) else None)
    if not isinstance(weights, Mapping) or not weights:
        raise Refusal(f"it has no `state_dict`; it has {', '.join(str(key) for key in list(loaded)[:8]) or 'nothing'}")
    about = {key: _number(loaded.get(key)) for key in ("epoch", "best_metric_value")}
    told = {
        "config": _config(loaded.get("config")),
        "about": {key: value for key, value in about.items() if value is not None},
    }
    return _plain(weights), told


def _refuse_code(*_arguments: Any, **_more: Any) -> None:
    raise Refusal("it is a TorchScript archive, which is code")


def _strange(names: set[str]) -> list[str]:
    known = ("torch.", "collections.OrderedDict", "numpy.core.multiarray.scalar", "numpy.dtype", "_codecs.encode")
    return sorted(name for name in names if not name.startswith(known) and not _ignored(name))[:5]


def _plain(weights: Mapping[Any, Any]) -> dict[str, torch.Tensor]:
    """Return the tensors apart from each other's memory, by names without the prefix of distributed training."""
    wrong = next((key for key, value in weights.items() if not _fine(key, value)), None)
    if wrong is not None:
        value = weights[wrong]
        kind = value.layout if isinstance(value, torch.Tensor) else type(value).__name__
        raise Refusal(f"its weight {wrong!r:.80} is no dense tensor ({kind})")
    prefix = "module." if all(key.startswith("module.") for key in weights) else ""
    return {key[len(prefix) :]: value.detach().clone().contiguous() for key, value in weights.items()}


def _fine(key: Any, value: Any) -> bool:
    return (
        isinstance(key, str)
        and isinstance(value, torch.Tensor)
        and value.layout == torch.strided
        and not value.is_quantized
        and not value.is_complex()
        # A view that repeats its storage could be made far larger than the file.
        and value.numel() * value.element_size() <= value.untyped_storage().nbytes()
    )


def _number(value: Any) -> int | float | None:
    """Return a number as Python's own, or None: a stand-in, an array, infinity."""
    try:
        number = value.item() if hasattr(value, "item") else value
    except (TypeError, ValueError, RuntimeError):
        return None
    return number if isinstance(number, int | float) and math.isfinite(number) else None


def _config(config: Any) -> Any:
    """Return a configuration as JSON has it.

    Raises:
        Refusal: it is not made of plain values.
    """
    try:
        if len(json.dumps(config)) > LONGEST_CONFIG:
            raise Refusal(f"its `config` is longer than {LONGEST_CONFIG} bytes")
    except (TypeError, ValueError, RecursionError) as error:
        raise Refusal(f"its `config` is not made of plain values: {error}") from error
    if not isinstance(config, dict | str | None):
        raise Refusal(f"its `config` is a {type(config).__name__}, not a dict")
    return config


def _limit(size: int, seconds: int) -> None:
    with open("/proc/self/statm", "rb") as statm:
        used = int(statm.read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds))
    resource.setrlimit(resource.RLIMIT_FSIZE, (size + LONGEST_CONFIG, size + LONGEST_CONFIG))
    # The file's tensors, a copy without the prefix, and what they are written from.
    resource.setrlimit(resource.RLIMIT_AS, (used + 3 * size + _ROOM,) * 2)


def main(path: str, descriptor: int, seconds: int) -> int:
    """Read the checkpoint and write its tensors; return the exit status."""
    from safetensors.torch import save

    torch.set_num_threads(1)
    _limit(os.stat(path).st_size, seconds)
    try:
        weights, told = read(path)
        with os.fdopen(descriptor, "wb") as result:
            result.write(save(weights, metadata={"told": json.dumps(told)}))
    except Refusal as refusal:
        print(refusal)
        return 1
    except MemoryError:
        print("it takes more memory than its size explains")
        return 1
    except (zipfile.BadZipFile, RuntimeError, ValueError, OSError) as error:
        print(f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3])))
