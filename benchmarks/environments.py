"""Creates the peers' virtual environments beside the project's own; does nothing where they are up to date.

python benchmarks/environments.py
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
CONSTRAINTS = ROOT / "constraints.txt"
REQUIREMENTS = {
    "peers": Path(__file__).with_name("requirements-peers.txt"),
    "peers-optimum": Path(__file__).with_name("requirements-peers-optimum.txt"),
}


def folder_of(environment: str) -> Path:
    """The folder that holds `environment` (a key of `REQUIREMENTS`)."""
    return ROOT / f".venv-{environment}"


def python_of(environment: str) -> Path:
    """The interpreter of `environment`; "ours" is the one running now, where bothways is installed."""
    if environment == "ours":
        return Path(sys.executable)
    return folder_of(environment) / ("Scripts/python.exe" if os.name == "nt" else "bin/python")


def stamp_of(environment: str) -> str:
    """A digest of everything that the environment's content is asked to be."""
    parts = [REQUIREMENTS[environment].read_text(), CONSTRAINTS.read_text(), sys.version]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def is_current(environment: str) -> bool:
    """Whether `environment` was made from the requirement files as they are now."""
    stamp = folder_of(environment) / ".stamp"
    return stamp.exists() and stamp.read_text() == stamp_of(environment)


def create(environment: str) -> None:
    """Makes `environment` afresh; raises `subprocess.CalledProcessError` where pip fails."""
    folder = folder_of(environment)
    print(f"creating {folder.name} (minutes)", file=sys.stderr)
    venv.create(folder, clear=True, with_pip=True)
    (folder / ".gitignore").write_text("*\n")
    command = [str(python_of(environment)), "-m", "pip", "install", "--quiet", "-r", str(REQUIREMENTS[environment])]
    subprocess.run(command, check=True)
    (folder / ".stamp").write_text(stamp_of(environment))


def ensure(environment: str) -> None:
    """Creates `environment` unless it is up to date."""
    if not is_current(environment):
        create(environment)


def main() -> None:
    """Brings every peers' environment up to date."""
    for environment in REQUIREMENTS:
        ensure(environment)
        print(f"{folder_of(environment).name} is up to date", file=sys.stderr)


if __name__ == "__main__":
    main()
