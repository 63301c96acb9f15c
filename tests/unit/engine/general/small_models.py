"""Random models of many architectures, rows for them, and the same runs by peft: what the general path is held to."""

import copy
import warnings
from collections.abc import Sequence
from typing import Any

import peft
import torch
import transformers
from torch.nn import functional

from domain.runs import LoraMethod
from engine.adapter import Adapter, SiteShape
from engine.general.path import GeneralPath
from engine.stream import Part
from engine.tokenise import TokenisedRow

CPU = torch.device("cpu")
VOCABULARY = 97
WINDOW = 6

SIZES: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
HEAD = {"head_dim": 8}

CONFIGS: dict[str, Any] = {
    "llama": transformers.LlamaConfig(**SIZES),
    "qwen3": transformers.Qwen3Config(**SIZES, **HEAD),
    "mistral": transformers.MistralConfig(**SIZES, sliding_window=WINDOW),
    "gemma2": transformers.Gemma2Config(
        **SIZES,
        **HEAD,
        sliding_window=WINDOW,
        attn_logit_softcapping=2.0,
        final_logit_softcapping=3.0,
        layer_types=["sliding_attention", "full_attention"],
    ),
    "phi": transformers.PhiConfig(**SIZES),
    "gpt2": transformers.GPT2Config(
        vocab_size=VOCABULARY, n_embd=32, n_layer=2, n_head=4, bos_token_id=1, eos_token_id=2
    ),
    "qwen3_moe": transformers.Qwen3MoeConfig(
        **SIZES, **HEAD, num_experts=4, num_experts_per_tok=2, moe_intermediate_size=16
    ),
    "gpt_oss": transformers.GptOssConfig(
        **SIZES,
        **HEAD,
        num_local_experts=4,
        num_experts_per_tok=2,
        sliding_window=WINDOW,
        layer_types=["sliding_attention", "full_attention"],
    ),
}


def random_network(config: Any, *, seed: int = 0) -> Any:
    """Weights wide enough for logits that differ, biases and norms that are not zeros and ones."""
    torch.manual_seed(seed)
    # A copy, because a network's configuration remembers which attention it was set to.
    network = transformers.AutoModelForCausalLM.from_config(copy.deepcopy(config), dtype=torch.float32).eval()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(torch.randn_like(parameter) * (0.1 if parameter.dim() < 2 else 0.15))
    return network.requires_grad_(requires_grad=False)


def rows(seed: int, lengths: Sequence[int] = (5, 23, 9, 14)) -> list[TokenisedRow]:
    """Rows of random tokens; the second half of each is supervised."""
    random = torch.Generator().manual_seed(seed)
    return [
        TokenisedRow(
            line,
            tuple(torch.randint(0, VOCABULARY, (length,), generator=random).tolist()),
            tuple(place >= length // 2 for place in range(length)),
        )
        for line, length in enumerate(lengths, start=1)
    ]


class Twins:
    """One run twice on the same base: by the general path, and by peft with autograd."""

    def __init__(self, config: Any, method: LoraMethod, *, path: GeneralPath | None = None, seed: int = 1) -> None:
        network = random_network(config)
        self.path = path or GeneralPath(copy.deepcopy(network), CPU)
        fan_in_fan_out = any(shape.fan_in_fan_out for shape in self.path.linears.values())
        configuration = peft.LoraConfig(
            r=method.lora_rank,
            lora_alpha=method.alpha,
            lora_dropout=method.dropout,
            use_rslora=method.use_rslora,
            use_dora=method.use_dora,
            bias=method.bias.value,
            rank_pattern=dict(method.rank_pattern),
            alpha_pattern=dict(method.alpha_pattern),
            target_modules=method.target_modules
            if isinstance(method.target_modules, str)
            else [*method.target_modules],
            fan_in_fan_out=fan_in_fan_out,
        )
        with warnings.catch_warnings():
            # peft asks transformers for an attribute by its old name, and has patterns ready for experts it leaves out.
            warnings.simplefilter("ignore", FutureWarning)
            warnings.simplefilter("ignore", RuntimeWarning)
            self.peft: Any = peft.get_peft_model(network, configuration).eval()
        random = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for parameter in self.trained.values():
                parameter.add_(torch.randn(parameter.shape, generator=random) * 0.1)
        layers = {
            name.removeprefix("base_model.model."): layer
            for name, layer in self.peft.named_modules()
            if isinstance(layer, peft.tuners.lora.LoraLayer)
        }
        self.adapter = Adapter(
            method,
            self.trained,
            sites=tuple(
                SiteShape(name, layer.r["default"], layer.scaling["default"]) for name, layer in layers.items()
            ),
        )

    @property
    def trained(self) -> dict[str, torch.Tensor]:
        """peft's parameters by the names of its files."""
        return {
            name.replace(".default", "").replace("magnitude_vector.weight", "magnitude_vector"): parameter
            for name, parameter in self.peft.named_parameters()
            if parameter.requires_grad
        }

    def peft_backward(self, documents: Sequence[TokenisedRow], scale: float) -> float:
        """Every row by itself; returns the summed loss."""
        total = sum(row_loss(self.peft, row) for row in documents)
        (total * scale).backward()
        return float(total.detach())

    def worst_gradient(self) -> float:
        """The largest difference of a gradient's entry, as a share of that gradient's largest entry."""
        return max(
            float((self.adapter.grads[name] - parameter.grad).abs().max() / parameter.grad.abs().max())
            for name, parameter in self.trained.items()
            if parameter.grad is not None
        )


def row_loss(network: Any, row: TokenisedRow) -> Any:
    """The summed loss of a row's supervised tokens, in nats."""
    logits = network(input_ids=torch.tensor([row.ids]), use_cache=False).logits[0].float()
    wanted = torch.tensor(row.supervised)[1:]
    return functional.cross_entropy(logits[:-1][wanted], torch.tensor(row.ids)[1:][wanted], reduction="sum")


def gradients_of(path: GeneralPath, adapter: Adapter, documents: Sequence[TokenisedRow], **part: Any) -> torch.Tensor:
    """A copy of the flat gradient of one pass."""
    adapter.forget_gradient()
    path.gradients([Part(adapter, documents, **part)])
    return adapter.grad_P.clone()
