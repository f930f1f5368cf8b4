"""What a user may meet when something is wrong: every message is one line, names the culprit, says what to do next."""

from __future__ import annotations

TYPE_CHECKING = False  # not from typing: what is imported here is imported before Ctrl-C has its answer
if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = [
    "AssumedPoolingWarning",
    "BorrowedRulesWarning",
    "BothwaysError",
    "CheckpointError",
    "ConfigError",
    "DamagedCheckpointWarning",
    "FreshWeightsWarning",
    "InputError",
    "LargeGeneratorWarning",
    "MissingExtraError",
    "TruncationWarning",
    "UnreadSettingsWarning",
    "UnusedWeightsWarning",
    "meant",
]


class BothwaysError(Exception):
    """Base of all errors that bothways raises on purpose; the command line prints it and exits with 2.

    The message is one line, whatever a file put into it.
    """

    def __init__(self, message: str) -> None:
        super().__init__(" ".join(message.splitlines()))


class InputError(BothwaysError, ValueError):
    """A text, an argument or a file that a user handed in cannot be used."""


class ConfigError(BothwaysError, ValueError):
    """A `config.json` (or another description of a model) is not one that can be built."""


class CheckpointError(BothwaysError, ValueError):
    """A model's folder or weight file is missing something, damaged, or does not fit its config."""


class MissingExtraError(BothwaysError, ImportError):
    """An optional dependency is not installed; the message gives the `pip install` line."""


class UnusedWeightsWarning(UserWarning):
    """A checkpoint is saved without some weights it was loaded with, since nothing here uses them."""


class AssumedPoolingWarning(UserWarning):
    """A folder does not say how token vectors become one for a text, and the mean is taken."""


class BorrowedRulesWarning(UserWarning):
    """A language has no rules of its own that say where sentences end, and those of another one are taken."""


class TruncationWarning(UserWarning):
    """Some texts were longer than the model takes, and their ends were dropped."""


class DamagedCheckpointWarning(UserWarning):
    """A checkpoint of a run could not be used, and the one before it was."""


class FreshWeightsWarning(UserWarning):
    """A run that goes on from an encoder begins with fresh weights in some part, which the encoder does not have."""


class UnreadSettingsWarning(UserWarning):
    """A model's folder says something of how it writes that nothing here heeds."""


class LargeGeneratorWarning(UserWarning):
    """What replaces tokens is larger than what has to find them."""


def meant(name: str, known: Iterable[str], otherwise: str = "") -> str:
    """What ends a message about an unknown name: "; did you mean muon?", or `otherwise` where none is near."""
    from difflib import get_close_matches

    near = get_close_matches(name, known, n=1)
    return f"; did you mean {near[0]}?" if near else otherwise
