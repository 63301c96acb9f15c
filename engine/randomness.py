"""Random states: seeded for a run, kept in its checkpoints. A rank draws its own dropout masks."""

import hashlib
import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file

from engine.adapters import write_tensors
from engine.atomic import sync


def seed_everything(*parts: int) -> None:
    """Set Python's, numpy's and torch's generators from a few numbers, such as a run's seed and a rank."""
    seed = int.from_bytes(hashlib.sha256(repr(parts).encode()).digest()[:4])
    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002 - libraries draw from the global generator
    torch.manual_seed(seed)


def save_random_state(folder: Path, rank: int) -> None:
    """Write this rank's states: torch's as tensors, the others as JSON."""
    tensors = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        tensors["cuda"] = torch.cuda.get_rng_state()
    write_tensors(tensors, folder / f"random-{rank}.safetensors")
    numpy_state: Any = np.random.get_state(legacy=False)  # noqa: NPY002 - as above
    numpy_state["state"]["key"] = numpy_state["state"]["key"].tolist()
    path = folder / f"random-{rank}.json"
    path.write_text(json.dumps({"python": random.getstate(), "numpy": numpy_state}))
    sync(path)


def restore_random_state(folder: Path, rank: int) -> None:
    """Go on drawing where `save_random_state` was called."""
    states = json.loads((folder / f"random-{rank}.json").read_text())
    version, numbers, gauss = states["python"]
    random.setstate((version, tuple(numbers), gauss))
    states["numpy"]["state"]["key"] = np.array(states["numpy"]["state"]["key"], dtype=np.uint32)
    np.random.set_state(states["numpy"])  # noqa: NPY002 - as above
    tensors = load_file(folder / f"random-{rank}.safetensors")
    torch.set_rng_state(tensors["cpu"])
    if "cuda" in tensors and torch.cuda.is_available():
        torch.cuda.set_rng_state(tensors["cuda"])
