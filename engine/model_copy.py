"""A copy of a model folder with some weights changed, one shard in memory at a time."""

import json
import shutil
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open

from engine.atomic import sync
from engine.failures import BadBaseModel
from engine.tensors import write_tensors

SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"

# Configuration, tokenizer, chat template, licence: everything a model folder says in words.
TEXTS = {".json", ".jinja", ".txt", ".model", ".tiktoken", ".md", ""}

# Formats that hold a weight itself; any other holds it quantised, with its scales elsewhere.
NUMBERS = {torch.float32, torch.float64, torch.float16, torch.bfloat16}

# From a stored weight, in its own layout and number format, to what replaces it: same shape, any number format.
Change = Callable[[torch.Tensor], torch.Tensor]


def copy_model(base: Path, out: Path, changes: Mapping[str, Change]) -> None:
    """Write into the empty folder `out`, flushed. `changes` go by transformers' parameter names.

    Raises BadBaseModel where a weight to be changed is not there, or is not stored as floating-point numbers.
    """
    shards = _shards(base)
    pending = _by_stored_name(changes, shards)
    for number, (shard, names) in enumerate(shards.items(), start=1):
        changed = [name for name in names if name in pending]
        sys.stderr.write(f"{shard} ({number} of {len(shards)}): {len(changed)} of {len(names)} weights change\n")
        _copy_shard(base / shard, out / shard, {name: pending[name] for name in changed})
    for path in sorted(base.iterdir()):
        if path.is_file() and path.suffix in TEXTS and not path.name.startswith("."):
            shutil.copyfile(path, out / path.name)
            (out / path.name).chmod(0o644)
            sync(out / path.name)
    sync(out)


def _shards(base: Path) -> dict[str, list[str]]:
    """The names of the weights in each file."""
    try:
        if (base / INDEX).is_file():
            files = sorted(set(json.loads((base / INDEX).read_bytes())["weight_map"].values()))
        else:
            files = [SINGLE]
        if any(Path(file).name != file for file in files):
            raise BadBaseModel("The base model's index names files outside its folder.")
        shards = {}
        for file in files:
            with safe_open(base / file, framework="pt") as weights:
                shards[file] = list(weights.keys())
    except (OSError, ValueError, KeyError, AttributeError, TypeError, SafetensorError) as error:
        raise BadBaseModel("The base model's safetensors files are missing or cannot be read.") from error
    return shards


def _by_stored_name(changes: Mapping[str, Change], shards: Mapping[str, list[str]]) -> dict[str, Change]:
    stored = {name for names in shards.values() for name in names}
    found: dict[str, Change] = {}
    for parameter, change in changes.items():
        # Some folders hold the body alone, without the name it has inside the language model, as GPT-2's do.
        _, _, in_body = parameter.partition(".")
        name = parameter if parameter in stored else in_body
        if name not in stored:
            raise BadBaseModel(f"The base model has no weight named {parameter}.")
        found[name] = change
    return found


def _copy_shard(source: Path, target: Path, changes: Mapping[str, Change]) -> None:
    tensors: dict[str, torch.Tensor] = {}
    with safe_open(source, framework="pt") as weights:
        for name in weights.keys():  # noqa: SIM118 - no mapping, it only has keys
            stored = weights.get_tensor(name)
            tensors[name] = _changed(name, stored, changes[name]) if name in changes else stored
    write_tensors(tensors, target)


def _changed(name: str, stored: torch.Tensor, change: Change) -> torch.Tensor:
    if stored.dtype not in NUMBERS:
        raise BadBaseModel(f"The base model stores {name} quantised; merge into the original weights instead.")
    changed = change(stored)
    if changed.shape != stored.shape:
        raise BadBaseModel(f"The base model's {name} has another shape than the trained one.")
    return changed.to(stored.dtype).contiguous()
