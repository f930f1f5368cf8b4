"""Worker processes, and the rounds in which they take turns.

Every round runs every system once, one at a time, so that a machine that grows slower or faster does so for all of
them; quotients are taken within a round, and their median over the rounds is what the table shows.
"""

from __future__ import annotations

import json
import os
import select
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from time import perf_counter, sleep
from typing import Any

from environments import folder_of, python_of
from machine import busy_seconds, process_seconds
from systems.registry import System

WORKER = Path(__file__).with_name("worker.py")
ANSWER_SECONDS = 1800
PAUSE_SECONDS = 0.3  # lets the thread pool of the system before fall asleep


class WorkerError(Exception):
    """A system could not be built, loaded or run; the message says why in a line."""


@dataclass(frozen=True)
class Job:
    """What all workers of one run share."""

    model: Path
    workloads: Path
    cache: Path
    scratch: Path
    threads: int


@dataclass
class Result:
    """What was measured of one system.

    `seconds` holds, for each workload, one figure per round (for the query: the median of the round's calls), and
    `calls` every call's. `disturbance` holds, for each run, the cores that other processes kept busy meanwhile.
    """

    name: str
    failure: str = ""
    versions: dict[str, str] = field(default_factory=dict)
    settings: dict[str, str] = field(default_factory=dict)
    megabytes: float | None = None
    min_cosine: float | None = None
    mean_cosine: float | None = None
    seconds: dict[str, list[float]] = field(default_factory=dict)
    calls: dict[str, list[float]] = field(default_factory=dict)
    disturbance: list[float] = field(default_factory=list)


def note(text: str) -> None:
    """A line of progress, on stderr."""
    print(text, file=sys.stderr, flush=True)


def surroundings(threads: int) -> dict[str, str]:
    """The environment variables of every worker: the same number of threads for all, and no network."""
    limits = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "RAYON_NUM_THREADS"), str(threads))
    return {**os.environ, **limits, "HF_HUB_OFFLINE": "1", "PYTHONWARNINGS": "ignore"}


class Process:
    """A process that answers requests with a line of JSON each; everything else that it prints is its log."""

    def __init__(self, log: Path, threads: int) -> None:
        self._log, self._threads = log, threads
        self._process: subprocess.Popen[str] | None = None

    def command(self, *more: str) -> list[str]:
        """What is run. Raises `WorkerError` where its environment is missing."""
        raise NotImplementedError

    def start(self) -> None:
        """Starts the process; loading goes on until the first answer."""
        self._process = subprocess.Popen(
            self.command(),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log.open("w"),
            env=surroundings(self._threads),
            text=True,
        )

    def ask(self, do: str, **arguments: str | int) -> dict[str, Any]:
        """Sends a request and waits for its answer; raises `WorkerError` where none comes."""
        assert self._process is not None, "the worker was not started"
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            print(json.dumps({"do": do, **arguments}), file=self._process.stdin, flush=True)
        except BrokenPipeError:
            raise WorkerError(self._last_line()) from None
        if not select.select([self._process.stdout], [], [], ANSWER_SECONDS)[0]:
            raise WorkerError(f"no answer to {do!r} within {ANSWER_SECONDS} s")
        line = self._process.stdout.readline()
        if not line:
            raise WorkerError(self._last_line())
        answer: dict[str, Any] = json.loads(line)
        return answer

    def ask_in_turn(self, do: str, **arguments: str | int) -> tuple[dict[str, Any], float]:
        """The answer to a request that is measured, and the cores that other processes kept busy meanwhile."""
        sleep(PAUSE_SECONDS)
        start, others = perf_counter(), self._others_seconds()
        answer = self.ask(do, **arguments)
        return answer, (self._others_seconds() - others) / (perf_counter() - start)

    def stop(self) -> None:
        """Ends the process."""
        if self._process:
            self._process.kill()
            self._process.communicate()
            self._process = None

    def _others_seconds(self) -> float:
        """CPU seconds that all processes but this one have used so far."""
        assert self._process is not None, "the worker was not started"
        return busy_seconds() - process_seconds(self._process.pid)

    def _last_line(self) -> str:
        lines = self._log.read_text(errors="replace").split("\n")
        return next((line.strip()[:200] for line in reversed(lines) if line.strip()), "ended without a word")


def interpreter(environment: str) -> str:
    """The interpreter of an environment; raises `WorkerError` where there is none."""
    python = python_of(environment)
    if not python.exists():
        missing = folder_of(environment).name
        raise WorkerError(f"{missing} is missing: run `python benchmarks/environments.py`")
    return str(python)


class Worker(Process):
    """One system's process."""

    def __init__(self, system: System, job: Job) -> None:
        super().__init__(job.scratch / f"{system.name.replace(' ', '-')}.log", job.threads)
        self.system = system
        self.job = job
        self.result = Result(system.name)

    @property
    def vectors_file(self) -> Path:
        """Where the worker leaves its vectors of the mixed workload."""
        return self._log.with_suffix(".npy")

    def build(self) -> None:
        """Derives the system's files in a process of its own, unless an earlier run has."""
        built = self.job.cache / f"{self._log.stem}.built"
        if built.exists():
            return
        command, variables = self.command("--build"), surroundings(self.job.threads)
        with self._log.open("w") as log:
            done = subprocess.run(command, check=False, stderr=log, stdout=log, env=variables)
        if done.returncode:
            raise WorkerError(self._last_line())
        built.touch()

    def command(self, *more: str) -> list[str]:
        job = self.job
        folders = ["--model", job.model, "--workloads", job.workloads, "--cache", job.cache]
        python = interpreter(self.system.environment)
        command = [python, WORKER, self.system.name, *folders, "--threads", job.threads, *more]
        return [str(part) for part in command]


def prepare(worker: Worker) -> None:
    """Builds and loads a system; notes its versions, its vectors of the mixed workload, and its peak memory."""
    note(f"loading {worker.system.name}")
    worker.build()
    worker.start()
    worker.result.versions = worker.ask("versions")["versions"]
    if worker.system.gives_vectors:
        worker.ask("vectors", workload="mixed", file=str(worker.vectors_file))
        worker.result.megabytes = worker.ask("memory")["megabytes"]


def run_once(worker: Worker, workload: str) -> None:
    """One measured run."""
    answer, others = worker.ask_in_turn("run", workload=workload)
    seconds = answer["seconds"]
    worker.result.disturbance.append(others)
    worker.result.seconds.setdefault(workload, []).append(median(seconds))
    worker.result.calls.setdefault(workload, []).extend(seconds)


def tune(worker: Worker, workload: str) -> None:
    """Warms a system up for a workload."""
    note(f"warming up {worker.system.name} on {workload}")
    worker.result.settings[workload] = worker.ask("tune", workload=workload)["setting"]


def attempt(worker: Worker, step: Any, *arguments: str) -> None:
    """Runs a step, and keeps the reason where the system fails in it."""
    try:
        step(worker, *arguments)
    except WorkerError as failure:
        worker.result.failure = str(failure)
        note(f"{worker.system.name} failed: {failure}")
        worker.stop()


def alive(workers: Iterable[Worker], workload: str) -> list[Worker]:
    """The workers that have not failed and are meant to run the workload."""
    return [worker for worker in workers if not worker.result.failure and workload in worker.system.workloads]


def measure(workers: list[Worker], workload: str, rounds: int) -> None:
    """Warms all systems up and runs the rounds, every other one in the reverse order."""
    for worker in alive(workers, workload):
        attempt(worker, tune, workload)
    for number in range(rounds):
        note(f"{workload}: round {number + 1} of {rounds}")
        for worker in alive(workers, workload)[:: -1 if number % 2 else 1]:
            attempt(worker, run_once, workload)


def speedup(system: Result, other: Result, workload: str) -> float | None:
    """How many times as fast as `other` the system is: the median over rounds, or None where one did not run."""
    pairs = list(zip(system.seconds.get(workload, []), other.seconds.get(workload, []), strict=False))
    return median(theirs / ours for ours, theirs in pairs) if pairs else None
