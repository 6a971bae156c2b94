"""A model's counts in the form of Triton's statistics extension, from the metrics of all of the web's processes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from service.web.metrics import counted
from service.wire.v2 import VERSION

# Stages of the stopwatch to those of the extension.
_STAGES = {
    "queue": ("queue",),
    "compute_input": ("receive", "read", "prepare"),
    "compute_infer": ("forward",),
    "compute_output": ("restore", "write"),
}


def of_model(name: str, batches: Sequence[Mapping[str, Any]] = ()) -> dict[str, Any]:
    """Return one model's statistics: counts, and sums of nanoseconds.

    Args:
        name: of the model.
        batches: what the engine says of the model's batches since it began: `clouds`, `count` and sums of seconds.
    """
    clouds: dict[str, int] = {"labelled": 0, "failed": 0}
    seconds: dict[str, float] = {}
    last = 0.0
    for family in counted().collect():
        for sample in family.samples:
            if sample.labels.get("model") != name:
                continue
            if sample.name == "pointserve_model_clouds_total":
                clouds[sample.labels["outcome"]] = int(sample.value)
            elif sample.name == "pointserve_model_seconds_total":
                seconds[sample.labels["stage"]] = sample.value
            elif sample.name == "pointserve_model_last_seconds":
                last = sample.value
    good = clouds["labelled"]

    def entry(count: int, *stages: str) -> dict[str, int]:
        return {"count": count, "ns": int(sum(seconds.get(stage, 0.0) for stage in stages) * 1e9)}

    inference = {"success": entry(good, "total"), "fail": entry(clouds["failed"], "failed")}
    inference |= {stage: entry(good, *parts) for stage, parts in _STAGES.items()}
    return {
        "name": name,
        "version": VERSION,
        "last_inference": int(last * 1e3),
        "inference_count": good,
        "execution_count": sum(batch["count"] for batch in batches),
        "inference_stats": inference | {"cache_hit": entry(0), "cache_miss": entry(0)},
        "batch_stats": [_of_size(batch) for batch in batches],
    }


def _of_size(batch: Mapping[str, Any]) -> dict[str, Any]:
    """Return the statistics of the batches of one size."""
    parts = (("compute_input", "prepare_s"), ("compute_infer", "forward_s"), ("compute_output", "restore_s"))
    entries = {name: {"count": batch["count"], "ns": int(batch[sums] * 1e9)} for name, sums in parts}
    return {"batch_size": batch["clouds"], **entries}
