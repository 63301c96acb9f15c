"""Bottleneck adapters behind attention and feed-forward blocks (Houlsby et al. 2019, arXiv:1902.00751).

Shapes: T rows of the stream, n rows of one run, D the base's width, W the bottleneck's.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.nn import functional

# What transformers calls the two blocks of a decoder layer, in the models this is tested with.
ATTENTION_NAMES = ("self_attn", "attn", "attention", "self_attention")
FEED_FORWARD_NAMES = ("mlp", "feed_forward", "block_sparse_moe")


class BottleneckSite(NamedTuple):
    """A block with a bottleneck behind it, before the residual addition. `name` is the block's module name."""

    name: str
    width: int


@dataclass(frozen=True)
class Bottleneck:
    """One run's network behind one block: h + up(gelu(down(h))) on its rows."""

    rows: slice
    down_WD: torch.Tensor
    down_bias_W: torch.Tensor
    up_DW: torch.Tensor
    up_bias_D: torch.Tensor

    def __call__(self, hidden_nD: torch.Tensor) -> torch.Tensor:
        """Of the run's rows alone."""
        inner_nW = functional.gelu(functional.linear(hidden_nD, self.down_WD, self.down_bias_W))
        return hidden_nD + functional.linear(inner_nW, self.up_DW, self.up_bias_D)


@dataclass
class Bottlenecks:
    """What the blocks read during a pass: every run's network behind them, by the block's name."""

    by_site: Mapping[str, list[Bottleneck]] = field(default_factory=dict)


def bottleneck_names(site: str) -> tuple[str, str, str, str]:
    """The names of a site's values: down [W, D] and its bias [W], up [D, W] and its bias [D]."""
    name = f"{site}.bottleneck"
    return f"{name}.down.weight", f"{name}.down.bias", f"{name}.up.weight", f"{name}.up.bias"


def find_sites(layers: Mapping[str, nn.Module], width: int) -> tuple[BottleneckSite, ...]:
    """Both blocks of every decoder layer, in order; none where a layer has no such two blocks."""
    sites = []
    for layer_name, layer in layers.items():
        children = dict(layer.named_children())
        for names in (ATTENTION_NAMES, FEED_FORWARD_NAMES):
            found = [name for name in names if name in children]
            if not found:
                return ()
            sites.append(BottleneckSite(f"{layer_name}.{found[0]}", width))
    return tuple(sites)


def install(network: nn.Module, sites: tuple[BottleneckSite, ...], bottlenecks: Bottlenecks) -> None:
    """Let every site's output pass through the bottlenecks of the pass."""
    for site in sites:

        def adapt(_: nn.Module, _inputs: Any, output: Any, name: str = site.name) -> Any:
            runs = bottlenecks.by_site.get(name)
            if not runs:
                return output
            hidden, *others = output if isinstance(output, tuple) else (output,)
            hidden = _adapted(hidden, runs)
            return (hidden, *others) if isinstance(output, tuple) else hidden

        network.get_submodule(site.name).register_forward_hook(adapt)


def _adapted(hidden: torch.Tensor, runs: list[Bottleneck]) -> torch.Tensor:
    hidden_TD = hidden.reshape(-1, hidden.shape[-1])
    pieces: list[torch.Tensor] = []
    end = 0
    for bottleneck in runs:
        adapted_nD = bottleneck(hidden_TD[bottleneck.rows])
        pieces += [hidden_TD[end : bottleneck.rows.start], adapted_nD]
        end = bottleneck.rows.start + len(adapted_nD)
    return torch.cat([*pieces, hidden_TD[end:]]).view(hidden.shape)
