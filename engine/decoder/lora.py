"""The adapters of a pass: what they add to each group of linear layers, and their gradients.

A run's sites in one group are stacked, their A one above another and their B likewise in blocks beside zeros, so that
a run costs a group two thin products forward and four backward, whatever its ranks and targets.

Shapes: T tokens of the whole stream, t of one run, P parameters of a run, R ranks of all its sites in a group,
r of one site, I in_features, O out_features of the whole group.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch

from domain.runs import LoraBias, LoraMethod, Method
from engine.adapter import Adapter, LoraSite
from engine.decoder.kernels import Factors, ThinProducts
from engine.decoder.shape import LinearPlace
from engine.stream import Part, Segment, derive_seed


def handles(method: Method) -> bool:
    """Whether this path can train with a method: LoRA without DoRA and without trained biases."""
    return isinstance(method, LoraMethod) and not method.use_dora and method.bias is LoraBias.NONE


@dataclass(frozen=True)
class Dropout:
    """The masks of one site: the same whenever they are drawn again in a pass, and those of no other run."""

    share: float
    seed: int

    def applied(self, x_tI: torch.Tensor) -> torch.Tensor:
        """The numbers with a share of its numbers zero and the others scaled up, as nn.Dropout does."""
        generator = torch.Generator(x_tI.device).manual_seed(self.seed)
        kept_tI = torch.empty_like(x_tI).bernoulli_(1 - self.share, generator=generator)
        return x_tI * kept_tI.div_(1 - self.share)


@dataclass(frozen=True)
class Block:
    """One site's place in a stack: its rows among R, its columns among O."""

    site: LoraSite
    ranks: slice
    outputs: slice


@dataclass(frozen=True)
class Stack:
    """A run's sites of one group in one layer; the factors in the products' number format, B scaled.

    `blocks` are the trained ones. PiSSA's start has rows as well, which have no gradient. With dropout there is one
    stack a site, for each site has a mask of its own.
    """

    tokens: slice
    blocks: tuple[Block, ...]
    factors: Factors
    dropout: Dropout | None

    def dropped(self, x_tI: torch.Tensor) -> torch.Tensor:
        """An input, or a gradient of one, with the run's dropout."""
        return self.dropout.applied(x_tI) if self.dropout else x_tI


@dataclass
class Adapted:
    """All runs' stacks on one group. `thin` is what the forward pass leaves to the backward one: A x, then its d."""

    stacks: Sequence[Stack]
    products: ThinProducts
    thin: list[torch.Tensor] = field(default_factory=list)

    def forward(self, x_TI: torch.Tensor, y_TO: torch.Tensor) -> None:
        """Add to y what the adapters give for x."""
        for stack in self.stacks:
            x_tI = stack.dropped(x_TI[stack.tokens])
            self.thin.append(self.products.forward(x_tI, stack.factors, y_TO[stack.tokens]))

    def backward(self, dy_TO: torch.Tensor, dx_TI: torch.Tensor | None) -> None:
        """Add the gradients of B to the adapters', and to dx what goes through them."""
        for number, stack in enumerate(self.stacks):
            dx_tI = None if dx_TI is None else dx_TI[stack.tokens]
            through_tI = torch.zeros_like(dx_tI) if dx_tI is not None and stack.dropout else dx_tI
            gradient_RO, self.thin[number] = self.products.backward(
                dy_TO[stack.tokens], stack.factors, self.thin[number], dx_tI=through_tI
            )
            if dx_tI is not None and through_tI is not None and stack.dropout:
                dx_tI += stack.dropped(through_tI)
            for block in stack.blocks:
                of_block = gradient_RO[block.ranks, block.outputs].t()
                block.site.B_grad_OR.add_(of_block, alpha=block.site.scale)

    def finish(self, x_TI: torch.Tensor) -> None:
        """Add the gradients of A to the adapters'. Apart, for x is made again only after its gradient is known."""
        for stack, dthin in zip(self.stacks, self.thin, strict=True):
            gradient_RI = self.products.finish(stack.dropped(x_TI[stack.tokens]), dthin, len(stack.factors.A_RI))
            for block in stack.blocks:
                block.site.A_grad_RI.add_(gradient_RI[block.ranks])
        self.thin = []


class Adapters:
    """The adapters of all parts of a pass, by layer and group. `lowest_layer` is the first that has any."""

    def __init__(
        self,
        parts: Sequence[Part],
        segments: Sequence[Segment],
        places: Mapping[str, LinearPlace],
        products: ThinProducts,
        *,
        dtype: torch.dtype,
        training: bool,
    ) -> None:
        """Cast every master once. Raises ValueError for a method this path does not handle."""
        self._stacks: dict[tuple[int, str], list[Stack]] = {}
        self._products = products
        for part, segment in zip(parts, segments, strict=True):
            if part.adapter is not None and segment.begin < segment.end:
                builder = _Builder(part.adapter, segment, places, dtype, seed=part.seed if training else None)
                for key, stacks in builder.stacks().items():
                    self._stacks.setdefault(key, []).extend(stacks)
        self.lowest_layer = min((layer for layer, _ in self._stacks), default=None)

    def on(self, layer: int, group: str) -> Adapted:
        """Those on one group of linear layers, before their forward pass."""
        return Adapted(self._stacks.get((layer, group), ()), self._products)


class _Builder:
    """Stacks the sites of one run."""

    def __init__(
        self,
        adapter: Adapter,
        segment: Segment,
        places: Mapping[str, LinearPlace],
        dtype: torch.dtype,
        *,
        seed: int | None,
    ) -> None:
        if not isinstance(adapter.method, LoraMethod) or not handles(adapter.method):
            raise ValueError(f"the fast path cannot compute {adapter.method!r}")
        self._adapter, self._places = adapter, places
        self._tokens = slice(segment.begin, segment.end)
        self._low_P = adapter.masters_P.detach().to(dtype)
        self._seed, self._dropout = seed, adapter.method.dropout

    def stacks(self) -> dict[tuple[int, str], list[Stack]]:
        """By layer and group."""
        groups: dict[tuple[int, str], list[tuple[int, LoraSite]]] = {}
        for number, site in enumerate(self._adapter.sites):
            place = self._places[site.linear]
            groups.setdefault((place.layer, place.group), []).append((number, site))
        if self._seed is None or not self._dropout:
            return {key: [self._stack([site for _, site in sites], None)] for key, sites in groups.items()}
        return {
            key: [
                self._stack([site], Dropout(self._dropout, derive_seed(self._seed, number))) for number, site in sites
            ]
            for key, sites in groups.items()
        }

    def _stack(self, sites: Sequence[LoraSite], dropout: Dropout | None) -> Stack:
        rows_RI = [self._low(site.A_RI) for site in sites]
        columns_rO = [(site, site.B_OR.t() * site.scale) for site in sites]
        for site in sites:
            if site.start_A_RI is not None and site.start_B_OR is not None:
                rows_RI.append(site.start_A_RI.to(self._low_P.dtype))
                columns_rO.append((site, site.start_B_OR.t() * -site.scale))
        A_RI = rows_RI[0] if len(rows_RI) == 1 else torch.cat(rows_RI)
        B_RO = self._low_P.new_zeros(len(A_RI), self._places[sites[0].linear].group_out_features)
        blocks: list[Block] = []
        first = 0
        for site, scaled_rO in columns_rO:
            block = Block(site, slice(first, first + len(scaled_rO)), self._places[site.linear].outputs)
            B_RO[block.ranks, block.outputs] = scaled_rO
            blocks.append(block)
            first = block.ranks.stop
        factors = Factors.of_blocks(A_RI, B_RO, [(block.ranks, block.outputs) for block in blocks])
        return Stack(self._tokens, tuple(blocks[: len(sites)]), factors, dropout)

    def _low(self, master: torch.Tensor) -> torch.Tensor:
        begin = master.storage_offset() - self._adapter.masters_P.storage_offset()
        return self._low_P[begin : begin + master.numel()].view(master.shape)
