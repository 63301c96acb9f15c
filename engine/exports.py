"""How a finished run leaves the engine: a PEFT folder, a model folder, or a folder of bottlenecks.

Shapes: R rank, I in_features, O out_features, S the rank of the change (at most 2 R).
"""

import json
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from pydantic import BaseModel, ConfigDict, ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file

from domain.runs import BottleneckMethod, FullMethod, LoraInit, LoraMethod, RunSpec
from engine.adapter import Adapter, LoraSite, SiteShape, lora_names
from engine.atomic import sync
from engine.failures import BadData
from engine.general.bottleneck import bottleneck_names
from engine.model_copy import copy_model
from engine.path import Path as ComputePath
from engine.peft_format import patterned, write_peft, write_text
from engine.tensors import write_tensors

# Of the change, in the Frobenius norm, what a plain adapter may lose: a tenth of what its factors lose in bf16.
TOLERANCE = 2e-4

# Singular values below this share of the factors' norms are what fp64 leaves of equal products.
ROUNDING = 1e-13

BOTTLENECK_CONFIG = "bottleneck_config.json"
BOTTLENECK_WEIGHTS = "bottleneck.safetensors"


@dataclass(frozen=True)
class PlainRank:
    """What a layer's change came to as a plain LoRA: its rank, and the share of it (Frobenius) that was lost."""

    linear: str
    rank: int
    relative_error: float


def export(
    adapter: Adapter, path: ComputePath, folder: Path, *, spec: RunSpec, base_model: Path
) -> tuple[PlainRank, ...]:
    """Write what was trained into `folder`, flushed; `base_model` is the base's folder, which a full model copies from.

    Returns what the layers of a PiSSA start came to, and nothing for the others.
    """
    ranks: tuple[PlainRank, ...] = ()
    match adapter.method:
        case LoraMethod():
            if adapter.starts:
                adapter, ranks = plain_lora(adapter)
            write_peft(adapter, folder, base_model=spec.base_model, linears=path.linears)
        case FullMethod():
            folder.mkdir(parents=True, exist_ok=True)
            copy_model(base_model, folder, {name: partial(_put, value) for name, value in adapter.weights().items()})
        case BottleneckMethod():
            write_bottleneck(adapter, folder, base_model=spec.base_model)
    return ranks


def _put(value: torch.Tensor, _: torch.Tensor) -> torch.Tensor:
    return value


def plain_lora(adapter: Adapter, tolerance: float = TOLERANCE) -> tuple[Adapter, tuple[PlainRank, ...]]:
    """The same function on the unmodified base, as an adapter without starts.

    scale (B A - B0 A0) has a rank of at most 2 R. Each layer keeps the smallest that loses no more than `tolerance`.
    Alpha is the rank in every layer, so that the scale is 1 for a reader of patterns and for one that knows only
    `r` and `lora_alpha`.
    """
    method = adapter.method
    if not isinstance(method, LoraMethod):
        raise TypeError(f"{method.type} has no factors")
    values = dict(adapter.values)
    ranks = []
    for site in adapter.sites:
        a, b, _ = lora_names(site.linear)
        values[a], values[b], lost = _plain_factors(site, tolerance)
        ranks.append(PlainRank(site.linear, len(values[a]), lost))
    common, pattern = patterned({found.linear: found.rank for found in ranks})
    plain = method.model_copy(
        update={
            "init": LoraInit.KAIMING,
            "use_rslora": False,
            "lora_rank": common,
            "alpha": float(common),
            "rank_pattern": pattern,
            "alpha_pattern": {key: float(rank) for key, rank in pattern.items()},
        }
    )
    sites = tuple(SiteShape(found.linear, found.rank, 1.0) for found in ranks)
    return Adapter(plain, values, sites=sites), tuple(ranks)


def _plain_factors(site: LoraSite, tolerance: float) -> tuple[torch.Tensor, torch.Tensor, float]:
    """A [S, I] and B [O, S] of the site's change, and what of it is lost: by an SVD of 2 R x 2 R, never of O x I."""
    if site.start_A_RI is None or site.start_B_OR is None:
        raise ValueError("the site has no start to learn a change from")
    # In fp64: two nearly equal products are taken from each other.
    left = torch.cat([site.B_OR, site.start_B_OR], dim=1).double()
    right = torch.cat([site.scale * site.A_RI, -site.scale * site.start_A_RI]).double()
    Q_left, R_left = torch.linalg.qr(left)
    Q_right, R_right = torch.linalg.qr(right.T)
    U, values, Vt = torch.linalg.svd(R_left @ R_right.T)
    values[values < ROUNDING * R_left.norm() * R_right.norm()] = 0
    rank, lost = _smallest_rank(values, tolerance)
    roots_S = values[:rank].sqrt()
    A_SI = roots_S[:, None] * (Vt[:rank] @ Q_right.T)
    B_OS = Q_left @ U[:, :rank] * roots_S
    return A_SI.float(), B_OS.float(), lost


def _smallest_rank(values: torch.Tensor, tolerance: float) -> tuple[int, float]:
    """How many singular values to keep, at least one, and the share of the norm in the others."""
    total = float(values.square().sum().sqrt())
    if total == 0:
        # PEFT knows no rank of zero.
        return 1, 0.0
    # tails[k]: what is lost where k are kept.
    tails = [*(values.square().flip(0).cumsum(0).flip(0).sqrt() / total).tolist(), 0.0]
    rank = next(rank for rank, tail in enumerate(tails) if rank and tail <= tolerance)
    return rank, tails[rank]


class BottleneckConfig(BaseModel):
    """bottleneck_config.json: behind each module of `sites`, h + up(gelu(down(h))) with `width` inner numbers.

    sites gives a module's transformers name and its hidden width. The tensors' names are those of `bottleneck_names`.
    """

    model_config = ConfigDict(frozen=True)

    base_model_name_or_path: str
    type: str = "bottleneck"
    width: int
    sites: dict[str, int]


def write_bottleneck(adapter: Adapter, folder: Path, *, base_model: str) -> None:
    """Write bottleneck_config.json and bottleneck.safetensors."""
    if not isinstance(adapter.method, BottleneckMethod):
        raise TypeError(f"{adapter.method.type} has no bottlenecks")
    _, _, up, _ = bottleneck_names("")
    sites = {name.removesuffix(up): shape[0] for name, shape in adapter.shapes.items() if name.endswith(up)}
    config = BottleneckConfig(base_model_name_or_path=base_model, width=adapter.method.width, sites=sites)
    folder.mkdir(parents=True, exist_ok=True)
    write_tensors(adapter.weights(), folder / BOTTLENECK_WEIGHTS)
    write_text(json.dumps(config.model_dump(), indent=2, sort_keys=True) + "\n", folder / BOTTLENECK_CONFIG)
    sync(folder)


def read_bottleneck(folder: Path, device: torch.device) -> Adapter:
    """The adapter that `write_bottleneck` wrote. Raises BadData."""
    try:
        config = BottleneckConfig.model_validate_json((folder / BOTTLENECK_CONFIG).read_bytes())
        weights = load_file(folder / BOTTLENECK_WEIGHTS)
        method = BottleneckMethod(width=config.width)
    except (OSError, ValidationError, SafetensorError) as error:
        raise BadData("The bottleneck adapter's files cannot be read.") from error
    names = [name for site in config.sites for name in bottleneck_names(site)]
    if set(names) != set(weights):
        raise BadData("The bottleneck adapter's weights do not fit its configuration.")
    return Adapter(method, {name: weights[name].to(device) for name in names})
