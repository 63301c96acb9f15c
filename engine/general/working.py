"""What a pass needs of each run's weights: copies in the base's number format, cast once, and where gradients go."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import nn

from domain.runs import BottleneckMethod, FullMethod, LoraMethod
from engine.adapter import PREFIX, Adapter, lora_names
from engine.general.adapted import AdaptedLinear, DoraFactors, Factors, LoraFactors
from engine.general.bottleneck import Bottleneck, bottleneck_names
from engine.stream import Part, derive_seed

# What PEFT puts before the name of a parameter of an adapted layer.
BASE_LAYER = ".base_layer"


class Leaf(NamedTuple):
    """A tensor of the pass that autograd gives a gradient, and the fp32 view it is added to afterwards."""

    tensor: torch.Tensor
    grad: torch.Tensor

    def collect(self) -> None:
        """Add what the pass brought; a tensor that took no part brought nothing."""
        if self.tensor.grad is not None:
            self.grad.add_(self.tensor.grad)


@dataclass
class Working:
    """The copies of all runs of a pass: by layer, by block, and by name of the network's parameter they stand for."""

    lora: dict[str, list[LoraFactors]] = field(default_factory=dict)
    dora: dict[str, list[DoraFactors]] = field(default_factory=dict)
    bottlenecks: dict[str, list[Bottleneck]] = field(default_factory=dict)
    replaced: dict[str, torch.Tensor] = field(default_factory=dict)
    leaves: list[Leaf] = field(default_factory=list)


def working_copies(
    parts: Sequence[Part],
    rows: Sequence[slice],
    linears: Mapping[str, AdaptedLinear],
    *,
    dtype: torch.dtype,
    training: bool,
) -> Working:
    """Cast every run's masters once. `rows` are the runs' places among the rows that layers see."""
    working = Working()
    for part, place in zip(parts, rows, strict=True):
        if part.adapter is None or not part.rows:
            continue
        copies = _Copies(part.adapter, dtype)
        match part.adapter.method:
            case LoraMethod():
                _add_lora(working, part, place, linears, copies=copies, training=training)
            case BottleneckMethod():
                _add_bottlenecks(working, place, copies)
            case FullMethod():
                for name in copies.values:
                    working.replaced[name] = copies.leaf(name, working)
    return working


class _Copies:
    def __init__(self, adapter: Adapter, dtype: torch.dtype) -> None:
        self.adapter, self.dtype = adapter, dtype
        flat_P = adapter.masters_P.detach().to(dtype)
        pieces = torch.split(flat_P, [shape.numel() for shape in adapter.shapes.values()])
        self.values = {
            name: piece.view(shape) for (name, shape), piece in zip(adapter.shapes.items(), pieces, strict=True)
        }

    def start(self, name: str) -> torch.Tensor | None:
        start = self.adapter.starts.get(name)
        return None if start is None else start.to(self.dtype)

    def leaf(self, name: str, working: Working, *, cast: bool = True) -> torch.Tensor:
        tensor = (self.values if cast else self.adapter.values)[name].detach().requires_grad_()
        working.leaves.append(Leaf(tensor, self.adapter.grads[name]))
        return tensor


def _add_lora(
    working: Working,
    part: Part,
    place: slice,
    linears: Mapping[str, AdaptedLinear],
    *,
    copies: _Copies,
    training: bool,
) -> None:
    adapter = copies.adapter
    dropout = adapter.method.dropout if training and isinstance(adapter.method, LoraMethod) else 0.0
    places = {name: number for number, name in enumerate(linears)}
    used = set()
    for site in adapter.sites:
        a, b, magnitude = lora_names(site.linear)
        used |= {a, b, magnitude}
        factors = Factors(
            rows=place,
            scale=site.scale,
            A_RI=copies.values[a],
            B_OR=copies.values[b],
            start_A_RI=copies.start(a),
            start_B_OR=copies.start(b),
            dropout=dropout,
            seed=derive_seed(part.seed, places[site.linear]) if dropout else 0,
        )
        if site.magnitude_O is None:
            lora = LoraFactors(**vars(factors), A_grad_RI=site.A_grad_RI, B_grad_OR=site.B_grad_OR)
            working.lora.setdefault(site.linear, []).append(lora)
        else:
            leaves = {"A_RI": copies.leaf(a, working), "B_OR": copies.leaf(b, working)}
            dora = DoraFactors(
                **(vars(factors) | leaves),
                magnitude_O=copies.leaf(magnitude, working, cast=False),
                norm_O=linears[site.linear].directions(factors),
            )
            working.dora.setdefault(site.linear, []).append(dora)
    for name in copies.values.keys() - used:
        working.replaced[parameter_name(name)] = copies.leaf(name, working)


def _add_bottlenecks(working: Working, place: slice, copies: _Copies) -> None:
    for site in dict.fromkeys(name.rpartition(".bottleneck.")[0] for name in copies.values):
        down, down_bias, up, up_bias = (copies.leaf(name, working) for name in bottleneck_names(site))
        working.bottlenecks.setdefault(site, []).append(Bottleneck(place, down, down_bias, up, up_bias))


def parameter_name(name: str) -> str:
    """The network's name of a trained bias, from PEFT's."""
    return name.removeprefix(PREFIX).replace(BASE_LAYER, "")


@contextmanager
def replacing(network: nn.Module, tensors: Mapping[str, torch.Tensor]) -> Iterator[None]:
    """Within it, tensors stand for the network's parameters of those names, wherever these are used (tied weights)."""
    wanted = {id(network.get_parameter(name)): tensor for name, tensor in tensors.items()}
    owners = [
        (module, name, parameter)
        for module in (network.modules() if wanted else ())
        for name, parameter in module.named_parameters(recurse=False, remove_duplicate=False)
        if id(parameter) in wanted
    ]
    # nn.Module refuses to set a plain tensor by attribute where a parameter stands.
    for module, name, parameter in owners:
        module._parameters[name] = wanted[id(parameter)]  # type: ignore[assignment]  # noqa: SLF001
    try:
        yield
    finally:
        for module, name, parameter in owners:
            module._parameters[name] = parameter  # noqa: SLF001
