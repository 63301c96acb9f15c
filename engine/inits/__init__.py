"""How an adapter begins: the weights of every method before the first step.

A run draws from a generator of its own, seeded by the run alone and on the CPU: the start is the same on every rank
and every device, whatever else the process draws. What needs transformers is `engine.inits.eva`, imported by name
where a run asks for it.

Shapes: R rank, I in_features, O out_features, H hidden width, W bottleneck width.
"""

import importlib
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path as FolderPath
from typing import Protocol, runtime_checkable

import torch
from torch import nn

from domain.plans import Precision
from domain.runs import MAX_LORA_RANK, BottleneckMethod, FullMethod, LoraBias, LoraInit, LoraMethod, Method
from engine.adapter import Adapter, SiteShape, lora_names
from engine.failures import BadData
from engine.general.bottleneck import bottleneck_names
from engine.path import LinearShape, Path
from engine.targets import select_sites
from engine.tokenise import TokenisedRow

__all__ = ["OpenPath", "initial", "initial_adapter", "initial_bottleneck", "initial_full"]

# nn.Linear's own: uniform within +-1/sqrt(in_features).
KAIMING_SLOPE = math.sqrt(5)

# B0 A0 is taken out of the base again, so that the change has up to twice the rank: an adapter of that must be legal.
MAX_PISSA_RANK = MAX_LORA_RANK // 2

Factors = tuple[torch.Tensor, torch.Tensor]


@runtime_checkable
class OpenPath(Path, Protocol):
    """What a path shows besides, where it trains more than factors: biases, bottlenecks, every weight."""

    @property
    def bottleneck_sites(self) -> Sequence[tuple[str, int]]:
        """The attention and feed-forward blocks by transformers' module names, with the width of their output."""

    def biases(self, method: LoraMethod, targets: Sequence[str]) -> Mapping[str, torch.Tensor]:
        """The base's biases that a method trains when it adapts `targets`, by the names of PEFT's files."""

    def full_parameters(self) -> Mapping[str, torch.Tensor]:
        """The base's weights by transformers' parameter names, tied ones once."""


def initial(
    method: Method,
    path: Path,
    *,
    seed: int,
    base_model: FolderPath,
    rows: Sequence[TokenisedRow],
    precision: Precision = Precision.FP32,
) -> Adapter:
    """What a run begins with. base_model, rows and precision are EVA's, which loads the base once more.

    Raises BadData where the method does not fit the base, or the rows do not suffice for EVA; TypeError where the path
    shows less than the method trains.
    """
    match method:
        case FullMethod():
            return initial_full(_opened(path).full_parameters())
        case BottleneckMethod():
            return initial_bottleneck(method, _opened(path).bottleneck_sites, seed, path.device)
    directions: Mapping[str, torch.Tensor] = {}
    if method.init is LoraInit.EVA:
        eva = importlib.import_module("engine.inits.eva")
        directions = eva.input_directions(base_model, precision, rows, method, device=path.device)
    biases: Mapping[str, torch.Tensor] = {}
    if method.bias is not LoraBias.NONE:
        adapted = [site.linear for site in select_sites(path.linears, method)]
        biases = _opened(path).biases(method, adapted)
    return initial_adapter(path, method, seed, biases=biases, directions=directions)


def _opened(path: Path) -> OpenPath:
    if not isinstance(path, OpenPath):
        raise TypeError("this path trains factors only")
    return path


def initial_adapter(
    path: Path,
    method: LoraMethod,
    seed: int,
    *,
    biases: Mapping[str, torch.Tensor] | None = None,
    directions: Mapping[str, torch.Tensor] | None = None,
) -> Adapter:
    """A LoRA adapter at its beginning, on the path's device. The base with it computes what the bare base does.

    biases: those the method trains, by the names of PEFT's files.
    directions: EVA's A of every adapted layer, from `engine.inits.eva`. Raises BadData where the base has no layer of
    the method's, or a layer is too small for its rank.
    """
    sites, generator = select_sites(path.linears, method), torch.Generator().manual_seed(seed)
    initial: dict[str, torch.Tensor] = {}
    starts: dict[str, torch.Tensor] = {}
    for site in sites:
        a, b, magnitude = lora_names(site.linear)
        beginning = _Beginning(site, path.linears[site.linear], path, generator, directions or {})
        A_RI, B_OR = FACTORS[method.init](beginning)
        factors = {a: A_RI.to(path.device), b: B_OR.to(path.device)}
        initial |= factors
        if method.init is LoraInit.PISSA:
            starts |= factors
        if method.use_dora:
            # B A is zero, or B0 A0 is taken out of W and added again: V is W.
            initial[magnitude] = torch.linalg.vector_norm(path.weight(site.linear).float(), dim=1)
    initial |= biases or {}
    on_device = {name: tensor.to(path.device) for name, tensor in initial.items()}
    return Adapter(method, on_device, sites=sites, starts=starts)


@dataclass(frozen=True)
class _Beginning:
    """What the factors of one layer may be made from."""

    site: SiteShape
    shape: LinearShape
    path: Path
    generator: torch.Generator
    directions: Mapping[str, torch.Tensor]


def _kaiming(beginning: _Beginning) -> Factors:
    A_RI = nn.init.kaiming_uniform_(_empty_A(beginning), a=KAIMING_SLOPE, generator=beginning.generator)
    return A_RI, _zero_B(beginning)


def _gaussian(beginning: _Beginning) -> Factors:
    deviation = 1 / beginning.site.rank
    A_RI = nn.init.normal_(_empty_A(beginning), std=deviation, generator=beginning.generator)
    return A_RI, _zero_B(beginning)


def _pissa(beginning: _Beginning) -> Factors:
    """The product, scaled, is W's best approximation of that rank, its singular values shared between the factors."""
    site, shape = beginning.site, beginning.shape
    if site.rank > min(shape.out_features, shape.in_features, MAX_PISSA_RANK):
        raise BadData(f"PiSSA cannot take rank {site.rank} out of the layer {site.linear}.")
    W_OI = beginning.path.weight(site.linear).float()
    # LAPACK takes half the time for a tall matrix that it takes for the same one lying.
    tall = shape.out_features >= shape.in_features
    left, values, right = torch.linalg.svd(W_OI if tall else W_OI.T, full_matrices=False)
    roots_R = (values[: site.rank] / site.scale).sqrt()
    U_OR, V_IR = (left, right.T) if tall else (right.T, left)
    return (V_IR[:, : site.rank] * roots_R).T, U_OR[:, : site.rank] * roots_R


def _eva(beginning: _Beginning) -> Factors:
    return beginning.directions[beginning.site.linear], _zero_B(beginning)


def _empty_A(beginning: _Beginning) -> torch.Tensor:  # noqa: N802 - the matrix is called A
    return torch.empty(beginning.site.rank, beginning.shape.in_features)


def _zero_B(beginning: _Beginning) -> torch.Tensor:  # noqa: N802 - the matrix is called B
    return torch.zeros(beginning.shape.out_features, beginning.site.rank)


FACTORS: Mapping[LoraInit, Callable[[_Beginning], Factors]] = {
    LoraInit.KAIMING: _kaiming,
    LoraInit.GAUSSIAN: _gaussian,
    LoraInit.PISSA: _pissa,
    LoraInit.EVA: _eva,
}


def initial_full(parameters: Mapping[str, torch.Tensor]) -> Adapter:
    """Every weight of the base, trained: by transformers' parameter names, a tied weight under its first one."""
    return Adapter(FullMethod(), parameters)


def initial_bottleneck(
    method: BottleneckMethod, sites: Sequence[tuple[str, int]], seed: int, device: torch.device
) -> Adapter:
    """Bottlenecks that add nothing yet, behind modules of given names and widths H. Raises BadData without any."""
    if not sites:
        raise BadData("The base model has no blocks that this engine knows how to put bottlenecks behind.")
    generator = torch.Generator().manual_seed(seed)
    initial: dict[str, torch.Tensor] = {}
    for site, hidden in sites:
        down_WH = torch.empty(method.width, hidden)
        nn.init.kaiming_uniform_(down_WH, a=KAIMING_SLOPE, generator=generator)
        tensors = (down_WH, torch.zeros(method.width), torch.zeros(hidden, method.width), torch.zeros(hidden))
        named = zip(bottleneck_names(site), tensors, strict=True)
        initial |= {name: tensor.to(device) for name, tensor in named}
    return Adapter(method, initial)
