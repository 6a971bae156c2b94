"""Threads that share the blocks of one convolution, each computing alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from typing import TypeVar

import torch

from service.transforms.threads import one_thread

T = TypeVar("T")


class Team:
    """Runs one function over many items on several threads.

    A convolution here is hundreds of short operations, and torch's own threads meet after every one of them (see
    `one_thread`): forwards of 0.3 s were seen to take 20 s on busy cores. These threads work through blocks of their
    own and meet once a convolution.

    Args:
        threads: how many; 1: the calling thread does all.
    """

    def __init__(self, threads: int) -> None:
        self.threads = threads
        self._pool: ThreadPoolExecutor | None = None
        if threads > 1:
            # In a thread that calls it, set_num_threads holds for that thread; it also sets what later threads begin
            # with, which is why the caller's own number is set again.
            before = torch.get_num_threads()
            self._pool = ThreadPoolExecutor(threads, "conv", initializer=torch.set_num_threads, initargs=(1,))
            for _ in self._pool.map(lambda _: None, range(threads)):
                pass
            torch.set_num_threads(before)

    def run(self, function: Callable[[Sequence[T]], None], items: Sequence[T]) -> None:
        """Call the function on runs of the items that together are all of them; their order is not fixed."""
        if self._pool is None or len(items) < 2:
            if items:
                function(items)
            return
        inference, grad = torch.is_inference_mode_enabled(), torch.is_grad_enabled()

        def call(run: Sequence[T]) -> None:
            with torch.inference_mode(inference), torch.set_grad_enabled(grad):
                function(run)

        # More runs than threads, so that a thread which the scheduler holds up holds up little.
        length = -(-len(items) // (4 * self.threads))
        for _ in self._pool.map(call, (items[start : start + length] for start in range(0, len(items), length))):
            pass

    def alone(self) -> AbstractContextManager[None]:
        """Return the context in which torch has no threads of its own, when there is a team."""
        return nullcontext() if self._pool is None else one_thread()
