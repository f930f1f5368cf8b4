"""Models from a hub: a small one, served on this machine, that speaks the protocol of huggingface.co."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any
from urllib.parse import unquote, urlsplit

import numpy as np
import pytest
import torch
from prompt import fails_with_one_line, run
from small_models import write_bert_tokenizer
from small_pairs import made

from bothways import EncoderDecoder, SentenceEncoder
from bothways.checkpoint.sentence import load_sentence_model
from bothways.nn.adapter import AdapterConfig, adapter_of
from bothways.nn.heads import Dense, SentenceHead

TOKEN = "hf_letmein"
TEXTS = ["the cat sat", "a dog ran to the house", ""]


# The hub


@dataclass
class Repository:
    """revisions: the files of each, by name.    closed: "", "private" or "gated"."""

    revisions: dict[str, dict[str, bytes]]
    closed: str = ""

    def commit(self, revision: str) -> str:
        """The hash that stands for a branch, a tag or itself; "" if there is none."""
        hashes = {
            name: hashlib.sha1(repr(sorted(files)).encode() + name.encode()) for name, files in self.revisions.items()
        }
        commits = {name: digest.hexdigest() for name, digest in hashes.items()}
        return commits.get(revision, revision if revision in commits.values() else "")

    def files(self, commit: str) -> dict[str, bytes]:
        return next(files for name, files in self.revisions.items() if self.commit(name) == commit)


@dataclass
class Hub:
    """What is served, and what was asked for: (method, path, Range) of each request.

    cuts: how often yet the connection breaks in the middle of a file, by the file's path.
    """

    repositories: dict[str, Repository] = field(default_factory=dict)
    cuts: dict[str, int] = field(default_factory=dict)
    log: list[tuple[str, str, str]] = field(default_factory=list)
    endpoint: str = ""

    def fetched(self, model: str) -> list[str]:
        """The names of the files whose content was asked for."""
        place = rf"/(?:{model}/resolve/|storage/{model}@)\w+/(.*)"
        found = [re.fullmatch(place, path) for method, path, _ in self.log if method == "GET"]
        return sorted({match[1] for match in found if match})


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: Hub

    def log_message(self, *_: Any) -> None:
        pass

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        path = unquote(urlsplit(self.path).path)
        self.hub.log.append((self.command, path, self.headers.get("Range", "")))
        for pattern, answer in (
            (r"/api/models/(.+)/revision/(.+)", self.describe),
            (r"/api/models/(.+)/tree/(\w+)", self.tree),
            (r"/(.+)/resolve/(\w+)/(.+)", self.resolve),
            (r"/storage/(.+)@(\w+)/(.+)", self.send),
        ):
            if match := re.fullmatch(pattern, path):
                return self.open(answer, *match.groups())
        return self.refuse(404, "RepoNotFound")

    def open(self, answer: Callable[..., None], model: str, revision: str, *name: str) -> None:
        repository = self.hub.repositories.get(model)
        token = self.headers.get("Authorization", "")
        if token not in ("", f"Bearer {TOKEN}"):
            return self.refuse(401, "", "Invalid credentials in Authorization header")
        if repository is None or (repository.closed == "private" and not token):
            return self.refuse(404 if token else 401, "RepoNotFound")
        if repository.closed == "forbidden":
            return self.refuse(403, "", "not for you")
        commit = repository.commit(revision)
        if not commit:
            return self.refuse(404, "RevisionNotFound")
        if repository.closed == "gated" and name and not token:
            return self.refuse(401, "GatedRepo", "Access to this model is restricted")
        return answer(repository, model, commit, *name)

    def describe(self, repository: Repository, model: str, commit: str) -> None:
        siblings = [{"rfilename": name} for name in repository.files(commit)]
        self.answer({"id": model, "sha": commit, "siblings": siblings})

    def tree(self, repository: Repository, model: str, commit: str) -> None:
        files = repository.files(commit).items()
        self.answer([{"type": "file", "path": p, "size": len(d), "oid": hashlib.sha1(d).hexdigest()} for p, d in files])

    def resolve(self, repository: Repository, model: str, commit: str, name: str) -> None:
        """A small file itself; where large ones are stored."""
        data = repository.files(commit).get(name)
        if data is None:
            return self.refuse(404, "EntryNotFound")
        if not name.endswith(".safetensors"):
            return self.send(repository, model, commit, name)
        self.send_response(302)
        self.send_header("Location", f"{self.hub.endpoint}/storage/{model}@{commit}/{name}")
        self.send_header("X-Repo-Commit", commit)
        self.send_header("X-Linked-Etag", f'"{hashlib.sha256(data).hexdigest()}"')
        self.send_header("X-Linked-Size", str(len(data)))
        self.send_header("Content-Length", "0")
        return self.end_headers()

    def send(self, repository: Repository, model: str, commit: str, name: str) -> None:
        data = repository.files(commit)[name]
        start = int((re.match(r"bytes=(\d+)-", self.headers.get("Range", "")) or [0, 0])[1])
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
        self.send_header("ETag", f'"{hashlib.sha1(data).hexdigest()}"')
        self.send_header("X-Repo-Commit", commit)
        self.send_header("Content-Length", str(len(data) - start))
        self.end_headers()
        place = f"{model}/{name}"
        if self.command == "GET" and self.hub.cuts.get(place, 0) > 0:
            self.hub.cuts[place] -= 1
            self.wfile.write(data[start : start + (len(data) - start) // 2])
            self.close_connection = True
        elif self.command == "GET":
            self.wfile.write(data[start:])

    def answer(self, value: Any) -> None:
        data = json.dumps(value).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def refuse(self, status: int, code: str, message: str = "") -> None:
        self.send_response(status)
        for name, value in (("X-Error-Code", code), ("X-Error-Message", message)):
            if value:
                self.send_header(name, value)
        self.send_header("Content-Length", "0")
        self.end_headers()


# What it serves


def files_of(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


CLUTTER = {
    "README.md": b"# A model",
    "pytorch_model.bin": b"a pickle",
    "modeling_custom.py": b"raise SystemExit",
    "onnx/model.onnx": b"graph",
    "onnx/config.json": b"{}",
    "openvino/model.safetensors": b"not for us",
    "model.fp16.safetensors": b"a variant",
    "checkpoint-5/model.safetensors": b"an older one",
    "3_Dense_unused/model.safetensors": b"of another width",
}


@pytest.fixture(scope="module")
def sentences(save_bert: Callable[..., Path], new_folder: Callable[[], Path]) -> list[Path]:
    """Two sentence-transformers folders with a Dense module each; their weights in one file, and in several."""
    folders = []
    for seed in range(2):
        dense = Dense(32, 5, "tanh")
        torch.nn.init.normal_(dense.linear.weight)
        torch.nn.init.zeros_(dense.linear.bias)
        model = replace(load_sentence_model(save_bert(seed=seed)), head=SentenceHead(32, ("mean",), True, [dense]))
        folders.append(new_folder())
        model.save_pretrained(folders[-1])
    return folders


@pytest.fixture(scope="module")
def sharded(save_bert: Callable[..., Path], new_folder: Callable[[], Path]) -> Path:
    from transformers import BertModel

    folder = new_folder()
    source = save_bert(seed=3)
    BertModel.from_pretrained(source).save_pretrained(folder, max_shard_size="20KB")
    (folder / "vocab.txt").write_bytes((source / "vocab.txt").read_bytes())
    assert not (folder / "model.safetensors").exists()
    return folder


@pytest.fixture(scope="module")
def pair(new_folder: Callable[[], Path]) -> Path:
    """An encoder and a decoder with an adapter and a tokenizer of its own."""
    folder = new_folder()
    made("bert, bert", folder)
    (folder / "target_tokenizer").mkdir()
    write_bert_tokenizer(folder / "target_tokenizer", 24)
    adapter = adapter_of(AdapterConfig("bottleneck", 32, 32, inner=8), torch.Generator().manual_seed(0))
    replace(EncoderDecoder.from_pretrained(folder), adapter=adapter).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def hub(sentences: list[Path], sharded: Path, pair: Path) -> Iterator[Hub]:
    main, old = ({**files_of(folder), **CLUTTER} for folder in sentences)
    pickled = {name: data for name, data in main.items() if not name.endswith(".safetensors")}
    half = {name: data for name, data in main.items() if name != "2_Dense/model.safetensors"}
    half["2_Dense/pytorch_model.bin"] = b"a pickle"
    hub = Hub(
        {
            "org/sentences": Repository({"main": main, "v1": old, "refs/pr/1": old}),
            "org/sharded": Repository({"main": files_of(sharded)}),
            "org/pair": Repository({"main": {**files_of(pair), **CLUTTER}}),
            "org/private": Repository({"main": main}, "private"),
            "org/gated": Repository({"main": main}, "gated"),
            "org/forbidden": Repository({"main": main}, "forbidden"),
            "org/pickled": Repository({"main": pickled}),
            "org/half-pickled": Repository({"main": half}),
            "org/empty": Repository({"main": {"README.md": b"", "config.json": b"{}"}}),
            "org/cut-once": Repository({"main": main}),
            "org/cut-always": Repository({"main": main}),
            "org/outside": Repository({"main": {**main, "modules.json": b'[{"type": "x.T", "path": "../../x"}]'}}),
        },
        {"org/cut-once/model.safetensors": 1, "org/cut-always/model.safetensors": 1000},
    )
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("OfHub", (Handler,), {"hub": hub}))
    hub.endpoint = f"http://127.0.0.1:{server.server_port}"
    Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    yield hub
    server.shutdown()
    server.server_close()


# Who asks: processes of their own, since huggingface_hub reads the environment when it is imported

SCRIPT = """
import json, sys, time
import huggingface_hub.constants
from bothways import BothwaysError, Encoder, EncoderDecoder, SentenceEncoder
huggingface_hub.constants.DOWNLOAD_CHUNK_SIZE = 1 << 12  # what is kept of a download that breaks off, in such parts
time.sleep = lambda seconds: None  # a broken download is tried again at once
def answer(kind, model, revision):
    try:
        if kind == "sentences":
            return SentenceEncoder(model, device="cpu", revision=revision).encode(json.loads(sys.argv[2])).tolist()
        if kind == "pair":
            pair = EncoderDecoder.from_pretrained(model, revision=revision)
            return [sum(p.sum().item() for p in pair.adapter.parameters()), pair.target_tokenizer.vocab_size]
        encoder = Encoder.from_pretrained(model, revision=revision)
        return {name: value.sum().item() for name, value in encoder.network.named_parameters()}
    except BothwaysError as error:
        return f"{type(error).__name__}: {error}"
print(json.dumps([answer(*request) for request in json.loads(sys.argv[1])]))
"""
Request = tuple[str, str, "str | None"]


@pytest.fixture(scope="module")
def ask(hub: Hub, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., dict[Request, Any]]:
    """(requests, cache=…, **environment) → each request's answer: vectors, sums of weights, or an error."""
    caches: dict[str, Path] = {}

    def run(requests: list[Request], cache: str, **environment: str) -> dict[Request, Any]:
        home = caches.setdefault(cache, tmp_path_factory.mktemp(cache))
        kept = {key: value for key, value in os.environ.items() if not key.startswith("HF_")}
        settings = {"HF_ENDPOINT": hub.endpoint, "HF_HOME": str(home), "HF_HUB_DISABLE_XET": "1"}
        process = subprocess.run(
            [sys.executable, "-c", SCRIPT, json.dumps(requests), json.dumps(TEXTS)],
            env={**kept, **settings, "HF_HUB_DISABLE_PROGRESS_BARS": "1", **environment},
            capture_output=True,
            text=True,
            timeout=100,
        )
        assert process.returncode == 0, process.stderr
        return dict(zip(requests, json.loads(process.stdout), strict=True))

    return run


WITH_TOKEN: list[Request] = [
    *[("sentences", "org/sentences", revision) for revision in (None, "main", "v1", "refs/pr/1")],
    ("encoder", "org/sharded", None),
    ("pair", "org/pair", None),
    ("sentences", "org/private", None),
    ("sentences", "org/gated", None),
    ("sentences", "org/cut-once", None),
]


@pytest.fixture(scope="module")
def answers(hub: Hub, ask: Callable[..., Any]) -> dict[Request, Any]:
    return ask(WITH_TOKEN, "full", HF_TOKEN=TOKEN)


def vectors(folder: Path) -> np.ndarray:
    return SentenceEncoder(folder, device="cpu").encode(TEXTS)


def test_a_model_of_the_hub_gives_the_vectors_of_its_folder(answers: dict[Request, Any], sentences: list[Path]) -> None:
    for revision in (None, "main"):
        assert np.array_equal(answers["sentences", "org/sentences", revision], vectors(sentences[0]))


@pytest.mark.parametrize("revision", ["v1", "refs/pr/1"])
def test_a_revision_is_the_one_that_was_named(
    answers: dict[Request, Any], sentences: list[Path], revision: str
) -> None:
    assert np.array_equal(answers["sentences", "org/sentences", revision], vectors(sentences[1]))


def test_only_what_is_read_is_fetched(hub: Hub, answers: dict[Request, Any], sentences: list[Path]) -> None:
    assert hub.fetched("org/sentences") == sorted(files_of(sentences[0]))


def test_weights_in_several_files_are_fetched_with_their_index(
    hub: Hub, answers: dict[Request, Any], sharded: Path
) -> None:
    from bothways import Encoder

    network = Encoder.from_pretrained(sharded).network
    sums = {name: value.sum().item() for name, value in network.named_parameters()}
    assert answers["encoder", "org/sharded", None] == sums
    assert len([name for name in hub.fetched("org/sharded") if name.endswith(".safetensors")]) > 2


def test_folders_that_an_encoder_decoder_names_are_fetched_with_it(
    hub: Hub, answers: dict[Request, Any], pair: Path
) -> None:
    model = EncoderDecoder.from_pretrained(pair)
    assert model.adapter is not None
    assert model.target_tokenizer is not None
    sums = sum(p.sum().item() for p in model.adapter.parameters())
    assert answers["pair", "org/pair", None] == [sums, model.target_tokenizer.vocab_size]
    assert hub.fetched("org/pair") == sorted(files_of(pair))


@pytest.mark.parametrize("model", ["org/private", "org/gated"])
def test_a_closed_repository_opens_with_a_token(answers: dict[Request, Any], sentences: list[Path], model: str) -> None:
    assert np.array_equal(answers["sentences", model, None], vectors(sentences[0]))


def test_a_download_that_broke_off_is_taken_up_where_it_ended(
    hub: Hub, answers: dict[Request, Any], sentences: list[Path]
) -> None:
    assert np.array_equal(answers["sentences", "org/cut-once", None], vectors(sentences[0]))
    size = len((sentences[0] / "model.safetensors").read_bytes())
    place = r"/storage/org/cut-once@\w+/model.safetensors"
    first, second = [start for method, path, start in hub.log if method == "GET" and re.fullmatch(place, path)]
    assert first == ""
    assert size // 4 < int(re.fullmatch(r"bytes=(\d+)-", second)[1]) <= size // 2


@pytest.fixture(scope="module")
def offline(hub: Hub, ask: Callable[..., Any], answers: dict[Request, Any]) -> dict[Request, Any]:
    before = len(hub.log)
    commit = hub.repositories["org/sentences"].commit("v1")
    requests = [*WITH_TOKEN, ("sentences", "org/sentences", commit), ("sentences", "org/empty", None)]
    found = ask(requests, "full", HF_HUB_OFFLINE="1")
    assert hub.log[before:] == []
    return found


def test_what_was_fetched_is_there_without_a_network(
    hub: Hub, answers: dict[Request, Any], offline: dict[Request, Any]
) -> None:
    assert {request: offline[request] for request in WITH_TOKEN} == answers
    commit = hub.repositories["org/sentences"].commit("v1")
    assert offline["sentences", "org/sentences", commit] == answers["sentences", "org/sentences", "v1"]


def test_what_was_not_fetched_is_missed_without_a_network(offline: dict[Request, Any]) -> None:
    message = offline["sentences", "org/empty", None]
    assert message.startswith("CheckpointError: org/empty: ")
    assert "HF_HUB_OFFLINE" in message


REFUSED = {
    ("sentences", "org/missing", None): ["no such repository", "HF_TOKEN"],
    ("sentences", "missing", None): ["no such repository"],
    ("sentences", "org/private", None): ["private", "HF_TOKEN"],
    ("sentences", "org/gated", None): ["gated", "HF_TOKEN"],
    ("sentences", "org/forbidden", None): ["refuses access", "HF_TOKEN"],
    ("sentences", "org/sentences", "v2"): ["no revision v2"],
    ("sentences", "org/sentences", "{0}"): ["no revision {0}"],
    ("sentences", "org/sentences", "0" * 40): ["no revision 000"],
    ("encoder", "org/pickled", None): [
        "pytorch_model.bin",
        "hf download org/pickled --local-dir DIR",
        "bothways convert",
    ],
    ("sentences", "org/half-pickled", None): ["2_Dense/pytorch_model.bin", "hf download org/half-pickled"],
    ("sentences", "org/empty", None): ["org/empty", "no model.safetensors"],
    ("sentences", "org/cut-always", None): ["broke off", "again"],
    ("sentences", "org/outside", None): ["modules.json", "leads out"],
    ("sentences", "org/-bad-.", None): ["no id of a repository"],
}


@pytest.fixture(scope="module")
def refusals(ask: Callable[..., Any]) -> dict[Request, Any]:
    return ask(list(REFUSED), "empty")


@pytest.mark.parametrize("request_", REFUSED, ids=lambda request: " ".join(map(str, request)))
def test_what_the_hub_does_not_give_is_said_in_one_line(refusals: dict[Request, Any], request_: Request) -> None:
    message = refusals[request_]
    assert isinstance(message, str)
    assert "\n" not in message
    assert len(message) < 400
    assert request_[1].rpartition("/")[2] in message
    assert [word for word in REFUSED[request_] if word not in message] == [], message


def test_a_wrong_token_is_named(ask: Callable[..., Any]) -> None:
    (message,) = ask([("sentences", "org/sentences", None)], "wrong", HF_TOKEN="hf_wrong").values()
    assert "does not accept the token; check HF_TOKEN" in message


def test_a_hub_that_is_not_there_is_named(ask: Callable[..., Any]) -> None:
    (message,) = ask([("sentences", "org/sentences", None)], "nowhere", HF_ENDPOINT="http://127.0.0.1:9").values()
    assert "cannot be reached" in message
    assert "\n" not in message


def test_the_folder_of_a_run_is_told_apart_from_the_model_in_it(
    save_bert: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Whatever reads a model says so, and reads the model that it names."""
    run_folder = tmp_path / "r1"
    shutil.copytree(save_bert(), run_folder / "model")
    said = f"bothways: {run_folder}: the folder of a run, not of a model; name the model in it: {run_folder}/model\n"
    for command in ("inspect", "generate", "fill-mask", "tag"):
        assert fails_with_one_line(capsys, command, run_folder, "a") == said
    assert fails_with_one_line(capsys, "evaluate", run_folder, "--data", "rows.csv") == said
    assert run("embed", f"{run_folder}/model", "a", "--json") == 0
