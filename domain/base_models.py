"""What is accepted as a base model's folder, and what its files say of it without any library loading them."""

import json
import math
import re
import struct
from collections.abc import Iterable
from typing import Annotated, Any, BinaryIO

from pydantic import Field

from domain import strict_json
from domain.digests import Manifest
from domain.frozen import Frozen
from domain.refusals import Invalid

# Weights, configuration, tokenizer, template. Never pickles (.bin, .pt, .ckpt, .pkl) and never code.
ACCEPTED_SUFFIXES = (".safetensors", ".json", ".jinja", ".txt", ".model", ".md")
_REQUIRED = ("config.json", "tokenizer.json", "tokenizer_config.json")
_MAX_HEADER_BYTES = 100 << 20
_HEADER_PREFIX_BYTES = 8
_MAX_CONFIG_BYTES = 1 << 20
_VECTOR, _MATRIX = 1, 2
_NUMBER = re.compile(r"(?<=\.)\d+(?=\.)")


class TensorGroup(Frozen):
    """Tensors of one shape whose names differ in the number of their layer, which is `*` in `name`.

    A name without a number stands for itself. Of names with several, as experts have, no numbers are kept.
    """

    name: str
    shape: tuple[int, ...]
    numbers: tuple[int, ...] = ()

    @property
    def names(self) -> tuple[str, ...]:
        """The names in full; none where they are not known."""
        if "*" not in self.name:
            return (self.name,)
        return tuple(self.name.replace("*", str(number)) for number in self.numbers)


class WeightsFacts(Frozen):
    """What the header of a weights file says. linear_modules as in BaseModelFacts; tensors: matrices and biases."""

    parameters: int
    linear_modules: tuple[str, ...]
    tensors: tuple[TensorGroup, ...]


class BaseModelFacts(Frozen):
    """What config.json and the weights' headers say. linear_modules are the last parts of the layers' names.

    tensors: what an adapter can sit on and train beside. Empty where the base model was registered by a version that
    did not keep them.
    """

    model_type: str
    hidden_size: Annotated[int, Field(ge=1)]
    num_hidden_layers: Annotated[int, Field(ge=1)]
    max_position_embeddings: Annotated[int, Field(ge=8)]
    parameters: int = 0
    bytes: int = 0
    linear_modules: tuple[str, ...] = ()
    tensors: tuple[TensorGroup, ...] = ()


def check_manifest(manifest: Manifest) -> None:
    """Refuse a folder that lacks a needed file, or holds what could run code when loaded."""
    paths = [file.path for file in manifest.files]
    if len(set(paths)) != len(paths):
        raise Invalid("A path stands twice.", param="files")
    if missing := [name for name in _REQUIRED if name not in paths]:
        raise Invalid(f"The folder has no {missing[0]}.", param="files")
    if not any(path.endswith(".safetensors") for path in paths):
        raise Invalid("The folder has no .safetensors weights.", param="files")
    if any(file.path == "config.json" and file.bytes > _MAX_CONFIG_BYTES for file in manifest.files):
        raise Invalid(f"config.json is larger than {_MAX_CONFIG_BYTES} bytes.", param="files")
    for path in paths:
        if not path.endswith(ACCEPTED_SUFFIXES):
            accepted = ", ".join(ACCEPTED_SUFFIXES)
            raise Invalid(f"Only {accepted} files may be in a base model: not {path}.", param="files")


def facts_of_config(content: bytes) -> BaseModelFacts:
    """Read config.json. Raises Invalid where it is not that of a decoder with a known width and context."""
    config = strict_json.parse(content, param="config.json")
    if not isinstance(config, dict) or "auto_map" in config:
        raise Invalid(
            "config.json must be an object without `auto_map`: it would run foreign code.", param="config.json"
        )
    text = config.get("text_config", config)
    if not isinstance(text, dict):
        raise Invalid("config.json has a `text_config` that is no object.", param="config.json")
    try:
        return BaseModelFacts(
            model_type=_first(config, ("model_type",)),
            hidden_size=_first(text, ("hidden_size", "n_embd", "d_model")),
            num_hidden_layers=_first(text, ("num_hidden_layers", "n_layer", "num_layers")),
            max_position_embeddings=_first(text, ("max_position_embeddings", "n_positions", "max_seq_len")),
        )
    except ValueError:
        raise Invalid("config.json lacks a width, a depth or a context length.", param="config.json") from None


def _first(config: dict[str, Any], names: tuple[str, ...]) -> Any:
    return next((config[name] for name in names if name in config), None)


def weights_of_header(stream: BinaryIO) -> WeightsFacts:
    """How many parameters a .safetensors file holds, and the tensors around which adapters are made, by its header.

    The format: 8 bytes little-endian header length, then a JSON object of tensors with `shape`
    (safetensors README). Raises Invalid.
    """
    prefix = stream.read(_HEADER_PREFIX_BYTES)
    length = struct.unpack("<Q", prefix)[0] if len(prefix) == _HEADER_PREFIX_BYTES else 0
    if not 0 < length <= _MAX_HEADER_BYTES:
        raise Invalid("Not a safetensors file: its header has no sensible length.", param="file")
    content = stream.read(length)
    try:
        header = json.loads(content)
        shapes = {name: entry["shape"] for name, entry in header.items() if name != "__metadata__"}
        parameters = sum(_product(shape) for shape in shapes.values())
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        parameters = -1
    if parameters < 0 or len(content) < length:
        raise Invalid("Not a safetensors file: its header is malformed.", param="file")
    modules = {
        name.removesuffix(".weight").rsplit(".", 1)[-1]
        for name, shape in shapes.items()
        # A layer's matrices have a layer number in their name; embeddings and the output head have none.
        if name.endswith(".weight") and len(shape) == _MATRIX and any(part.isdigit() for part in name.split("."))
    }
    return WeightsFacts(parameters=parameters, linear_modules=tuple(sorted(modules)), tensors=_groups(shapes))


def _product(shape: list[int]) -> int:
    if not all(isinstance(size, int) and size >= 0 for size in shape):
        raise ValueError("a shape is a list of sizes")
    return math.prod(shape)


def _groups(shapes: dict[str, list[int]]) -> tuple[TensorGroup, ...]:
    kept = (
        (name, tuple(shape))
        for name, shape in shapes.items()
        # Scales of norms, the other vectors, are never an adapter's.
        if len(shape) >= _MATRIX or (len(shape) == _VECTOR and name.endswith(".bias"))
    )
    return merged_groups(_group_of(name, shape) for name, shape in kept)


def _group_of(name: str, shape: tuple[int, ...]) -> TensorGroup:
    numbers = _NUMBER.findall(name)
    known = tuple(map(int, numbers)) if len(numbers) == 1 else ()
    return TensorGroup(name=_NUMBER.sub("*", name), shape=shape, numbers=known)


def merged_groups(groups: Iterable[TensorGroup]) -> tuple[TensorGroup, ...]:
    """Groups of several files, or of single tensors, with those of one name and shape in one; ordered by name."""
    numbers: dict[tuple[str, tuple[int, ...]], set[int]] = {}
    for group in groups:
        numbers.setdefault((group.name, group.shape), set()).update(group.numbers)
    return tuple(
        TensorGroup(name=name, shape=shape, numbers=tuple(sorted(known)))
        for (name, shape), known in sorted(numbers.items())
    )
