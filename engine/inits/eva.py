"""EVA's start (Paischer et al. 2024, arXiv:2410.07170): A spans what the run's own rows bring to each layer.

The principal directions of the layers' inputs are found by peft's own routine, on a copy of the base under
transformers that is dropped again. Ranks are not redistributed between layers: a method's ranks are what it says.

Shapes: B rows, T tokens, R rank, I in_features.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from peft import EvaConfig, LoraConfig
from peft.tuners.lora.eva import get_eva_state_dict
from torch import nn
from transformers.pytorch_utils import Conv1D

from domain.plans import Precision
from domain.runs import LoraMethod
from engine.base_model import load_base_model
from engine.failures import BadData
from engine.targets import select_sites
from engine.tokenise import TokenisedRow

IGNORE = -100

# Tokens of one step of the incremental decomposition, padding left out.
BATCH_TOKENS = 1024

# peft's sketch of a batch has twice the rank; the batch and the layer must hold that many directions.
SKETCH = 2

# peft goes over the rows again and again until the directions stand still: real text takes some tens of batches.
MAX_BATCHES = 1000


def input_directions(
    base_model: Path, precision: Precision, rows: Sequence[TokenisedRow], method: LoraMethod, *, device: torch.device
) -> dict[str, torch.Tensor]:
    """A [R, I] for every layer the method adapts: the orthonormal directions in which its inputs vary most.

    Only supervised places count, as in peft. The rows are read in the order given until the directions stand still.
    Raises BadData where rows or layers are too few or too small for the rank.
    """
    network: Any = load_base_model(base_model, precision, device).network
    sites = select_sites(_linears(network), method)
    most = max(site.rank for site in sites)
    _check_width(network, [site.linear for site in sites], SKETCH * most)
    # peft reads the places with labels as whole batches, and would otherwise skip those with too few for ever.
    batches = [_padded(batch) for batch in _batches(rows, SKETCH * most)]
    # The largest rank everywhere: layers with the same input share a decomposition, whose rows come in falling order.
    settings: dict[str, Any] = {"target_modules": [site.linear for site in sites], "eva_config": EvaConfig(rho=1.0)}
    found = get_eva_state_dict(
        network,
        batches,
        LoraConfig(r=most, init_lora_weights="eva", **settings),
        forward_fn=_Forward(),
        gather_distributed_inputs=False,
        show_progress_bar=False,
    )
    return {site.linear: found[site.linear][: site.rank].float() for site in sites}


def _linears(network: Any) -> list[str]:
    head = network.get_output_embeddings()
    kinds = (nn.Linear, Conv1D)
    return [name for name, module in network.named_modules() if isinstance(module, kinds) and module is not head]


def _check_width(network: nn.Module, linears: Sequence[str], needed: int) -> None:
    for linear in linears:
        module: Any = network.get_submodule(linear)
        if (module.nx if isinstance(module, Conv1D) else module.in_features) < needed:
            raise BadData(f"EVA cannot find {needed // SKETCH} directions for the layer {linear}: it is too narrow.")


def _batches(rows: Sequence[TokenisedRow], needed: int) -> Iterator[list[TokenisedRow]]:
    """Rows in batches of about BATCH_TOKENS, each with at least `needed` supervised tokens; a short rest is left."""
    batch: list[TokenisedRow] = []
    found = False
    for row in rows:
        batch.append(row)
        full = sum(len(each.ids) for each in batch) >= BATCH_TOKENS
        if full and _supervised(batch) >= needed:
            found = True
            yield batch
            batch = []
    if _supervised(batch) >= needed:
        yield batch
    elif not found:
        raise BadData(f"EVA needs at least {needed} supervised tokens at this rank.")


def _supervised(batch: Sequence[TokenisedRow]) -> int:
    return sum(row.supervised_tokens for row in batch)


def _padded(batch: Sequence[TokenisedRow]) -> dict[str, torch.Tensor]:
    longest = max(len(row.ids) for row in batch)
    ids_BT = torch.zeros(len(batch), longest, dtype=torch.long)
    mask_BT = torch.zeros_like(ids_BT)
    labels_BT = torch.full_like(ids_BT, IGNORE)
    for place, row in enumerate(batch):
        length = len(row.ids)
        ids_BT[place, :length] = torch.tensor(row.ids)
        mask_BT[place, :length] = 1
        labels_BT[place, :length] = torch.where(torch.tensor(row.supervised), ids_BT[place, :length], IGNORE)
    return {"input_ids": ids_BT, "attention_mask": mask_BT, "labels": labels_BT}


class _Forward:
    """The body's forward pass: the head has no layer to look at. Ends a search that finds no end."""

    def __init__(self) -> None:
        self._batches = 0

    def __call__(self, network: Any, batch: dict[str, torch.Tensor]) -> None:
        self._batches += 1
        if self._batches > MAX_BATCHES:
            raise BadData("EVA finds no directions in these rows that stand still.")
        network.base_model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], use_cache=False)
