"""Networks trained on several datasets: which they are, which one is meant, and the classes of each."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from service.models import conventions
from service.values import ClassInfo


def known(network: nn.Module) -> tuple[str, ...]:
    """Return the names of the datasets that a network tells apart, those that all of its parts know; mostly none."""
    parts = [names for module in network.modules() if isinstance(names := getattr(module, "conditions", None), tuple)]
    parts = [names for names in parts if names]
    return tuple(name for name in parts[0] if all(name in names for names in parts)) if parts else ()


def condition(network: nn.Module, told: str | None, values: Mapping[str, Any]) -> str | None:
    """Return the dataset that a configuration means.

    Args:
        network: of the configuration.
        told: what its transforms say, or None.
        values: the whole configuration; where its transforms say nothing, the dataset of its test data is meant, if the
            network knows it by name.
    """
    if told is not None:
        return told
    data = values.get("data")
    test = data.get("test") or data.get("val") if isinstance(data, Mapping) else None
    kind = str(test.get("type")) if isinstance(test, Mapping) else ""
    return next((name for name in known(network) if kind.removesuffix("Dataset") == name), None)


def classes(
    network: nn.Module, config: Mapping[str, Any], own: str | None, labels: tuple[ClassInfo, ...]
) -> dict[str, tuple[ClassInfo, ...]]:
    """Return the classes of each dataset that a network knows.

    Args:
        network: of the configuration. config: the network's.
        own: the dataset that the configuration is of, whose classes are `labels`.
    """
    found: dict[str, tuple[ClassInfo, ...]] = {}
    named, heads = getattr(network, "classes", None), config.get("num_classes")
    for name in known(network):
        if name == own:
            found[name] = labels
        elif isinstance(named, Mapping) and name in named:
            found[name] = conventions.classes(named[name])
        elif isinstance(heads, list | tuple):
            order = list(getattr(network, "conditions", known(network)))
            found[name] = _of_dataset(name, int(heads[order.index(name)]))
        else:
            found[name] = labels
    return found


def _of_dataset(name: str, count: int) -> tuple[ClassInfo, ...]:
    """Return the classes that a dataset is known to have; numbered ones where it is not known or has another count."""
    usual = conventions.of_dataset(name)
    return conventions.classes(usual if usual and len(usual) == count else [f"class {i}" for i in range(count)])
