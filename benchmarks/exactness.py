"""How near our gradients are to peft's autograd, and a run's in company to the same run alone. In fp32."""

import argparse
from pathlib import Path

import torch
from peft import get_peft_model
from torch.nn import functional
from transformers import AutoModelForCausalLM

from benchmarks import settings
from benchmarks.ours import begin, open_path
from benchmarks.peers import lora
from benchmarks.reports import Exactness, write
from domain.plans import Device, PathChoice, Precision
from engine.adapter import Adapter
from engine.rows import load_chat, read_and_tokenise
from engine.stream import Part
from engine.tokenise import TokenisedRow

ROWS = 8
# B begins at zero, where A has no gradient: it is set to numbers of this size.
B_SIZE = 0.02


def main() -> None:
    """Compare on the first rows."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.exactness")
    parser.add_argument("--base-model", required=True, type=Path)
    parser.add_argument("--rows", required=True, type=Path)
    parser.add_argument("--out", required=True, type=Path)
    options = parser.parse_args()
    torch.manual_seed(settings.SEED)
    tokenised = [row for _, row in read_and_tokenise(options.rows, load_chat(options.base_model))]
    rows, company = tokenised[:ROWS], tokenised[ROWS : 2 * ROWS]
    found = {}
    for choice in (PathChoice.FAST, PathChoice.GENERAL):
        path = open_path(options.base_model, Device.CPU, Precision.FP32, choice)
        adapter, other = (begin(path, options.base_model, seed).adapter for seed in (1, 2))
        for each in (adapter, other):
            _fill(each)
        part = Part(adapter, rows, scale=1.0 / sum(row.supervised_tokens for row in rows))
        alone = path.gradients([part]).sums[0].loss * part.scale
        gradient_P = adapter.grad_P.clone()
        adapter.forget_gradient()
        path.gradients([Part(other, company), part])
        found[choice] = (alone, gradient_P, float((adapter.grad_P - gradient_P).abs().max()))
    loss, theirs_P = _by_peft(options.base_model, adapter, rows)
    fast, general = found[PathChoice.FAST], found[PathChoice.GENERAL]
    exactness = Exactness(
        largest_gradient=float(theirs_P.abs().max()),
        fast_from_peft=float((fast[1] - theirs_P).abs().max()),
        general_from_peft=float((general[1] - theirs_P).abs().max()),
        beside_company=fast[2],
        loss_from_peft=abs(fast[0] - loss),
    )
    write(exactness, options.out / "exactness.json")


def _fill(adapter: Adapter) -> None:
    generator = torch.Generator().manual_seed(settings.SEED)
    for name, value in adapter.values.items():
        if ".lora_B." in name:
            value.copy_(torch.randn(value.shape, generator=generator) * B_SIZE)


def _by_peft(base_model: Path, adapter: Adapter, rows: list[TokenisedRow]) -> tuple[float, torch.Tensor]:
    """The mean loss and its gradient by the same weights in peft's layers, one padded row after another."""
    network = AutoModelForCausalLM.from_pretrained(base_model, dtype=torch.float32, local_files_only=True)
    adapted = get_peft_model(network, lora())
    parameters = {name.replace(".default.", "."): weight for name, weight in adapted.named_parameters()}
    for name, value in adapter.values.items():
        parameters[name].data.copy_(value)
    supervised = sum(row.supervised_tokens for row in rows)
    total = 0.0
    for row in rows:
        ids = torch.tensor([row.ids])
        logits_TV = adapted(input_ids=ids, use_cache=False).logits[0].float()
        places = torch.tensor([place for place, wanted in enumerate(row.supervised) if wanted])
        loss = functional.cross_entropy(logits_TV[places - 1], ids[0][places], reduction="sum") / supervised
        torch.autograd.backward(loss)
        total += loss.item()
    gradients = [parameters[name].grad for name in adapter.values]
    return total, torch.cat([gradient.reshape(-1) for gradient in gradients if gradient is not None])


if __name__ == "__main__":
    main()
