"""sentence-transformers with its default settings: torch, and its own ONNX and OpenVINO backends."""

from __future__ import annotations

import platform
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from systems.encoder import Encoder, Setup

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

PACKAGES = ("sentence-transformers", "transformers", "torch", "optimum-intel", "optimum-onnx", "onnxruntime")


class SentenceTransformersEncoder:
    """`SentenceTransformer.encode` with the library's own batch size (32)."""

    def __init__(self, model: SentenceTransformer) -> None:
        self._model = model

    def set_length_limit(self, tokens: int) -> None:
        """From now on texts are cut at `tokens` tokens."""
        self._model.max_seq_length = tokens

    def tune(self, texts: list[str]) -> None:
        """Nothing to settle: the defaults are what is measured."""

    def encode(self, texts: list[str]) -> NDArray[np.float32]:
        """Unit vectors [texts, width]."""
        return np.asarray(self._model.encode(texts, show_progress_bar=False), dtype=np.float32)

    def encode_one(self, text: str) -> NDArray[np.float32]:
        """One text's vector."""
        return np.asarray(self._model.encode(text, show_progress_bar=False), dtype=np.float32)


def quantization_name() -> str:
    """The library's name for the int8 export that fits this machine."""
    if platform.machine().lower() in ("arm64", "aarch64"):
        return "arm64"
    flags = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    return "avx512_vnni" if "avx512_vnni" in flags else "avx2"


def _exported(setup: Setup) -> Path:
    return setup.cache / f"sentence-transformers-{setup.options['backend']}"


def _open(folder: Path, backend: str, model_kwargs: dict[str, Any]) -> SentenceTransformer:
    from sentence_transformers import SentenceTransformer

    options: dict[str, Any] = {"backend": backend, "model_kwargs": model_kwargs, "local_files_only": True}
    return SentenceTransformer(str(folder), device="cpu", **options)


def _backend_arguments(setup: Setup) -> dict[str, Any]:
    if setup.options["backend"] == "openvino":
        return {}
    name = "model" if setup.options["precision"] == "fp32" else f"model_qint8_{quantization_name()}"
    return {"provider": "CPUExecutionProvider", "file_name": f"onnx/{name}.onnx"}


def build(setup: Setup) -> None:
    """Exports the model for a backend that is not torch, with the library's own functions."""
    backend, folder = setup.options["backend"], _exported(setup)
    if backend == "torch":
        return
    if not folder.exists():
        _open(setup.model, backend, {"export": True}).save_pretrained(str(folder))
    if setup.options["precision"] == "int8":
        from sentence_transformers import export_dynamic_quantized_onnx_model

        model = _open(folder, backend, {"file_name": "onnx/model.onnx"})
        export_dynamic_quantized_onnx_model(model, quantization_name(), str(folder))


def load(setup: Setup) -> Encoder:
    """The model in torch at the precision of the options, or as `build` exported it."""
    backend = setup.options["backend"]
    if backend != "torch":
        return SentenceTransformersEncoder(_open(_exported(setup), backend, _backend_arguments(setup)))
    if setup.options["precision"] == "fp32":
        return SentenceTransformersEncoder(_open(setup.model, backend, {}))
    import torch

    return SentenceTransformersEncoder(_open(setup.model, backend, {"dtype": torch.bfloat16}))
