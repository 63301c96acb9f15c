"""`merge`: a base model and an adapter become an ordinary model folder, for whatever cannot load adapters.

The weights that the file holds decide which layers change, as they do for inference servers.

Shapes: R rank, I in_features, O out_features.
"""

import argparse
import shutil
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from safetensors import SafetensorError

from engine.adapter import PREFIX, lora_names
from engine.atomic import sync
from engine.failures import BadBaseModel, BadData, RunFailed
from engine.model_copy import Change, copy_model
from engine.peft_format import PeftConfig, bias_parameter, read_config, read_weights
from engine.targets import pattern_reader, scale_of

LORA_A = ".lora_A.weight"


def main(arguments: Sequence[str]) -> int:
    """Write the merged folder; it appears complete or not at all. The exit status is 1 where it could not be made."""
    parser = argparse.ArgumentParser(prog="python -m engine merge")
    parser.add_argument("--base", required=True, type=Path, help="the base model's folder")
    parser.add_argument("--adapter", required=True, type=Path, help="an adapter folder in PEFT's format")
    parser.add_argument("--out", required=True, type=Path, help="the folder to write; must not exist")
    options = parser.parse_args(arguments)
    if options.out.exists():
        sys.stderr.write(f"{options.out} exists already.\n")
        return 1
    try:
        merge(options.base, options.adapter, options.out)
    except RunFailed as error:
        sys.stderr.write(f"{error.message}\n")
    except (OSError, SafetensorError) as error:
        sys.stderr.write(f"The merged model could not be written: {error}\n")
    else:
        return 0
    return 1


def merge(base: Path, adapter: Path, out: Path) -> None:
    """Merge in fp32, keep each weight's own number format. Raises BadData or BadBaseModel."""
    changes = read_changes(adapter)
    out.parent.mkdir(parents=True, exist_ok=True)
    unfinished = Path(tempfile.mkdtemp(prefix=f".{out.name}-", dir=out.parent))
    try:
        copy_model(base, unfinished, changes)
        unfinished.chmod(0o755)
        unfinished.rename(out)
        sync(out.parent)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


@dataclass(frozen=True)
class Delta:
    """What one layer's adapter does to its weight."""

    A_RI: torch.Tensor
    B_OR: torch.Tensor
    scale: float
    magnitude_O: torch.Tensor | None
    # Whether a square weight lies transposed; any other shows it by its shape.
    fan_in_fan_out: bool

    def __call__(self, stored: torch.Tensor) -> torch.Tensor:
        """The merged weight, in the stored one's layout."""
        shape = (len(self.B_OR), self.A_RI.shape[1])
        transposed = self.fan_in_fan_out if shape[0] == shape[1] else stored.shape != shape
        W_OI = stored.float().T if transposed else stored.float()
        if W_OI.shape != shape:
            raise BadBaseModel("The adapter's layers have other shapes than the base model's.")
        V_OI = torch.addmm(W_OI, self.B_OR, self.A_RI, alpha=self.scale)
        if self.magnitude_O is not None:
            V_OI *= (self.magnitude_O / torch.linalg.vector_norm(V_OI, dim=1))[:, None]
        return V_OI.T if transposed else V_OI


def read_changes(folder: Path) -> dict[str, Change]:
    """What an adapter does to each weight it changes, by transformers' parameter names. Raises BadData."""
    config = read_config(folder)
    weights = {name: tensor.float() for name, tensor in read_weights(folder).items()}
    changes: dict[str, Change] = {}
    used: set[str] = set()
    for linear in [name.removeprefix(PREFIX).removesuffix(LORA_A) for name in weights if name.endswith(LORA_A)]:
        used |= set(lora_names(linear))
        changes[f"{linear}.weight"] = _delta(linear, config, weights)
    for name, value in weights.items():
        parameter = bias_parameter(name)
        if parameter is not None:
            changes[parameter] = partial(_replace, value)
        elif name not in used:
            raise BadData(f"The adapter holds {name}, which cannot be merged.")
    if not changes:
        raise BadData("The adapter holds no weights.")
    return changes


def _delta(linear: str, config: PeftConfig, weights: Mapping[str, torch.Tensor]) -> Delta:
    a, b, magnitude = lora_names(linear)
    rank = pattern_reader(config.rank_pattern, config.r)(linear)
    alpha = pattern_reader(config.alpha_pattern, config.lora_alpha)(linear)
    A_RI, B_OR = weights[a], weights.get(b, torch.empty(0))
    if A_RI.shape[:-1] != (rank,) or B_OR.shape[1:] != (rank,):
        raise BadData(f"The adapter's weights of {linear} do not fit its configuration.")
    if config.use_dora != (magnitude in weights):
        raise BadData(f"The adapter's magnitude of {linear} does not fit its configuration.")
    return Delta(
        A_RI=A_RI,
        B_OR=B_OR,
        scale=scale_of(alpha, rank, stabilised=config.use_rslora),
        magnitude_O=weights.get(magnitude),
        fan_in_fan_out=config.fan_in_fan_out,
    )


def _replace(value: torch.Tensor, _: torch.Tensor) -> torch.Tensor:
    return value
