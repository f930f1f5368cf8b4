"""`python -m bothways` and the installed command. Interrupted at any moment, even importing, it exits with 130."""

from __future__ import annotations

import sys

__all__ = ["run"]


def run() -> None:
    """Import the command line and run it."""
    try:
        from bothways.cli.main import main

        main()
    except KeyboardInterrupt:
        print("bothways: interrupted", file=sys.stderr)
        sys.exit(130)


if __name__ == "__main__":
    run()
