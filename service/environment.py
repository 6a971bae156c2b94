"""What this Python, its torch and its GPU are: printed at starts, by the smoke tests and by `/health?verbose`."""

from __future__ import annotations

import platform
import sys
from importlib import metadata
from typing import Any

LABELS = {
    "python": "Python",
    "prefix": "Environment",
    "platform": "Platform",
    "torch": "PyTorch",
    "cuda": "CUDA of PyTorch",
    "cuda_available": "CUDA available",
    "device": "Device",
    "capability": "Compute capability",
    "flash_attention": "flash-attention",
    "spconv": "spconv",
}


def report() -> dict[str, Any]:
    """Return the environment as JSON values, one for each of `LABELS`; what is missing is None.

    Imports torch; where that fails, `torch` says why and what depends on it is None.
    """
    found: dict[str, Any] = dict.fromkeys(LABELS)
    found["python"] = platform.python_version()
    found["prefix"] = sys.prefix
    found["platform"] = platform.platform()
    found["flash_attention"] = _version("flash-attn")
    found["spconv"] = next(filter(None, (_version(f"spconv-{kind}") for kind in ("cu124", "cu126"))), None)
    found["cuda_available"] = False
    try:
        import torch
    except (ImportError, OSError) as error:
        found["torch"] = f"does not import: {error}"
        return found
    found["torch"] = torch.__version__
    found["cuda"] = torch.version.cuda
    found["cuda_available"] = torch.cuda.is_available()
    if found["cuda_available"]:
        found["device"] = torch.cuda.get_device_name(0)
        found["capability"] = "{}.{}".format(*torch.cuda.get_device_capability(0))
    return found


def lines(found: dict[str, Any]) -> list[str]:
    """Return a report as lines for people."""
    width = max(map(len, LABELS.values()))
    return [f"{LABELS[name]:<{width}}  {_shown(found[name])}" for name in LABELS]


def _shown(value: Any) -> str:
    if value is None:
        return "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return str(value)


def _version(distribution: str) -> str | None:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None
