"""From what a user calls a model (a folder, or an id on the hub) to a folder.

Whatever huggingface_hub reads from the environment holds here too: HF_HOME and HF_HUB_CACHE for the cache, HF_ENDPOINT
for a mirror, HF_TOKEN for what is gated or private, HF_HUB_OFFLINE.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from glob import escape
from pathlib import Path, PurePosixPath
from posixpath import normpath

from bothways.checkpoint.modules import read_modules
from bothways.checkpoint.weights import WEIGHTS
from bothways.errors import BothwaysError, CheckpointError, InputError
from bothways.files import read_object

__all__ = ["FOLDERS", "PARTS", "resolve"]

_HUB_ID = re.compile(r"[\w.-]+(/[\w.-]+)?")
# What is read of a folder: descriptions, vocabularies, weights. Never code, pickles or the formats of other programs.
_FILES = ("*.json", "*.txt", "*.model", WEIGHTS, "model-*-of-*.safetensors")
# The key of config.json that names folders which an encoder–decoder has beyond its own files; and those it may name.
PARTS = "bothways_parts"
FOLDERS = ("adapter", "target_tokenizer")
# The models in a run's folder, the one to name first.
LEFT = ("model", "best")
_WITH_WEIGHTS = ("Transformer", "Dense")
# What is wrong, by the classes of huggingface_hub and of the HTTP library below it (requests, httpx or httpx2, by its
# version: hence names). The first class that is found, from an error to its causes, tells.
_REASONS = {
    "GatedRepoError": "it is gated; ask for access on its page and set HF_TOKEN to a token of yours",
    "RepositoryNotFoundError": "there is no such repository, or it is private; check the id, or set HF_TOKEN",
    "RevisionNotFoundError": "it has no revision {revision}; name one of its branches, tags or commits",
    "HFValidationError": "this is no id of a repository",
    "OfflineModeIsEnabled": "it is not wholly in the cache, and HF_HUB_OFFLINE is set; fetch it once without",
    "ProxyError": "the proxy refuses; check HTTPS_PROXY",
    "RemoteProtocolError": "the download broke off; run this again, and whole files are kept",
    "ChunkedEncodingError": "the download broke off; run this again, and whole files are kept",
    "ReadError": "the download broke off; run this again, and whole files are kept",
    "ConnectError": "the hub cannot be reached; give a folder, or see to the network or HF_ENDPOINT",
    "ConnectionError": "the hub cannot be reached; give a folder, or see to the network or HF_ENDPOINT",
    "TimeoutException": "the hub does not answer in time; try again, or give a folder",
    "Timeout": "the hub does not answer in time; try again, or give a folder",
}
_STATUSES = {
    401: "the hub does not accept the token; check HF_TOKEN",
    403: "the hub refuses access; check that HF_TOKEN is set to a token that may read it",
    429: "the hub has had too many requests; wait, or set HF_TOKEN",
}


def resolve(model: str | Path, revision: str | None = None) -> Path:
    """The folder of a model: `model` itself if there is such a folder, else a snapshot from the hub's cache or the hub.

    revision: a branch, tag or commit on the hub.
    Raises CheckpointError if neither is to be had, if the repository has no safetensors, and on the folder of a run,
    which has models in it.
    """
    if not isinstance(model, (str, Path)):
        raise InputError(f"a model's folder or hub id was expected, not {type(model).__name__}; save it, and name that")
    try:
        path = Path(model).expanduser()
        if path.is_dir():
            return _no_run(path, str(model))
        if path.exists():
            raise InputError(f"{model}: a file; the folder of a model was expected")
    except (OSError, RuntimeError, ValueError) as error:
        if isinstance(error, BothwaysError):
            raise
        raise InputError(f"{str(model)[:80]}: cannot be a folder: {error}") from None
    if not _HUB_ID.fullmatch(str(model)) or str(model).startswith("."):
        raise CheckpointError(f"{model}: no such folder")
    return _snapshot(str(model), revision)


def _no_run(path: Path, model: str) -> Path:
    """The folder. Raises CheckpointError where it is no model's but a run's, naming the model in it."""
    if any((path / name).exists() for name in ("config.json", "modules.json")):
        return path
    left = [f"{model.rstrip('/')}/{one}" for one in LEFT if (path / one / "config.json").is_file()]
    if left:
        raise CheckpointError(f"{model}: the folder of a run, not of a model; name the model in it: {left[0]}")
    if (path / "checkpoints").is_dir():
        raise CheckpointError(f"{model}: the folder of a run that has not ended; go on with it, by --resume")
    return path


def _snapshot(model: str, revision: str | None) -> Path:
    """What is read of the repository: its own files, then those of the folders that its modules.json names."""
    try:
        folder = _fetch(model, revision, list(_FILES), ignore=["*/*"])
        modules = [(kind, normpath(place)) for kind, place in read_modules(folder)] or [("Transformer", ".")]
        places = sorted({place for _, place in modules} - {"."}) + _parts(folder)
        if places:
            # By the commit, so that both halves are of one snapshot whatever is pushed in between.
            _fetch(model, folder.name, [f"{escape(place)}/{name}" for place in places for name in _FILES])
        for place in [place for kind, place in modules if kind in _WITH_WEIGHTS]:
            if not any((folder / place).glob("*.safetensors")):
                raise CheckpointError(f"{model}: {_without_weights(model, folder.name, place)}")
    except BothwaysError:
        raise
    except Exception as error:
        reason = _reason(error).format(revision=revision)
        raise CheckpointError(f"{model}: no such folder, and the hub does not give it: {reason}") from None
    return folder


def _parts(folder: Path) -> list[str]:
    """The folders that the config of an encoder–decoder names beside its own files."""
    said = read_object(folder / "config.json").get(PARTS) if (folder / "config.json").exists() else None
    return [part for part in FOLDERS if isinstance(said, list) and part in said]


def _fetch(model: str, revision: str | None, patterns: list[str], ignore: list[str] | None = None) -> Path:
    from huggingface_hub import snapshot_download

    return Path(snapshot_download(model, revision=revision, allow_patterns=patterns, ignore_patterns=ignore))


def _without_weights(model: str, commit: str, place: str) -> str:
    from huggingface_hub import HfApi

    files = [PurePosixPath(name) for name in HfApi().list_repo_files(model, revision=commit)]
    pickles = [file for file in files if file.parent == PurePosixPath(place) and file.match("pytorch_model*.bin")]
    if not pickles:
        return f"this repository has no {normpath(f'{place}/{WEIGHTS}')}"
    fetch = f"hf download {model} --local-dir DIR"
    return f"{pickles[0]} of this repository is a pickle; convert it once: {fetch} && bothways convert DIR --output NEW"


def _reason(error: Exception) -> str:
    chain = list(_causes(error))
    named = [_REASONS[kind.__name__] for e in chain for kind in type(e).__mro__ if kind.__name__ in _REASONS]
    statuses = [getattr(getattr(e, "response", None), "status_code", None) for e in chain]
    known = named + [_STATUSES[status] for status in statuses if status in _STATUSES]
    said = (str(chain[-1]).strip() or type(chain[-1]).__name__).splitlines()[0][:120]
    return known[0] if known else said.replace("{", "{{").replace("}", "}}")


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__
