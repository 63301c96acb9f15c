"""Tensors in files: safetensors, flushed, with bytes that depend on the tensors alone."""

from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import save_file

from engine.atomic import sync


def write_tensors(tensors: Mapping[str, torch.Tensor], path: Path) -> None:
    """Write and flush a safetensors file, readable by whoever may read its folder."""
    save_file(dict(tensors), path, metadata={"format": "pt"})
    path.chmod(0o644)
    sync(path)
