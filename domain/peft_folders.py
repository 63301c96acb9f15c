"""A PEFT folder from elsewhere: which files may be in it, what its configuration may say, and which weights follow.

A configuration says what the weights compute, and peft writes much beside: switches that run code, read files or change
the base model when the adapter is loaded. Those may stand there as peft writes them when they are off, and not else.
What is known is a table; what is not in it is refused, whatever its value.
"""

import json
import re
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from domain import strict_json
from domain.adapter_sizes import Shapes, adapter_shapes, embeddings
from domain.base_models import BaseModelFacts
from domain.digests import Digest
from domain.frozen import Frozen
from domain.layer_patterns import FORM, MAX_KEYS, LayerPattern, read_key
from domain.parsing import parse_as
from domain.refusals import (
    ConflictingFields,
    ForbiddenConfigKey,
    ForbiddenFile,
    MissingField,
    OutOfRange,
    ShapeMismatch,
    UnknownTargetModule,
    WrongType,
)
from domain.runs import Alpha, LoraBias, LoraMethod, Rank
from domain.safetensors_header import SafetensorsHeader, check_finite, read_header, shown

WEIGHTS = "adapter_model.safetensors"
CONFIG = "adapter_config.json"
TOKENIZER = "tokenizer.json"
# Read whole, as the configuration is: objects that tokenizers' files beside `tokenizer.json` are.
SMALL_TOKENIZER_FILES = ("added_tokens.json", "special_tokens_map.json", "tokenizer_config.json")
REQUIRED = (CONFIG, WEIGHTS)
ALLOWED = frozenset({*REQUIRED, TOKENIZER, *SMALL_TOKENIZER_FILES})

MAX_SMALL_FILE_BYTES = 1 << 20
MAX_TOKENIZER_BYTES = 32 << 20

TENSOR_NAMES = re.compile(
    r"base_model\.model\.[A-Za-z0-9_.]{1,400}\.(lora_[AB]\.weight|lora_embedding_[AB]|lora_magnitude_vector|bias)"
)
# What in a tokenizer's configuration is a program: a module to import, or a template to run.
_PROGRAMS = ("auto_map", "chat_template")

# Keys that peft writes for every adapter, and the values with which they do nothing.
_OFF: Mapping[str, tuple[Any, ...]] = {
    "alora_invocation_tokens": (None,),
    "arrow_config": (None,),
    "auto_mapping": (None,),
    "corda_config": (None,),
    "ensure_weight_tying": (False,),
    "eva_config": (None,),
    "exclude_modules": (None, []),
    "kasa_config": (None,),
    "layer_replication": (None,),
    "layers_pattern": (None, []),
    "layers_to_transform": (None, []),
    "loftq_config": (None, {}),
    "lora_bias": (False,),
    "lora_ga_config": (None,),
    "megatron_config": (None,),
    # Imported only beside a megatron_config; this is what peft writes without one.
    "megatron_core": (None, "megatron.core"),
    "modules_to_save": (None, []),
    "monteclora_config": (None,),
    "qalora_group_size": (None, 16),
    "revision": (None,),
    "target_parameters": (None, []),
    "trainable_token_indices": (None, [], {}),
    "use_bdlora": (None,),
    "use_qalora": (False,),
    "velora_config": (None,),
}


class ImportedConfig(Frozen):
    """The part of adapter_config.json that says what the weights compute."""

    base_model_name_or_path: str
    bias: Literal["none", "lora_only", "all"] = "none"
    fan_in_fan_out: bool = False
    inference_mode: bool = True
    # Others take a part out of the base model whenever the adapter is loaded.
    init_lora_weights: bool | Literal["gaussian"] = True
    lora_alpha: Alpha
    lora_dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    peft_type: Literal["LORA"]
    peft_version: Annotated[str, Field(max_length=64)] | None = None
    r: Rank
    rank_pattern: Annotated[dict[str, Rank], Field(max_length=MAX_KEYS)] = Field(default_factory=dict)
    alpha_pattern: Annotated[dict[str, Alpha], Field(max_length=MAX_KEYS)] = Field(default_factory=dict)
    target_modules: Annotated[tuple[str, ...], Field(min_length=1)] | Literal["all-linear"]
    task_type: Literal["CAUSAL_LM"] | None = None
    use_dora: bool = False
    use_rslora: bool = False

    @property
    def method(self) -> LoraMethod:
        """As a job would have asked for it."""
        return LoraMethod(
            lora_rank=self.r,
            alpha=self.lora_alpha,
            dropout=self.lora_dropout,
            target_modules=self.target_modules,
            use_rslora=self.use_rslora,
            use_dora=self.use_dora,
            bias=LoraBias(self.bias),
            rank_pattern=self.rank_pattern,
            alpha_pattern=self.alpha_pattern,
        )


class ImportSpec(Frozen):
    """What was proposed: the version's counterpart of a job's RunSpec."""

    base_model: str
    base_model_digest: Digest
    method: LoraMethod
    peft_version: str | None


# --- files ------------------------------------------------------------------------------------------------------------


def check_file_name(name: str) -> None:
    """Raise ForbiddenFile for what may be in no adapter: pickles, code, templates, and whatever else is not known."""
    if name not in ALLOWED:
        raise ForbiddenFile(f"Only {', '.join(sorted(ALLOWED))} may be in an adapter.", param=shown(name))


def max_bytes_of(name: str, max_weights_bytes: int) -> int:
    """How large a file of that name may be."""
    if name == WEIGHTS:
        return max_weights_bytes
    return MAX_TOKENIZER_BYTES if name == TOKENIZER else MAX_SMALL_FILE_BYTES


def check_complete(names: Collection[str]) -> None:
    """Raise MissingField where a needed file is not among the names."""
    if missing := [name for name in REQUIRED if name not in names]:
        raise MissingField(f"The adapter has no {missing[0]}.", param=missing[0])


def check_tokenizer_file(name: str, content: bytes) -> None:
    """One of SMALL_TOKENIZER_FILES. An adapter brings no program: code is refused, and so is another chat template."""
    parsed = strict_json.parse(content, param=name)
    if not isinstance(parsed, dict):
        raise WrongType("The file is not a JSON object.", param=name)
    if found := [key for key in _PROGRAMS if key in parsed]:
        raise ForbiddenConfigKey(
            f"An adapter's tokenizer may not have {found[0]}: it is a program.", param=f"{name}:{found[0]}"
        )


# --- the configuration ------------------------------------------------------------------------------------------------


def read_config(content: bytes) -> ImportedConfig:
    """Read adapter_config.json. Raises the refusal that names what is wrong, with the key in `param`."""
    parsed = strict_json.parse(content, param=CONFIG)
    if not isinstance(parsed, dict):
        raise WrongType(f"{CONFIG} is not an object.", param=CONFIG)
    known: dict[str, Any] = {}
    for key, value in parsed.items():
        if key in ImportedConfig.model_fields:
            known[key] = value
        elif not _is_off(key, value):
            raise ForbiddenConfigKey(
                "The configuration asks for what an adapter may not have here, or for what nobody here knows.",
                param=shown(key),
            )
    return _checked(known)


def _is_off(key: str, value: Any) -> bool:
    # By type as well: False is not 0, and {} not [].
    return any(type(value) is type(off) and value == off for off in _OFF.get(key, ()))


def _checked(known: dict[str, Any]) -> ImportedConfig:
    targets = known.get("target_modules")
    if isinstance(targets, str) and targets != "all-linear":
        raise UnknownTargetModule("Name the layers in a list: an expression is not evaluated.", param="target_modules")
    if isinstance(targets, list):
        known["target_modules"] = tuple(targets)
    for key in ("rank_pattern", "alpha_pattern"):
        known[key] = known.get(key) or {}
    if not isinstance(known.get("init_lora_weights", True), bool) and known["init_lora_weights"] != "gaussian":
        raise ForbiddenConfigKey(
            "The adapter changes the base model when it is loaded; export it as a plain one first.",
            param="init_lora_weights",
        )
    config = parse_as(ImportedConfig, known)
    _check_pattern(config.rank_pattern, param="rank_pattern")
    _check_pattern(config.alpha_pattern, param="alpha_pattern")
    return config


def _check_pattern(pattern: Mapping[str, float], *, param: str) -> None:
    keys: list[LayerPattern] = []
    for text in pattern:
        key, place = read_key(text), f"{param}.{shown(text)}"
        if key is None:
            raise OutOfRange(FORM, param=place)
        if any(key.meets(other) for other in keys):
            raise ConflictingFields("Two keys could name one layer: nothing keeps their order.", param=place)
        keys.append(key)


def with_base_model(content: bytes, base_model: str) -> bytes:
    """An adapter_config.json that names the base model as the registry does, which knows neither hub ids nor paths."""
    parsed = strict_json.parse(content, param=CONFIG)
    if not isinstance(parsed, dict):
        raise WrongType(f"{CONFIG} is not an object.", param=CONFIG)
    return (json.dumps(parsed | {"base_model_name_or_path": base_model}, indent=2, sort_keys=True) + "\n").encode()


# --- the folder -------------------------------------------------------------------------------------------------------


def check_folder(folder: Path, config: ImportedConfig, facts: BaseModelFacts) -> None:
    """Everything else in a folder, its configuration aside: tokenizer, header, shapes, and every weight a number."""
    for name in SMALL_TOKENIZER_FILES:
        if (path := folder / name).exists():
            check_tokenizer_file(name, path.read_bytes())
    if (folder / TOKENIZER).exists():
        _check_begins_as_object(folder / TOKENIZER)
    expected = expected_shapes(config, facts)
    with (folder / WEIGHTS).open("rb") as stream:
        size_bytes = (folder / WEIGHTS).stat().st_size
        header = read_header(stream, size_bytes, names=TENSOR_NAMES, max_tensors=len(expected))
        check_shapes(header, expected)
        check_finite(stream, header)


def _check_begins_as_object(path: Path) -> None:
    # Up to 32 MiB of JSON, which would take ten times that in memory: the tokenizers' own reader runs nothing of it.
    with path.open("rb") as stream:
        if not stream.read(1).startswith(b"{"):
            raise WrongType("The file is not a JSON object.", param=path.name)


# --- the weights ------------------------------------------------------------------------------------------------------


def expected_shapes(config: ImportedConfig, facts: BaseModelFacts) -> Shapes:
    """The tensors that the configuration means on that base model, by name. Raises ShapeMismatch where none are."""
    shapes = adapter_shapes(config.method, facts)
    on_embeddings = {} if config.target_modules == "all-linear" else embeddings(config.method, facts)
    if shapes is None and not on_embeddings:
        raise ShapeMismatch(
            "The base model has no such layers, or they are not known well enough to check an adapter against.",
            param="target_modules",
        )
    return {**(shapes or {}), **on_embeddings}


def check_shapes(header: SafetensorsHeader, expected: Shapes) -> None:
    """Exactly these tensors, each of its shape. Raises ShapeMismatch with the first that is wrong."""
    for tensor in header.tensors:
        if tensor.name not in expected:
            raise ShapeMismatch("The configuration means no such tensor on this base model.", param=shown(tensor.name))
        if tensor.shape != expected[tensor.name]:
            wanted = " x ".join(map(str, expected[tensor.name]))
            raise ShapeMismatch(f"The tensor is not {wanted}, as rank and base model ask for.", param=tensor.name)
    found = {tensor.name for tensor in header.tensors}
    if missing := [name for name in expected if name not in found]:
        raise ShapeMismatch("The tensor is missing.", param=missing[0])
