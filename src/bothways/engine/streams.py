"""Batches computed at the same time, each on its share of the cores."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from typing import TypeVar

import torch

from bothways.nn.threads import SAME_SUMS, on_one_core, shares

__all__ = ["Streams"]

T = TypeVar("T")
Result = TypeVar("Result")


class Streams:
    """Threads that share out the cores of a CPU; on a GPU, none.

    Two batches on a core each are faster than one after the other on two cores: nothing waits at a barrier after every
    operation (docs/decisions/0004-streams.md).

    The threads start at their first use and serve every caller from then on. Each keeps its number of cores: were it
    set and set back, torch would hand it on to threads that start meanwhile.

    count: how many items are run at the same time.
    small: items are smaller than what handing them to a thread takes: one that is the only one is run by the caller, on
    one core.
    """

    def __init__(self, device: torch.device, small: bool = False) -> None:
        self.device = device
        self._cores = torch.get_num_threads()
        cpu = device.type == "cpu"
        shared = shares(self._cores) if cpu else [self._cores]
        lone = [min(SAME_SUMS, self._cores)] if cpu else [self._cores]
        self.count, self._small = len(shared), small and cpu
        self._streams, self._lone = _Pool(shared, self._cores), _Pool(lone, self._cores)

    def map(self, run: Callable[[T], Result], items: Sequence[T]) -> Iterator[Result]:
        """`run` of each item, in their order. One that is the only one gets what it gets in a stream.

        Leaving the loop early cancels the items not begun, and waits for the others.
        """
        if len(items) == 1 and self._small:
            with on_one_core():
                result = run(items[0])
            yield result
            return
        pool = self._streams if len(items) > 1 else self._lone
        if pool.cores == [self._cores]:  # as the caller has
            yield from map(run, items)
            return
        threads = pool.started()
        futures = [threads.submit(run, item) for item in items]
        try:
            for future in futures:
                yield future.result()
        finally:
            wait([future for future in futures if not future.cancel()])


class _Pool:
    """cores: of each thread.    default: the process's own number of threads."""

    def __init__(self, cores: list[int], default: int) -> None:
        self.cores, self._default = cores, default
        self._threads: ThreadPoolExecutor | None = None
        self._lock = threading.Lock()

    def started(self) -> ThreadPoolExecutor:
        """The threads, all of them running, and the process's own number of threads as it was."""
        with self._lock:
            if self._threads is None:
                ready = threading.Barrier(len(self.cores))

                def start(share: int) -> None:
                    torch.get_num_threads()  # at its first question torch sets a thread up from the process's default
                    torch.set_num_threads(share)
                    ready.wait()

                threads = ThreadPoolExecutor(len(self.cores), thread_name_prefix="bothways")
                wait([threads.submit(start, share) for share in self.cores])
                torch.set_num_threads(self._default)  # each thread also set the process-wide default
                self._threads = threads
            return self._threads
