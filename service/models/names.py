"""The names of a model's classes, out of its configuration."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from service.errors import UnusableModel
from service.models import conventions

MAX_CLASSES = 10_000
_NO_OBJECTS = (-1, 0, 1)
"""Classes that have no objects where a configuration does not say: Pointcept's own default."""
_NO_OBJECT = "no object"
_NUMBERED = "The configuration has no data.names: classes are numbered."


def of(values: Mapping[str, Any], network: Mapping[str, Any], name: str) -> tuple[list[str], list[str]]:
    """Return the classes' names, and sentences about where they were made up.

    Raises:
        UnusableModel: they are not as many as the network's head gives.
    """
    data = values.get("data", {})
    inner = network.get("backbone")
    places = (network, inner if isinstance(inner, Mapping) else {})
    offered = (place.get(key) for place in places for key in ("num_classes", "semantic_num_classes"))
    head = next((number for number in offered if _count(number)), None)
    count, given = data.get("num_classes"), data.get("names")
    objects = network.get("type") == "SGIFormer-v1m1"
    if given is not None:
        if not isinstance(given, list | tuple) or not all(isinstance(label, str) for label in given):
            raise UnusableModel(f"The configuration of {name} has data.names that are not a list of strings.")
        if network.get("type") == "DefaultClassifier" and count == len(given) < (head or 0):
            # Pointcept's own for ScanObjectNN are so: nothing has taught the other outputs anything.
            assert head is not None
            rest = [f"class {index}" for index in range(len(given), head)]
            said = f"The network has {head} outputs and the configuration {len(given)} names: the others are numbered."
            return [*given, *rest], [said]
        if objects:
            return _of_objects(given, network.get("segment_ignore_index", _NO_OBJECTS), head, name), []
        for where, number in (("data.num_classes", count), ("the network's num_classes", head)):
            if _count(number) and number != len(given):
                raise UnusableModel(
                    f"The configuration of {name} names {len(given)} classes (data.names), and {where} is {number}."
                )
        return list(given), []
    if objects and head is not None:
        return [*(f"class {index}" for index in range(head)), _NO_OBJECT], [_NUMBERED]
    number = head if head is not None else count
    if not _count(number) or (_count(count) and count != number):
        raise UnusableModel(
            f"The configuration of {name} has no data.names, data.num_classes = {count!r} and a head of {head!r} "
            "classes: how many there are cannot be told."
        )
    test = data.get("test")
    kind = test.get("type") if isinstance(test, Mapping) else None
    standard = conventions.of_dataset(str(kind))
    if standard is not None and len(standard) == number:
        return list(standard), [f"The configuration has no data.names: they were taken from {kind}."]
    assert number is not None
    return [f"class {index}" for index in range(number)], [_NUMBERED]


def _of_objects(given: Sequence[str], ignored: Any, head: int | None, name: str) -> list[str]:
    """Return the names of the classes that have objects, in their order, and what is none.

    Raises:
        UnusableModel: they are not as many as the network tells apart.
    """
    ignored = ignored if isinstance(ignored, list | tuple) else [ignored]
    left = [label for index, label in enumerate(given) if index not in ignored]
    if len(left) != head:
        raise UnusableModel(
            f"The configuration of {name} names {len(given)} classes (data.names), of which {len(left)} are not in "
            f"segment_ignore_index, and the network's semantic_num_classes is {head}."
        )
    return [*left, _NO_OBJECT]


def _count(number: Any) -> bool:
    return type(number) is int and 0 < number <= MAX_CLASSES
