"""`convert`: a GGUF file, or the one inside an installed package, becomes an ordinary Hugging Face model folder."""

import argparse
import importlib.util
import os
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

GGUF_MAGIC = b"GGUF"
# GGUF keeps numbers as 32-bit floats: 1e-5 comes back as 9.999999747378752e-06.
FLOAT32_DIGITS = 6

# What transformers notes about where a model came from; none of it describes the new folder.
ORIGIN_KEYS = ("quantization_config", "_name_or_path", "_model_name_or_path")


def main(arguments: Sequence[str]) -> int:
    """Write the folder unless it is there; it appears complete or not at all."""
    parser = argparse.ArgumentParser(prog="python -m engine convert")
    parser.add_argument("--gguf", required=True, help="a .gguf file, or an installed package that carries one")
    parser.add_argument("--out", required=True, type=Path)
    options = parser.parse_args(arguments)
    gguf = find_gguf(options.gguf)
    with gguf.open("rb") as stream:
        if stream.read(len(GGUF_MAGIC)) != GGUF_MAGIC:
            raise SystemExit(f"{options.gguf} is no GGUF file.")
    convert(gguf, options.out)
    return 0


def find_gguf(source: str) -> Path:
    """The file itself, or the only .gguf of an installed package. The package is located, not imported."""
    if Path(source).is_file():
        return Path(source).resolve()
    package = importlib.util.find_spec(source) if source.isidentifier() else None
    folders = list(package.submodule_search_locations or ()) if package else []
    files = [path for folder in folders for path in Path(folder).glob("*.gguf")]
    if len(files) != 1:
        raise SystemExit(f"{source}: expected a .gguf file, or a package that carries one; found {len(files)}")
    return files[0]


def convert(gguf: Path, out: Path) -> None:
    """Dequantise to bf16 safetensors beside the tokenizer and its chat template. Does nothing where `out` exists."""
    if out.exists():
        return
    out.parent.mkdir(parents=True, exist_ok=True)
    unfinished = Path(tempfile.mkdtemp(prefix=f".{out.name}-", dir=out.parent))
    try:
        _write_folder(gguf, unfinished)
        _let_others_read(unfinished)
        _publish(unfinished, out)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def _write_folder(gguf: Path, folder: Path) -> None:
    from_gguf = {"gguf_file": gguf.name, "local_files_only": True}
    tokenizer = AutoTokenizer.from_pretrained(gguf.parent, **from_gguf)
    loaded = AutoModelForCausalLM.from_pretrained(gguf.parent, dtype=torch.float32, **from_gguf)
    # transformers reads GGUF but refuses to save what it read: the weights move to a fresh model of the same config.
    fresh: Any = type(loaded)(type(loaded.config)(**_plain_config(loaded.config.to_dict())))
    fresh.load_state_dict(loaded.state_dict())
    fresh.tie_weights()
    special = {key: getattr(tokenizer, key) for key in ("bos_token_id", "eos_token_id", "pad_token_id")}
    generation: Any = GenerationConfig
    fresh.generation_config = generation(**special)
    fresh.to(torch.bfloat16).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def _plain_config(config: dict[str, Any]) -> dict[str, Any]:
    return {key: _rounded(value) for key, value in config.items() if key not in ORIGIN_KEYS}


def _rounded(value: Any) -> Any:
    return float(f"{value:.{FLOAT32_DIGITS}g}") if isinstance(value, float) else value


def _let_others_read(folder: Path) -> None:
    folder.chmod(0o755)
    for path in folder.iterdir():
        path.chmod(0o644)


def _publish(unfinished: Path, out: Path) -> None:
    try:
        unfinished.rename(out)
    except OSError:
        # Another process converted the same file meanwhile; its folder has the same content.
        if not out.exists():
            raise
    else:
        descriptor = os.open(out.parent, os.O_RDONLY)
        os.fsync(descriptor)
        os.close(descriptor)
