"""One run's trainable weights: fp32 masters in one flat tensor, their gradients in another, and views of both by name.

The names are those of PEFT's files. A path reads the views and adds to the gradients; the optimiser, clipping, the
all-reduce and checkpoints see one flat tensor and need not know what a method is.

Shapes: P trainable parameters, R rank, I in_features, O out_features.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import nn

from domain.runs import Method

PREFIX = "base_model.model."


@dataclass(frozen=True)
class LoraSite:
    """One adapted linear layer: y += scale * B (A x), less the same of `start_A`, `start_B` where there are such.

    Where a start stands, the adapter learns the change from it (PiSSA): W - scale B0 A0 + scale B A, so that the base
    stays what it is for every other run. magnitude_O is DoRA's, bias_O the trained bias, each with its gradient.
    """

    linear: str
    rank: int
    scale: float
    A_RI: torch.Tensor
    B_OR: torch.Tensor
    A_grad_RI: torch.Tensor
    B_grad_OR: torch.Tensor
    start_A_RI: torch.Tensor | None = None
    start_B_OR: torch.Tensor | None = None
    magnitude_O: torch.Tensor | None = None
    magnitude_grad_O: torch.Tensor | None = None


@dataclass(frozen=True)
class SiteShape:
    """Rank and scale of one adapted layer, before there are weights."""

    linear: str
    rank: int
    scale: float


class Adapter:
    """The weights of one run.

    `masters_P` is the one parameter an optimiser gets; `values` and `grads` are views of it and of its gradient, by
    the names PEFT's files use. `sites` is empty for methods other than LoRA.
    """

    def __init__(
        self,
        method: Method,
        initial: Mapping[str, torch.Tensor],
        *,
        sites: tuple[SiteShape, ...] = (),
        starts: Mapping[str, torch.Tensor] | None = None,
    ) -> None:
        """Take copies of `initial`, in its order. `starts`: PiSSA's A0 and B0 by the names of A and B."""
        self.method = method
        self.shapes = {name: tensor.shape for name, tensor in initial.items()}
        flat_P = torch.cat([tensor.detach().float().reshape(-1) for tensor in initial.values()])
        self.masters_P = nn.Parameter(flat_P)
        self.grad_P = self.masters_P.grad = torch.zeros_like(flat_P)
        self.values = self._views(self.masters_P.data)
        self.grads = self._views(self.grad_P)
        self.starts = {name: _copy(tensor) for name, tensor in (starts or {}).items()}
        self.sites = tuple(self._site(shape) for shape in sites)

    def _views(self, flat_P: torch.Tensor) -> dict[str, torch.Tensor]:
        parts = torch.split(flat_P, [shape.numel() for shape in self.shapes.values()])
        return {name: part.view(shape) for (name, shape), part in zip(self.shapes.items(), parts, strict=True)}

    def _site(self, shape: SiteShape) -> LoraSite:
        a, b, magnitude = lora_names(shape.linear)
        return LoraSite(
            linear=shape.linear,
            rank=shape.rank,
            scale=shape.scale,
            A_RI=self.values[a],
            B_OR=self.values[b],
            A_grad_RI=self.grads[a],
            B_grad_OR=self.grads[b],
            start_A_RI=self.starts.get(a),
            start_B_OR=self.starts.get(b),
            magnitude_O=self.values.get(magnitude),
            magnitude_grad_O=self.grads.get(magnitude),
        )

    def begun_from(self, method: Method, starts: Mapping[str, torch.Tensor]) -> "Adapter":
        """The same weights as of another method, or with another start, but of the same shapes."""
        sites = tuple(SiteShape(site.linear, site.rank, site.scale) for site in self.sites)
        on_device = {name: tensor.to(self.masters_P.device) for name, tensor in starts.items()}
        return Adapter(method, self.values, sites=sites, starts=on_device)

    @property
    def parameters(self) -> int:
        """P."""
        return self.masters_P.numel()

    def forget_gradient(self) -> None:
        """Begin the next step's sum."""
        self.grad_P.zero_()

    def weights(self) -> dict[str, torch.Tensor]:
        """Copies of the masters by name, on the CPU."""
        return {name: value.to("cpu", copy=True).contiguous() for name, value in self.values.items()}

    def load_weights(self, weights: Mapping[str, torch.Tensor]) -> None:
        """Set every master. Raises ValueError where names or shapes differ."""
        if {name: tensor.shape for name, tensor in weights.items()} != self.shapes:
            raise ValueError("the tensors are not this adapter's")
        for name, tensor in weights.items():
            self.values[name].copy_(tensor)


def _copy(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.detach().to(torch.float32, copy=True, memory_format=torch.contiguous_format)


def lora_names(linear: str) -> tuple[str, str, str]:
    """The names of a layer's A, B and magnitude in PEFT's files."""
    name = PREFIX + linear
    return f"{name}.lora_A.weight", f"{name}.lora_B.weight", f"{name}.lora_magnitude_vector"
