"""OpenVINO as a careful user drives it: texts sorted by length, padded only within batches of a tuned size,
several requests in flight, pooling and normalisation inside the graph, int8 by NNCF with calibration data."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from workloads import MODEL_LIMIT, load_tokenizer

from systems.encoder import Encoder, Setup
from systems.sorted_batches import BATCH_TOKENS, fastest, padded, sample, sorted_batches

if TYPE_CHECKING:
    import openvino
    from torch import Tensor, nn

PACKAGES = ("openvino", "nncf")
HINTS = {"fp32": "f32", "bf16": "bf16", "int8": "bf16"}


@dataclass(frozen=True)
class Setting:
    """Padded tokens in a batch, and batches computed at the same time (each by its share of the threads)."""

    batch_tokens: int
    streams: int


class OpenVinoEncoder:
    """A compiled graph from token ids and mask [batch, length] to unit vectors [batch, width]."""

    def __init__(self, setup: Setup) -> None:
        import openvino

        self._model, self._threads = setup.model, setup.threads
        self._hint = HINTS[setup.options["precision"]]
        self._core = openvino.Core()
        self._graph = self._core.read_model(_graph_file(setup))
        self._compiled: dict[int, openvino.CompiledModel] = {}
        self._setting = Setting(batch_tokens=2048, streams=1)
        self.set_length_limit(MODEL_LIMIT)

    def set_length_limit(self, tokens: int) -> None:
        """From now on texts are cut at `tokens` tokens."""
        self._tokenizer = load_tokenizer(self._model, tokens)

    def tune(self, texts: list[str]) -> None:
        """Tries batch sizes and numbers of streams on a part of the texts and keeps the fastest."""
        streams = sorted({1, self._threads})
        settings = [Setting(tokens, number) for number in streams for tokens in BATCH_TOKENS]
        part = sample(texts)
        self._setting = fastest(settings, lambda setting: self._encode(part, setting))

    def encode(self, texts: list[str]) -> NDArray[np.float32]:
        """Unit vectors [texts, width]."""
        return self._encode(texts, self._setting)

    def encode_one(self, text: str) -> NDArray[np.float32]:
        """One text's vector, with all threads on it."""
        ids = self._tokenizer.encode(text).ids
        return np.array(self._compile(1)(padded([ids]))[0][0])

    def _compile(self, streams: int) -> openvino.CompiledModel:
        """The graph compiled for `streams` batches at a time."""
        if streams not in self._compiled:
            config = {
                "INFERENCE_PRECISION_HINT": self._hint,
                "INFERENCE_NUM_THREADS": self._threads,
                "NUM_STREAMS": streams,
            }
            self._compiled[streams] = self._core.compile_model(self._graph, "CPU", config)
        return self._compiled[streams]

    def _encode(self, texts: list[str], setting: Setting) -> NDArray[np.float32]:
        import openvino

        ids = [encoding.ids for encoding in self._tokenizer.encode_batch(texts)]
        compiled = self._compile(setting.streams)
        vectors = np.empty((len(ids), compiled.output(0).partial_shape[1].get_length()), dtype=np.float32)
        queue = openvino.AsyncInferQueue(compiled, setting.streams)
        queue.set_callback(lambda request, rows: vectors.__setitem__(rows, request.get_output_tensor(0).data))
        for rows in sorted_batches([len(text) for text in ids], setting.batch_tokens):
            queue.start_async(padded([ids[row] for row in rows]), rows)
        queue.wait_all()
        return vectors


def _graph_file(setup: Setup) -> Path:
    kind = "int8" if setup.options["precision"] == "int8" else "float"
    return setup.cache / f"openvino-{kind}.xml"


def _sentence_model(folder: Path) -> nn.Module:
    """The transformer with mean pooling and normalisation behind it, as one torch module."""
    import torch
    import transformers

    class SentenceModel(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = transformers.AutoModel.from_pretrained(folder, attn_implementation="sdpa").eval()

        def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
            hidden = self.body(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
            weights = attention_mask.unsqueeze(-1).to(hidden.dtype)
            pooled = (hidden * weights).sum(1) / weights.sum(1)
            return torch.nn.functional.normalize(pooled, dim=-1)

    return SentenceModel()


def _float_graph(folder: Path) -> openvino.Model:
    """The model as an OpenVINO graph of free batch size and length."""
    import openvino
    import torch

    example = {"input_ids": torch.tensor([[101, 2129, 102], [101, 102, 0]])}
    example["attention_mask"] = torch.tensor([[1, 1, 1], [1, 1, 0]])
    with torch.no_grad():
        graph = openvino.convert_model(_sentence_model(folder), example_input=example)
    graph.reshape({port: [-1, -1] for port in graph.inputs})
    return graph


def _int8_graph(graph: openvino.Model, setup: Setup) -> openvino.Model:
    """The graph quantised by NNCF's transformer recipe from the calibration sentences."""
    import nncf

    tokenizer = load_tokenizer(setup.model, MODEL_LIMIT)
    data = nncf.Dataset(setup.calibration, lambda text: list(padded([tokenizer.encode(text).ids])))
    return nncf.quantize(graph, data, subset_size=len(setup.calibration), model_type=nncf.ModelType.TRANSFORMER)


def build(setup: Setup) -> None:
    """Writes the graph in OpenVINO's own format."""
    import openvino

    graph = _float_graph(setup.model)
    if setup.options["precision"] == "int8":
        graph = _int8_graph(graph, setup)
    openvino.save_model(graph, _graph_file(setup), compress_to_fp16=False)


def load(setup: Setup) -> Encoder:
    """The graph that `build` wrote, at the precision of the options."""
    return OpenVinoEncoder(setup)
