"""How fast a preset runs on this machine's CPU, and in how much memory: random weights and ids, the real engine."""

from __future__ import annotations

import json
import random
import subprocess
import sys
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from bothways.data.batch import by_token_budget
from bothways.engine.backends import BACKENDS, place
from bothways.engine.scheduler import BATCH_TOKENS
from bothways.engine.streams import Streams
from bothways.errors import InputError
from bothways.families.presets import PRESETS
from bothways.nn.encoder import EncoderNetwork
from bothways.nn.layers import initialise, packs
from bothways.ragged import Ragged

__all__ = ["Speed", "measure", "measure_apart", "precisions"]

SEED = 20
TEXTS = 2048
MEAN_TOKENS, MOST_TOKENS = 64, 512
WARM_UP_TOKENS = 64
# While linear layers are packed there are two copies of them; torch and the activations of a few batches come on top.
BYTES_PER_PARAMETER, OTHER_BYTES = 8, 600 * 10**6
NATIVE_BF16 = ("avx512_bf16", "amx_bf16", "bf16")
# Runs with -I, so that no file of the current folder is imported but what the process that asks would import too.
SCRIPT = """
import json, sys
sys.path[:] = json.loads(sys.argv[1])
from bothways.engine.measure import main
main(sys.argv[2], float(sys.argv[3]))
"""


@dataclass(frozen=True)
class Speed:
    """tokens_per_second: by precision, for those this CPU has.    peak_bytes: of the process, in fp32."""

    tokens_per_second: dict[str, float]
    peak_bytes: int


def precisions() -> tuple[str, ...]:
    """fp32, and bf16 where the CPU computes in it by itself."""
    known = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}
    native = packs(torch.bfloat16) and any(known.get(name) for name in NATIVE_BF16)
    return ("fp32", "bf16") if native else ("fp32",)


def measure_apart(name: str, seconds: float) -> Speed:
    """The speed of a preset, measured in a process of its own for about `seconds` in each precision.

    Raises InputError, saying why, where it does not fit into memory or fails.
    """
    needed, free = BYTES_PER_PARAMETER * PRESETS[name].parameters() + OTHER_BYTES, free_bytes()
    if free is not None and needed > free:
        raise InputError(f"{name} needs {needed / 1e9:.1f} GB of memory, of which {free / 1e9:.1f} are free")
    command = [sys.executable, "-I", "-c", SCRIPT, json.dumps(sys.path), name, str(seconds)]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    if run.returncode:
        said = run.stderr.strip().splitlines() or ["ended without a word; memory may have run out"]
        raise InputError(f"{name} could not be measured: {said[-1]}")
    return Speed(**json.loads(run.stdout.splitlines()[-1]))


def main(name: str, seconds: float) -> None:
    """Measure a preset here and print its `Speed` as JSON."""
    print(json.dumps(asdict(measure(name, seconds))))


def measure(name: str, seconds: float) -> Speed:
    """The speed of a preset, measured in this process."""
    preset = PRESETS[name]
    network = preset.network()
    initialise(network, preset.config.init_std, torch.Generator().manual_seed(SEED))
    batches = random_batches(preset.config.vocab, min(preset.config.longest, MOST_TOKENS))
    speeds, peak = {}, 0
    for precision in precisions():
        speeds[precision] = _tokens_per_second(network, precision, batches, seconds)
        peak = peak or _peak_bytes()
    return Speed(speeds, peak)


def random_batches(vocab: int, longest: int) -> list[Ragged]:
    """Texts of random ids and mixed lengths as the engine batches them, in a random order; the same in each call."""
    chance = random.Random(SEED)
    lengths = [max(2, min(longest, round(chance.gammavariate(2.0, MEAN_TOKENS / 2)))) for _ in range(TEXTS)]
    batches = by_token_budget(lengths, BATCH_TOKENS["cpu"])
    chance.shuffle(batches)
    generator = torch.Generator().manual_seed(SEED)
    return [Ragged.of([torch.randint(vocab, (lengths[i],), generator=generator) for i in one]) for one in batches]


def _tokens_per_second(network: EncoderNetwork, precision: str, batches: Sequence[Ragged], seconds: float) -> float:
    """Over all batches that were begun within the time (one at least), until the last of them is done."""
    placement = place("cpu", precision)
    prepared, streams = BACKENDS["eager"](network, placement, share=True), Streams(placement.device)
    deque(streams.map(prepared, [Ragged.of([[0] * WARM_UP_TOKENS])] * streams.count), maxlen=0)
    done, started = 0, time.perf_counter()

    @torch.inference_mode()
    def run(tokens: Ragged) -> int:
        if time.perf_counter() - started > seconds and tokens is not batches[0]:
            return 0
        prepared(tokens)
        return tokens.layout.total

    while done == 0 or time.perf_counter() - started <= seconds:
        done += sum(streams.map(run, batches))
    return done / (time.perf_counter() - started)


def free_bytes() -> int | None:
    """Memory that a new process can have; None where the system does not say."""
    return _kilobytes(Path("/proc/meminfo"), "MemAvailable")


def _peak_bytes() -> int:
    """The most memory this process has had. (Linux' ru_maxrss begins with the parent's.)"""
    peak = _kilobytes(Path("/proc/self/status"), "VmHWM")
    if peak is not None:
        return peak
    import resource

    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else most * 1024


def _kilobytes(file: Path, key: str) -> int | None:
    """A figure of Linux' `key: 123 kB`, in bytes; None where there is none."""
    lines = file.read_text().splitlines() if file.exists() else []
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{key}:")), None)
