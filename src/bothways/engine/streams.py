"""Batches computed at the same time, each on its share of the cores."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from typing import TypeVar

import torch

from bothways.nn.threads import at_most, shares

__all__ = ["Streams"]

T = TypeVar("T")
Result = TypeVar("Result")


class Streams:
    """Threads that share out the cores of a CPU; on a GPU, none.

    Two batches on a core each are faster than one after the other on two cores: nothing waits at a barrier after every
    operation (docs/decisions/0004-streams.md).

    The threads start at the first use with several items and serve every caller from then on.

    count: how many items are run at the same time.
    alone: cores of an item that is the only one; None: all.
    """

    def __init__(self, device: torch.device, alone: int | None = None) -> None:
        self.device, self.alone = device, alone
        self._cores = torch.get_num_threads()
        self.count = len(shares(self._cores)) if device.type == "cpu" else 1
        self._pool: ThreadPoolExecutor | None = None
        self._lock = threading.Lock()

    def map(self, run: Callable[[T], Result], items: Sequence[T]) -> Iterator[Result]:
        """`run` of each item, in their order. A single item is run by the caller.

        Leaving the loop early cancels the items not begun, and waits for the others.
        """
        if len(items) == 1:
            with at_most(self.alone):
                result = run(items[0])
            yield result
            return
        if self.count < 2:
            yield from map(run, items)
            return
        pool = self._started()
        futures = [pool.submit(run, item) for item in items]
        try:
            for future in futures:
                yield future.result()
        finally:
            wait([future for future in futures if not future.cancel()])

    def _started(self) -> ThreadPoolExecutor:
        """The pool, with all its threads running and the process's own number of threads as it was."""
        with self._lock:
            if self._pool is None:
                ready = threading.Barrier(self.count)

                def start(share: int) -> None:
                    torch.get_num_threads()  # at its first question torch sets a thread up from the process's default
                    torch.set_num_threads(share)
                    ready.wait()

                pool = ThreadPoolExecutor(self.count, thread_name_prefix="bothways")
                wait([pool.submit(start, share) for share in shares(self._cores)])
                torch.set_num_threads(self._cores)  # each thread also set the process-wide default
                self._pool = pool
            return self._pool
