"""Which parts of an encoder learn: all, the last layers, or none."""

from __future__ import annotations

from torch import nn

from bothways.errors import ConfigError
from bothways.nn.encoder import EncoderNetwork
from bothways.nn.lora import lora_of

__all__ = ["freeze"]


def freeze(network: EncoderNetwork, layers: int | None) -> None:
    """Have only the last layers learn, and what normalises their output. None: all of the network; 0: nothing of it.

    Embeddings, and relative positions that all layers share, learn only with None. The pooler belongs to the head and
    always learns. Layers are counted as they run.

    Raises ConfigError on more layers than there are, on layers that share weights with those that stay as they are
    (ALBERT), and on a network whose low-rank matrices learn instead.
    """
    if lora_of(network) is not None:
        if layers is None:  # what add_lora made of it stays
            return
        raise ConfigError("layers and low-rank adaptation cannot go together; leave one of them out")
    trained: list[nn.Module] = [network] if layers is None else _last(network, layers)
    for parameter in network.parameters():
        parameter.requires_grad_(False)
    for part in (*trained, *([] if network.pooler is None else [network.pooler])):
        for parameter in part.parameters():
            parameter.requires_grad_(True)


def _last(network: EncoderNetwork, count: int) -> list[nn.Module]:
    """The last `count` layers, and what belongs to them."""
    order = network.config.order
    if type(count) is not int or not 0 <= count <= len(order):
        raise ConfigError(f"layers must be a whole number from 0 to {len(order)}, got {count!r:.40}")
    if count == 0:
        return []
    chosen = set(order[-count:])
    if chosen & set(order[:-count]):
        raise ConfigError(
            f"layers is {count}, but this model's {len(order)} layers share weights; "
            f"say {len(order)} for all of them, 0 for none, or leave it out"
        )
    first = network.convolution if count == len(order) else None  # it is added to the first layer's output
    parts = [*(network.layers[number] for number in sorted(chosen)), network.norm, first]
    return [part for part in parts if part is not None]
