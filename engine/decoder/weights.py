"""The frozen weights, read from a model folder without transformers and kept in the number format of the products.

Shapes: V vocabulary, D width, I in_features, O out_features of a whole group.
"""

import json
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open

from engine.decoder.shape import GROUPS, DecoderShape
from engine.failures import BadBaseModel

ONE_FILE, INDEX = "model.safetensors", "model.safetensors.index.json"


@dataclass(frozen=True)
class Product:
    """A group's linear layers as one matrix, and its transpose as a view. bias_O is None where there is none."""

    weight_OI: torch.Tensor
    weight_IO: torch.Tensor
    bias_O: torch.Tensor | None


@dataclass(frozen=True)
class LayerWeights:
    """One layer: its products by group and its norms in fp32. The norms of heads are None but for Qwen3."""

    products: dict[str, Product]
    attention_norm_D: torch.Tensor
    mlp_norm_D: torch.Tensor
    query_norm: torch.Tensor | None
    key_norm: torch.Tensor | None


@dataclass(frozen=True)
class DecoderWeights:
    """The whole model. Where the head is tied, head_VD is embedding_VD."""

    embedding_VD: torch.Tensor
    head_VD: torch.Tensor
    head_DV: torch.Tensor
    final_norm_D: torch.Tensor
    layers: tuple[LayerWeights, ...]


def load_weights(folder: Path, shape: DecoderShape, dtype: torch.dtype, device: torch.device) -> DecoderWeights:
    """Map the folder's safetensors and cast what is not in `dtype` yet. Raises BadBaseModel.

    A matrix that needs neither cast nor joining stays a view of the mapped file, which ranks of one machine share.
    """
    try:
        with ExitStack() as files:
            read = _reader(folder, files, device)
            return _assemble(read, shape, dtype)
    except (OSError, ValueError, KeyError, SafetensorError, RuntimeError) as error:
        raise BadBaseModel("The base model's files are missing or cannot be read.") from error


Read = Callable[[str], torch.Tensor]


def _reader(folder: Path, files: ExitStack, device: torch.device) -> Read:
    if (folder / INDEX).exists():
        place_of: dict[str, str] = json.loads((folder / INDEX).read_text())["weight_map"]
    else:
        with safe_open(folder / ONE_FILE, framework="pt") as only:
            place_of = dict.fromkeys(only.keys(), ONE_FILE)
    names = sorted(set(place_of.values()))
    opened = {name: files.enter_context(safe_open(folder / name, framework="pt")) for name in names}

    def read(name: str) -> torch.Tensor:
        tensor: torch.Tensor = opened[place_of[name]].get_tensor(name)
        return tensor.to(device)

    return read


def _assemble(read: Read, shape: DecoderShape, dtype: torch.dtype) -> DecoderWeights:
    embedding_VD = read("model.embed_tokens.weight").to(dtype)
    head_VD = embedding_VD if shape.tied_head else read("lm_head.weight").to(dtype)
    if embedding_VD.shape != (shape.vocabulary, shape.width) or head_VD.shape != embedding_VD.shape:
        raise ValueError("the embedding is not of the size config.json says")
    return DecoderWeights(
        embedding_VD=embedding_VD,
        head_VD=head_VD,
        head_DV=head_VD.t(),
        final_norm_D=read("model.norm.weight").float(),
        layers=tuple(_layer(read, shape, dtype, f"model.layers.{layer}.") for layer in range(shape.layers)),
    )


def _layer(read: Read, shape: DecoderShape, dtype: torch.dtype, name: str) -> LayerWeights:
    def normed(part: str) -> torch.Tensor | None:
        return read(f"{name}self_attn.{part}.weight").float() if shape.normed_heads else None

    return LayerWeights(
        products={group: _product(read, shape, dtype, (name, group)) for group in GROUPS},
        attention_norm_D=read(f"{name}input_layernorm.weight").float(),
        mlp_norm_D=read(f"{name}post_attention_layernorm.weight").float(),
        query_norm=normed("q_norm"),
        key_norm=normed("k_norm"),
    )


def _product(read: Read, shape: DecoderShape, dtype: torch.dtype, place: tuple[str, str]) -> Product:
    name, group = place
    weight_OI = _joined([read(f"{name}{linear}.weight").to(dtype) for linear in GROUPS[group]])
    if weight_OI.shape != (sum(shape.out_features(group)), shape.in_features(group)):
        raise ValueError(f"{name}{group} is not of the size config.json says")
    bias_O = None
    if shape.has_bias(group):
        bias_O = _joined([read(f"{name}{linear}.bias").to(dtype) for linear in GROUPS[group]])
    return Product(weight_OI, weight_OI.t(), bias_O)


def _joined(tensors: list[torch.Tensor]) -> torch.Tensor:
    """One above another; as it is where it is one."""
    return torch.cat(tensors) if len(tensors) > 1 else tensors[0]
