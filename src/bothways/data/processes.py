"""Work shared out among processes, with the results in the order of the jobs."""

from __future__ import annotations

import multiprocessing
import os
import signal
import traceback
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from functools import partial
from multiprocessing.connection import Connection
from typing import Any, TypeVar

from bothways.errors import BothwaysError

__all__ = ["in_order"]

J = TypeVar("J")
R = TypeVar("R")


def in_order(make: Callable[[], Callable[[J], R]], jobs: Iterable[J], workers: int) -> Iterator[tuple[J, R]]:
    """Each job with its result, in order; with one worker in this process, else in `workers` processes of their own.

    make: gives the function that does a job; called once in each process, so it must be importable there.
    Each process has at most one job at a time, so that memory stays bounded whatever is slow.

    Raises what the work raises, if it is one of our errors, and RuntimeError on another; BothwaysError if a process
    dies.
    """
    if workers == 1:
        work = make()
        yield from ((job, work(job)) for job in jobs)
        return
    # Each process has a pipe of its own, whose other end only this process holds: however this one ends, even killed,
    # the pipe ends too, and with it the process. That takes fresh processes; forked ones would inherit each other's.
    context = multiprocessing.get_context("spawn")
    pipes: list[Connection] = []
    processes: list[Any] = []
    try:
        for _ in range(workers):
            ours, theirs = context.Pipe()
            process = context.Process(target=_serve, args=(theirs, make), daemon=True)
            process.start()
            theirs.close()
            pipes.append(ours)
            processes.append(process)
        yield from _rounds(jobs, pipes)
    finally:
        for pipe in pipes:
            pipe.close()
        for process in processes:
            process.terminate()
            process.join()


def _rounds(jobs: Iterable[J], pipes: list[Any]) -> Iterator[tuple[J, Any]]:
    """Jobs go round; the next one is at hand before a process is asked for its result, so that none waits for it."""
    waiting: dict[int, J] = {}
    turn = 0
    for turn, job in enumerate(jobs):
        at = turn % len(pipes)
        if at in waiting:
            done = waiting.pop(at), _receive(pipes[at])
            _send(pipes[at], job)
            waiting[at] = job
            yield done
        else:
            _send(pipes[at], job)
            waiting[at] = job
    for step in range(1, len(pipes) + 1):
        at = (turn + step) % len(pipes)
        if at in waiting:
            yield waiting.pop(at), _receive(pipes[at])


def _send(pipe: Any, job: object) -> None:
    with suppress(BrokenPipeError):  # the process died: `_receive` says so
        pipe.send(job)


def _receive(pipe: Any) -> Any:
    try:
        result, error = pipe.recv()
    except (EOFError, ConnectionError):
        raise BothwaysError("a worker process died, perhaps for want of memory; give fewer --workers") from None
    if error is not None:
        raise error
    return result


def _serve(pipe: Any, make: Callable[[], Callable[[Any], Any]]) -> None:
    """What a process does: one job after another until the pipe ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all of them; the first process ends the others
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # read by the Rust side when it first runs
    with suppress(EOFError, ConnectionError):
        work, error = _carefully(make)
        while True:
            job = pipe.recv()
            pipe.send((None, error) if error is not None else _carefully(partial(work, job)))


def _carefully(call: Callable[[], Any]) -> tuple[Any, Exception | None]:
    """(result, None) or (None, error); another error than ours travels as its traceback."""
    try:
        return call(), None
    except BothwaysError as error:
        return None, error
    except Exception:
        return None, RuntimeError(traceback.format_exc())
