"""Linear layers that several runs adapt at once, each on its own rows of the stream.

Shapes: T rows of the whole stream, n rows of one run, I in_features, O out_features, R rank.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any

import torch
from torch import nn
from torch.nn import functional
from transformers.pytorch_utils import Conv1D

from engine.path import LinearShape

# Of bitsandbytes' parameters.
QUANTISED = {"Params4bit", "Int8Params"}
QUANTISED_LAYERS = {"Linear4bit", "Linear8bitLt"}

# Low precision may add a bias before or after rounding.
LINEAR_TOLERANCE = 0.02


@dataclass(frozen=True)
class Factors:
    """What one run adds to one linear layer on its rows: scale * B (A x), in the pass's number format.

    The same product of `start_A` and `start_B`, where they stand, is taken off. `seed` is that of dropout's mask on x.
    """

    rows: slice
    scale: float
    A_RI: torch.Tensor
    B_OR: torch.Tensor
    start_A_RI: torch.Tensor | None
    start_B_OR: torch.Tensor | None
    dropout: float
    seed: int

    def mask(self, x_nI: torch.Tensor) -> torch.Tensor | None:
        """Which entries of x dropout keeps, the same whenever it is asked; None keeps all."""
        if not self.dropout:
            return None
        random = torch.Generator(x_nI.device).manual_seed(self.seed)
        keep_nI = torch.empty(x_nI.shape, dtype=torch.bool, device=x_nI.device)
        return keep_nI.bernoulli_(1 - self.dropout, generator=random)

    def dropped(self, x_nI: torch.Tensor, keep_nI: torch.Tensor | None) -> torch.Tensor:
        """What dropout leaves of x, or of the gradient of its result."""
        return x_nI if keep_nI is None else x_nI * keep_nI * (1 / (1 - self.dropout))

    def started(self, x_nI: torch.Tensor) -> torch.Tensor | None:
        """The start's product, scaled."""
        if self.start_A_RI is None or self.start_B_OR is None:
            return None
        return (x_nI @ self.start_A_RI.t() * self.scale) @ self.start_B_OR.t()


@dataclass(frozen=True)
class LoraFactors(Factors):
    """LoRA's, with the adapter's own fp32 gradients, which the backward pass adds to."""

    A_grad_RI: torch.Tensor
    B_grad_OR: torch.Tensor


@dataclass(frozen=True)
class DoraFactors(Factors):
    """DoRA's: its A_RI, B_OR and magnitude_O are leaves of autograd.

    norm_O holds the lengths of the rows of W + scale B A, through which no gradient flows (section 4.3 of the paper).
    Both vectors are fp32: their ratio differs from 1 by less than a low-precision number could say.
    """

    magnitude_O: torch.Tensor
    norm_O: torch.Tensor


@dataclass
class Adapting:
    """What the adapted layers read during a pass: the factors of every run that adapts a layer, by the layer's name.

    anchor requires a gradient: without it, autograd would leave out the layers whose input needs none.
    """

    lora: Mapping[str, list[LoraFactors]] = field(default_factory=dict)
    dora: Mapping[str, list[DoraFactors]] = field(default_factory=dict)
    anchor: torch.Tensor = field(default_factory=lambda: torch.zeros(()))


class AdaptedLinear(nn.Module):
    """Stands where a linear layer stood, with the same parameters under the same names."""

    def __init__(self, linear: nn.Module, name: str, adapting: Adapting) -> None:
        super().__init__()
        self.weight: Any = linear.weight
        self.bias: Any = getattr(linear, "bias", None)
        self.name, self.adapting = name, adapting
        self.shape = _shape(linear)
        # What bitsandbytes keeps beside an 8-bit weight, and transformers' way to undo it: it imports bitsandbytes,
        # which takes seconds, so that nobody but a quantised base waits for it.
        self.quantisation_state: Any = getattr(linear, "state", None)
        self.dequantise: Any = (
            import_module("transformers.integrations.bitsandbytes").dequantize_bnb_weight if self.quantised else None
        )

    @property
    def quantised(self) -> bool:
        """Whether bitsandbytes keeps the weight."""
        return type(self.weight).__name__ in QUANTISED

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """The base's product over all rows, and every run's addition on its own."""
        x_TI = x.reshape(-1, self.shape.in_features)
        if self.weight.requires_grad:
            y_TO = functional.linear(x_TI, self.dense_weight(x.dtype))
        else:
            y_TO = _product(x_TI, self.adapting.anchor, self, self.adapting.lora.get(self.name, ()))
        if dora := self.adapting.dora.get(self.name):
            y_TO = self._directed(x_TI, y_TO, dora)
        if self.bias is not None:
            y_TO = y_TO + self.bias
        return y_TO.view(*x.shape[:-1], self.shape.out_features)

    def dense_weight(self, dtype: torch.dtype) -> torch.Tensor:
        """The weight in a number format, [O, I]: a view where it has it already, else a copy."""
        weight: Any = self.weight
        if self.quantised:
            weight = self.dequantise(weight, self.quantisation_state)
        dense: torch.Tensor = weight.to(dtype)
        return dense.t() if self.shape.fan_in_fan_out else dense

    def directions(self, factors: Factors) -> torch.Tensor:
        """The lengths of the rows of W + scale B A, less the start; [O] in fp32."""
        with torch.no_grad():
            weight_OI = self.dense_weight(torch.float32)
            # Not in place: the weight may be the base's own.
            weight_OI = torch.addmm(weight_OI, factors.B_OR.float(), factors.A_RI.float(), alpha=factors.scale)
            if factors.start_A_RI is not None and factors.start_B_OR is not None:
                weight_OI.addmm_(factors.start_B_OR.float(), factors.start_A_RI.float(), alpha=-factors.scale)
            norm_O: torch.Tensor = weight_OI.norm(dim=1)
            return norm_O

    def _directed(self, x_TI: torch.Tensor, y_TO: torch.Tensor, dora: list[DoraFactors]) -> torch.Tensor:
        """DoRA's runs, as peft computes them. Dropout acts on the input of W as well as on that of A."""
        pieces: list[torch.Tensor] = []
        end = 0
        for factors in dora:
            x_nI, base_nO = x_TI[factors.rows], y_TO[factors.rows]
            keep_nI = factors.mask(x_nI)
            dropped_nI = factors.dropped(x_nI, keep_nI)
            if (start_nO := factors.started(x_nI)) is not None:
                base_nO = base_nO - start_nO
            through_nO = base_nO
            if keep_nI is not None:
                through_nO = _product(dropped_nI, self.adapting.anchor, self, ())
                if (start_nO := factors.started(dropped_nI)) is not None:
                    through_nO = through_nO - start_nO
            update_nO = (dropped_nI @ factors.A_RI.t() * factors.scale) @ factors.B_OR.t()
            share_O = factors.magnitude_O / factors.norm_O
            pieces += [
                y_TO[end : factors.rows.start],
                base_nO + (share_O - 1).to(x_TI.dtype) * through_nO + share_O.to(x_TI.dtype) * update_nO,
            ]
            end = factors.rows.start + len(x_nI)
        return torch.cat([*pieces, y_TO[end:]])


class _Product(torch.autograd.Function):
    """W x over all rows, plus scale B (A x) of every run of LoRA on its own rows.

    One function, so that both parts of a gradient meet in one buffer, and a quantised weight is not kept in full.
    """

    @staticmethod
    def forward(
        ctx: Any, x_TI: torch.Tensor, _anchor: torch.Tensor, linear: AdaptedLinear, runs: list[LoraFactors]
    ) -> torch.Tensor:
        y_TO = x_TI @ linear.dense_weight(x_TI.dtype).t()
        kept: list[torch.Tensor | None] = []
        for factors in runs:
            x_nI, y_nO = x_TI[factors.rows], y_TO[factors.rows]
            keep_nI = factors.mask(x_nI)
            inner_nR = (factors.dropped(x_nI, keep_nI) @ factors.A_RI.t()).mul_(factors.scale)
            y_nO.addmm_(inner_nR, factors.B_OR.t())
            if (start_nO := factors.started(x_nI)) is not None:
                y_nO.sub_(start_nO)
            kept += [inner_nR, keep_nI]
        ctx.save_for_backward(x_TI if runs else None, *kept)
        ctx.linear, ctx.runs = linear, runs
        return y_TO

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> Any:
        (dy_TO,) = grads
        x_TI, *kept = ctx.saved_tensors
        wanted = ctx.needs_input_grad[0]
        dx_TI = dy_TO @ ctx.linear.dense_weight(dy_TO.dtype) if wanted else None
        for factors, inner_nR, keep_nI in zip(ctx.runs, kept[::2], kept[1::2], strict=True):
            dy_nO = dy_TO[factors.rows]
            factors.B_grad_OR.add_(dy_nO.t() @ inner_nR)
            d_inner_nR = (dy_nO @ factors.B_OR).mul_(factors.scale)
            factors.A_grad_RI.add_(d_inner_nR.t() @ factors.dropped(x_TI[factors.rows], keep_nI))
            if dx_TI is None:
                continue
            if keep_nI is None:
                dx_TI[factors.rows].addmm_(d_inner_nR, factors.A_RI)
            else:
                dx_TI[factors.rows].add_(factors.dropped(d_inner_nR @ factors.A_RI, keep_nI))
            if factors.start_A_RI is not None:
                d_start_nR = (dy_nO @ factors.start_B_OR).mul_(factors.scale)
                dx_TI[factors.rows].sub_(d_start_nR @ factors.start_A_RI)
        return dx_TI, None, None, None


_product: Any = _Product.apply


def is_linear(module: nn.Module) -> bool:
    """Whether LoRA may adapt it. A model's own kind of linear layer is tried: routers compute something else."""
    if type(module) in {nn.Linear, Conv1D} or type(module).__name__ in QUANTISED_LAYERS:
        return True
    return isinstance(module, nn.Linear) and _is_plain_product(module)


def _is_plain_product(linear: nn.Linear) -> bool:
    x_TI = torch.linspace(-1, 1, 2 * linear.in_features).view(2, -1).to(linear.weight)
    with torch.no_grad():
        found: Any = linear(x_TI)
        expected_TO = functional.linear(x_TI, linear.weight, linear.bias)
    alike = isinstance(found, torch.Tensor) and found.shape == expected_TO.shape
    return alike and torch.allclose(found, expected_TO, rtol=LINEAR_TOLERANCE, atol=LINEAR_TOLERANCE)


def _shape(linear: nn.Module) -> LinearShape:
    if isinstance(linear, Conv1D):
        return LinearShape(linear.nf, linear.nx, fan_in_fan_out=True)
    return LinearShape(int(linear.out_features), int(linear.in_features))  # type: ignore[arg-type]
