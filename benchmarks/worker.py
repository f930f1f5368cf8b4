"""One system in a process of its own: reads requests from stdin and answers on stdout, one line of JSON each.

The request is `{"do": NAME, …}` with the name and arguments of one of `Worker`'s requests. Whatever libraries print
goes to stderr, so that stdout carries answers only.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import sys
from collections.abc import Callable, Mapping
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from time import perf_counter
from typing import Any, cast

import numpy as np
from systems.encoder import Encoder, Setup, SystemModule
from systems.registry import find
from workloads import Workload, load

QUERY_CALLS = 40


class Worker:
    """A loaded system and the workloads that it can be asked to run."""

    def __init__(self, encoder: Encoder, packages: tuple[str, ...], workloads: dict[str, Workload]) -> None:
        self._encoder = encoder
        self._packages = packages
        self._workloads = workloads
        self.requests: dict[str, Callable[..., dict[str, Any]]] = {
            "versions": self.versions,
            "vectors": self.vectors,
            "memory": self.memory,
            "tune": self.tune,
            "run": self.run,
        }

    def versions(self) -> dict[str, Any]:
        """The versions of the system's packages that are installed."""
        return {"versions": {name: found for name in self._packages if (found := installed_version(name))}}

    def vectors(self, workload: str, file: str) -> dict[str, Any]:
        """Embeds a workload once and saves its vectors [texts, width]."""
        self._limit(workload)
        np.save(file, self._encoder.encode(self._workloads[workload].texts))
        return {}

    def memory(self) -> dict[str, Any]:
        """Peak resident memory of this process until now, in MB."""
        return {"megabytes": peak_megabytes()}

    def tune(self, workload: str) -> dict[str, Any]:
        """Lets the system settle its batch size, then runs the workload once to warm up."""
        self._limit(workload)
        if workload != "query":
            self._encoder.tune(self._workloads[workload].texts)
        self.run(workload)
        return {"setting": repr(getattr(self._encoder, "_setting", ""))}

    def run(self, workload: str) -> dict[str, Any]:
        """Embeds a workload; answers with its seconds (for the query: of each of `QUERY_CALLS` calls)."""
        self._limit(workload)
        texts = self._workloads[workload].texts
        if workload == "query":
            return {"seconds": [seconds(lambda: self._encoder.encode_one(texts[0])) for _ in range(QUERY_CALLS)]}
        return {"seconds": [seconds(lambda: self._encoder.encode(texts))]}

    def _limit(self, workload: str) -> None:
        self._encoder.set_length_limit(self._workloads[workload].length_limit)


def seconds(call: Callable[[], object]) -> float:
    """Wall time of one call, in seconds."""
    start = perf_counter()
    call()
    return perf_counter() - start


def installed_version(package: str) -> str | None:
    """The package's version, or None where it is not installed."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def peak_megabytes() -> float:
    """Peak resident memory of this process, in MB (10⁶ bytes).

    Linux' `VmHWM` is preferred, as `ru_maxrss` there starts from the parent's memory.
    """
    status = Path("/proc/self/status")
    if status.exists():
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) * 1024 / 1e6
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 1e6 if sys.platform == "darwin" else peak * 1024 / 1e6


def serve(requests: Mapping[str, Callable[..., dict[str, Any]]], answers: Any) -> None:
    """Answers requests until stdin ends."""
    for line in sys.stdin:
        arguments = json.loads(line)
        reply = requests[arguments.pop("do")](**arguments)
        print(json.dumps(reply), file=answers, flush=True)


def only_answers() -> Any:
    """Where answers go: stdout; from now on, whatever else is printed there goes to stderr."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    return answers


def parse_arguments() -> argparse.Namespace:
    """The command line of a worker; the runner writes it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("system")
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--workloads", type=Path, required=True)
    parser.add_argument("--cache", type=Path, required=True)
    parser.add_argument("--threads", type=int, required=True)
    parser.add_argument("--build", action="store_true", help="derive the system's files and leave")
    return parser.parse_args()


def main() -> None:
    """Builds a system's files, or loads it and serves."""
    answers = only_answers()
    arguments = parse_arguments()
    system, workloads = find(arguments.system), load(arguments.workloads)
    module = cast(SystemModule, import_module(f"systems.{system.module}"))
    texts = workloads["calibration"].texts
    setup = Setup(arguments.model, arguments.cache, arguments.threads, texts, system.options)
    if arguments.build:
        module.build(setup)
        return
    serve(Worker(module.load(setup), module.PACKAGES, workloads).requests, answers)


if __name__ == "__main__":
    main()
