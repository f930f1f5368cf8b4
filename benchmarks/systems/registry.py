"""The rows of the table: every system, where it is installed and what it is asked to embed."""

from __future__ import annotations

from dataclasses import dataclass, field

EVERYTHING = ("mixed", "wide", "query")
REFERENCE = "sentence-transformers fp32"


@dataclass(frozen=True)
class System:
    """One row: a module of this folder with its options, run in one environment."""

    name: str
    module: str
    environment: str
    options: dict[str, str] = field(default_factory=dict)
    workloads: tuple[str, ...] = EVERYTHING
    gives_vectors: bool = True


def _sentence_transformers(name: str, environment: str, **options: str) -> System:
    return System(f"sentence-transformers {name}", "sentence_transformers_encoder", environment, options)


def _openvino(precision: str) -> System:
    return System(f"OpenVINO by hand {precision}", "openvino_by_hand", "peers", {"precision": precision})


def _ctranslate2(precision: str) -> System:
    return System(f"CTranslate2 {precision}", "ctranslate2_encoder", "peers", {"precision": precision})


def _bare(precision: str) -> System:
    name, options = f"bare products {precision}", {"precision": precision}
    return System(name, "bare_products", "ours", options, ("mixed", "wide"), gives_vectors=False)


def _ours(precision: str) -> System:
    return System(f"bothways {precision}", "bothways_encoder", "ours", {"precision": precision})


SYSTEMS = (
    _ours("fp32"),
    _ours("bf16"),
    _sentence_transformers("fp32", "peers", backend="torch", precision="fp32"),
    _sentence_transformers("bf16", "peers", backend="torch", precision="bf16"),
    _sentence_transformers("OpenVINO", "peers-optimum", backend="openvino", precision="fp32"),
    _sentence_transformers("ONNX fp32", "peers-optimum", backend="onnx", precision="fp32"),
    _sentence_transformers("ONNX int8", "peers-optimum", backend="onnx", precision="int8"),
    _openvino("fp32"),
    _openvino("bf16"),
    _openvino("int8"),
    _ctranslate2("fp32"),
    _ctranslate2("int8"),
    _bare("fp32"),
    _bare("bf16"),
)


def find(name: str) -> System:
    """The system called `name`; raises `KeyError` with the known names."""
    for system in SYSTEMS:
        if system.name == name:
            return system
    raise KeyError(f"no system {name!r}; there are: {', '.join(s.name for s in SYSTEMS)}")
