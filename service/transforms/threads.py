"""How many threads torch takes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def one_thread() -> Iterator[None]:
    """Keep torch's CPU operations on the calling thread inside the block; also usable as a decorator.

    torch's threads meet at a barrier after every operation. While another process wants the same cores, each barrier
    may wait for the scheduler: on two busy cores a hundred short operations took 90 ms on one thread and 300 to
    1,300 ms on two.
    """
    before = torch.get_num_threads()
    if before == 1:
        yield
        return
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
