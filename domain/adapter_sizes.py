"""How large an adapter will be, told from its method and its base model's shapes before a weight of it exists.

What the engine writes, and peft alike, is one safetensors file: 8 bytes for the length of a header, the header padded
to a multiple of 8, then the tensors in fp32. The header is compact JSON, tensors by name, so that its length follows
from their names and shapes.
"""

import json
import math
from collections.abc import Iterator, Mapping
from typing import NamedTuple

from domain.base_models import BaseModelFacts, TensorGroup
from domain.layer_patterns import LayerPattern, read_key
from domain.runs import LoraBias, LoraInit, LoraMethod

Shapes = Mapping[str, tuple[int, ...]]

_PREFIX = "base_model.model."
_FP32_BYTES, _LENGTH_BYTES, _ALIGNMENT = 4, 8, 8
_MATRIX = 2
# Matrices that stand in no numbered layer and are no linear layer: embeddings and the output head.
_OUTSIDE = frozenset(
    {"embed_tokens", "embed_positions", "word_embeddings", "wte", "wpe", "embed_in", "embed_out", "lm_head"}
)
_EMBEDDINGS = frozenset({"embed_tokens", "word_embeddings", "wte", "embed_in"})
# transformers' Conv1D keeps a weight as [in, out].
_TRANSPOSED = frozenset({"gpt2", "openai-gpt"})


class _Linear(NamedTuple):
    out_features: int
    in_features: int


def adapter_shapes(method: LoraMethod, facts: BaseModelFacts) -> Shapes | None:
    """The tensors of the file by name; None where the base model's layers are not known well enough.

    That is where it has experts, whose layers are not those of its files, or was registered without shapes. What PiSSA
    trains comes out with up to twice the rank: the shapes are those of twice, the most there can be.
    """
    linears = _linears(facts)
    adapted = {name: shape for name, shape in linears.items() if _is_target(name, method)}
    if not adapted or _guesses(method, facts):
        return None
    shapes: dict[str, tuple[int, ...]] = {}
    ranks = _read_ranks(method)
    for name, (out_features, in_features) in adapted.items():
        rank = _rank_of(name, ranks, method)
        if method.init is LoraInit.PISSA:
            rank = min(2 * rank, out_features, in_features)
        layer = _PREFIX + name
        shapes |= {f"{layer}.lora_A.weight": (rank, in_features), f"{layer}.lora_B.weight": (out_features, rank)}
        if method.use_dora:
            shapes[f"{layer}.lora_magnitude_vector"] = (out_features,)
    return shapes | dict(_biases(method, facts, adapted))


def embeddings(method: LoraMethod, facts: BaseModelFacts) -> Shapes:
    """The tensors of adapted embeddings, which peft has and no job here makes: A is [rank, tokens], B [width, rank]."""
    shapes: dict[str, tuple[int, ...]] = {}
    ranks = _read_ranks(method)
    for group in facts.tensors:
        layer = group.name.removesuffix(".weight")
        if layer.rsplit(".", 1)[-1] in _EMBEDDINGS and len(group.shape) == _MATRIX and _is_target(layer, method):
            tokens, width = group.shape
            rank = _rank_of(layer, ranks, method)
            shapes[f"{_PREFIX}{layer}.lora_embedding_A"] = (rank, tokens)
            shapes[f"{_PREFIX}{layer}.lora_embedding_B"] = (width, rank)
    return shapes


def _read_ranks(method: LoraMethod) -> list[tuple[LayerPattern, int]]:
    return [(key, rank) for text, rank in method.rank_pattern.items() if (key := read_key(text))]


def _rank_of(layer: str, ranks: list[tuple[LayerPattern, int]], method: LoraMethod) -> int:
    return next((rank for key, rank in ranks if key.names(layer)), method.lora_rank)


def _linears(facts: BaseModelFacts) -> dict[str, _Linear]:
    found: dict[str, _Linear] = {}
    for group in facts.tensors:
        if len(group.shape) == _MATRIX and group.numbers and group.name.endswith(".weight"):
            first, second = group.shape
            shape = _Linear(second, first) if facts.model_type in _TRANSPOSED else _Linear(first, second)
            found |= dict.fromkeys((name.removesuffix(".weight") for name in group.names), shape)
    return found


def _is_target(name: str, method: LoraMethod) -> bool:
    targets = method.target_modules
    return isinstance(targets, str) or any(name == target or name.endswith(f".{target}") for target in targets)


def _guesses(method: LoraMethod, facts: BaseModelFacts) -> bool:
    """Whether the method adapts, or may adapt, something whose shape as a linear layer is not known."""
    return any(_is_unsure(group) and _is_target(group.name.removesuffix(".weight"), method) for group in facts.tensors)


def _is_unsure(group: TensorGroup) -> bool:
    if len(group.shape) < _MATRIX or group.name.endswith(".bias"):
        return False
    # Experts, in one tensor or in many; or a matrix beside the layers that is neither embedding nor head.
    return len(group.shape) > _MATRIX or not (group.numbers or _OUTSIDE.intersection(group.name.split(".")))


def _biases(
    method: LoraMethod, facts: BaseModelFacts, adapted: Mapping[str, _Linear]
) -> Iterator[tuple[str, tuple[int, ...]]]:
    if method.bias is LoraBias.NONE:
        return
    for group in facts.tensors:
        for name in group.names if group.name.endswith(".bias") and len(group.shape) == 1 else ():
            layer = name.removesuffix(".bias")
            if layer in adapted:
                yield f"{_PREFIX}{layer}.base_layer.bias", group.shape
            elif method.bias is LoraBias.ALL:
                yield f"{_PREFIX}{name}", group.shape


def parameters_of(shapes: Shapes) -> int:
    """How many numbers are trained."""
    return sum(math.prod(shape) for shape in shapes.values())


def file_bytes(shapes: Shapes) -> int:
    """The size of adapter_model.safetensors with these tensors."""
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, shape in sorted(shapes.items()):
        begin, end = end, end + _FP32_BYTES * math.prod(shape)
        header[name] = {"dtype": "F32", "shape": shape, "data_offsets": [begin, end]}
    length = len(json.dumps(header, separators=(",", ":")))
    return _LENGTH_BYTES + math.ceil(length / _ALIGNMENT) * _ALIGNMENT + end
