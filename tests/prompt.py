"""The command line as a user at the prompt meets it, in this process."""

from __future__ import annotations

from pathlib import Path

import pytest

from bothways.cli.main import main


def run(*arguments: str | Path) -> int:
    """The exit code of the command in this process."""
    try:
        main([str(argument) for argument in arguments])
    except SystemExit as stop:
        return int(stop.code or 0)
    return 0


def fails_with_one_line(capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> str:
    """What the command says where it ends with exit code 2: one line, and nothing on standard output."""
    assert run(*arguments) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("bothways: ")
    assert captured.err.count("\n") == 1, captured.err
    return captured.err
