"""A base model of a few thousand weights, and plans for it: to try the engine in a second, and for its tests."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from domain.plans import Compute, Device, Precision, RunPlan, TrainPlan
from domain.runs import LoraMethod, Optimiser, RunData, RunSpec

SPECIAL_TOKENS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
VOCABULARY = 320
WIDTH, INNER_WIDTH, LAYERS, HEADS, KEY_HEADS = 64, 96, 2, 4, 2

# ChatML with a default system prompt, as SmolLM2's.
CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{% if loop.first and message['role'] != 'system' %}{{ '<|im_start|>system\nBe brief.<|im_end|>\n' }}{% endif %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)

WORDS = ("red", "green", "blue", "apple", "leaf", "sky", "warm", "cold", "what colour is", "tell me about")

NO_DIGEST = "sha256:" + "0" * 64


def write_tiny_base_model(folder: Path, *, chat_template: str = CHAT_TEMPLATE) -> Path:
    """Write a random two-layer Llama with a byte-level tokenizer. Its pad token is its end-of-turn token."""
    folder.mkdir(parents=True, exist_ok=True)
    _write_tokenizer(folder)
    (folder / "chat_template.jinja").write_text(chat_template)
    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": WIDTH,
        "intermediate_size": INNER_WIDTH,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": HEADS,
        "num_key_value_heads": KEY_HEADS,
        "vocab_size": VOCABULARY,
        "max_position_embeddings": 2048,
        "tie_word_embeddings": True,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "pad_token_id": 2,
    }
    (folder / "config.json").write_text(json.dumps(config))
    save_file(_weights(), folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def _write_tokenizer(folder: Path) -> None:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=SPECIAL_TOKENS,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([f"{left} {right}" for left in WORDS for right in WORDS], trainer)
    tokenizer.save(str(folder / "tokenizer.json"))
    end_of_turn = "<|im_end|>"
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": end_of_turn, "pad_token": end_of_turn}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))


def _weights() -> dict[str, np.ndarray[Any, np.dtype[np.float32]]]:
    random = np.random.default_rng(0)

    def normal(*shape: int) -> np.ndarray[Any, np.dtype[np.float32]]:
        return random.standard_normal(shape, dtype=np.float32) / np.float32(shape[-1] ** 0.5)

    head = WIDTH // HEADS
    weights = {"model.embed_tokens.weight": normal(VOCABULARY, WIDTH), "model.norm.weight": np.ones(WIDTH, np.float32)}
    for layer in range(LAYERS):
        name = f"model.layers.{layer}"
        weights |= {
            f"{name}.self_attn.q_proj.weight": normal(WIDTH, WIDTH),
            f"{name}.self_attn.k_proj.weight": normal(KEY_HEADS * head, WIDTH),
            f"{name}.self_attn.v_proj.weight": normal(KEY_HEADS * head, WIDTH),
            f"{name}.self_attn.o_proj.weight": normal(WIDTH, WIDTH),
            f"{name}.mlp.gate_proj.weight": normal(INNER_WIDTH, WIDTH),
            f"{name}.mlp.up_proj.weight": normal(INNER_WIDTH, WIDTH),
            f"{name}.mlp.down_proj.weight": normal(WIDTH, INNER_WIDTH),
            f"{name}.input_layernorm.weight": np.ones(WIDTH, np.float32),
            f"{name}.post_attention_layernorm.weight": np.ones(WIDTH, np.float32),
        }
    return weights


def tiny_rows(count: int) -> list[dict[str, Any]]:
    """Rows with answers of very different lengths, so that masks are ragged."""
    return [
        {
            "messages": [
                {"role": "user", "content": f"{WORDS[8 + number % 2]} {WORDS[3 + number % 3]} {number}"},
                {"role": "assistant", "content": " ".join([WORDS[number % 3]] * (1 + number * 5 % 7))},
            ]
        }
        for number in range(count)
    ]


def write_rows(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write a JSON Lines file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def tiny_spec(*, total_steps: int, **changes: Any) -> RunSpec:
    """A specification of a short run; `changes` replace its fields."""
    spec = RunSpec(
        base_model="tiny",
        base_model_digest=NO_DIGEST,
        method=LoraMethod(lora_rank=4),
        optimiser=Optimiser(learning_rate=3e-3),
        data=RunData(train=NO_DIGEST, train_rows=1, max_seq_len=256),
        seed=7,
        batch_size=4,
        n_epochs=1,
        total_steps=total_steps,
        checkpoint_every_steps=1000,
        validate_every_steps=0,
    )
    return spec.model_copy(update=changes)


def tiny_plan(
    spec: RunSpec, *, world_size: int = 1, precision: Precision = Precision.FP32, resume_step: int | None = None
) -> TrainPlan:
    """A plan of one run named `run`, on the CPU."""
    compute = Compute(
        world_size=world_size,
        device=Device.CPU,
        precision=precision,
        token_budget=64,
        collective_timeout_s=60,
    )
    return TrainPlan(compute=compute, runs=(RunPlan(run="run", spec=spec, resume_step=resume_step),))
