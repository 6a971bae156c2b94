"""Out of memory on the device: the batch is halved, the cloud cut into smaller tiles, the CPU asked, the client told.

`labelling` calls these steps; nothing here knows what labelling is.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import structlog
import torch

from service.errors import OutOfMemory, ServiceError
from service.values import Answer

PARTS = (2, 4, 8, 16)
"""A cloud is tried again in tiles of its largest one's voxels divided by these."""
LEAST_VOXELS = 2048
"""Smaller tiles are hardly more than their overlaps."""
RETRY_AFTER_S = 10.0
_WORDS = ("out of memory", "can't allocate memory", "ALLOC_FAILED")
log = structlog.get_logger()

Outcome = Answer | ServiceError


def is_shortage(error: Exception) -> bool:
    """Return whether the error says that memory is short: on a GPU, or where torch or numpy asks for main memory."""
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    # torch has no class for main memory, and compiled extensions pass on the words alone.
    return isinstance(error, RuntimeError) and any(word in str(error) for word in _WORDS)


def release(device: torch.device) -> None:
    """Give back what torch keeps of the device's memory; no frame may hold the failed work's tensors any more."""
    if device.type == "cuda":
        torch.cuda.empty_cache()


def out_of_memory(device: torch.device) -> OutOfMemory:
    """Return the error of work that found too little memory."""
    return OutOfMemory(f"the memory of {device} does not suffice for this cloud now", retry_after_s=RETRY_AFTER_S)


def rescue(
    failure: OutOfMemory,
    voxels: int,
    in_tiles: Callable[[int], Outcome] | None,
    on_cpu: Callable[[], Outcome] | None,
) -> Outcome:
    """Label a cloud that the device had too little memory for, and say in its warnings how.

    Args:
        failure: what it ended with; returned where nothing helps.
        voxels: rows of the pass that failed.
        in_tiles: labels the cloud in tiles of at most so many voxels; None: it cannot be cut.
        on_cpu: labels it on the CPU; None: it was there already.
    """
    for parts in PARTS:
        most = voxels // parts
        if in_tiles is None or most < LEAST_VOXELS:
            break
        found = in_tiles(most)
        if not isinstance(found, OutOfMemory):
            log.warning("out of memory, labelled in smaller tiles", voxels=voxels, tile=most)
            return _warned(
                found,
                "The device had too little memory for the whole cloud: it was labelled in tiles of at most "
                f"{most} voxels, which may change labels along their borders.",
            )
    if on_cpu is not None:
        found = on_cpu()
        if not isinstance(found, OutOfMemory):
            log.warning("out of memory, labelled on the CPU", voxels=voxels)
            return _warned(found, "The device had too little memory for this cloud: it was labelled on the CPU.")
    log.error("out of memory", voxels=voxels)
    return failure


def _warned(found: Outcome, warning: str) -> Outcome:
    if isinstance(found, ServiceError):
        return found
    return dataclasses.replace(found, warnings=(*found.warnings, warning))
