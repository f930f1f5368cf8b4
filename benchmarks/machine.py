"""What the figures were measured on."""

from __future__ import annotations

import os
import platform
from pathlib import Path

TELLING_FLAGS = ("avx2", "avx512f", "avx512_bf16", "avx512_vnni", "avx_vnni", "amx_bf16", "amx_int8")


def cpu_fields() -> dict[str, str]:
    """The first processor's entry in `/proc/cpuinfo`; empty where there is none."""
    file = Path("/proc/cpuinfo")
    entry = file.read_text().split("\n\n")[0] if file.exists() else ""
    pairs = (line.partition(":") for line in entry.splitlines())
    return {key.strip(): value.strip() for key, _, value in pairs}


def describe() -> dict[str, str]:
    """CPU, cores, the instruction sets that decide low-precision speed, and the software underneath."""
    fields = cpu_fields()
    flags = set(fields.get("flags", "").split())
    return {
        "cpu": fields.get("model name", platform.processor() or platform.machine()),
        "cores": str(os.cpu_count()),
        "instructions": " ".join(flag for flag in TELLING_FLAGS if flag in flags),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
    }


def busy_seconds() -> float:
    """CPU seconds that all processes of the machine have used since it started; 0 where Linux does not say."""
    file = Path("/proc/stat")
    if not file.exists():
        return 0.0
    user, nice, system = file.read_text().split()[1:4]
    return (int(user) + int(nice) + int(system)) / os.sysconf("SC_CLK_TCK")


def process_seconds(pid: int) -> float:
    """CPU seconds that one process has used with all its threads; 0 where Linux does not say."""
    file = Path(f"/proc/{pid}/stat")
    if not file.exists():
        return 0.0
    user, system = file.read_text().rpartition(")")[2].split()[11:13]
    return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")
