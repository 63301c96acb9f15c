"""A peer's training process: peft's LoRA in the HF Trainer or in TRL's SFTTrainer, as their documentation writes it.

Generous to the peer where it has a choice: rows come tokenised, nothing is logged or saved between steps, gradients
are not checkpointed. Batches are the documents in their order, the same that our engine gets.
"""

import argparse
import json
from collections import deque
from pathlib import Path
from random import Random
from typing import Any

import torch
from datasets import Dataset
from peft import LoraConfig, get_peft_model
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    DataCollatorForSeq2Seq,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)

from benchmarks import settings
from benchmarks.documents import IGNORED, Document
from benchmarks.reports import write
from benchmarks.steps import StepClock, parse_phases, peak_resident_bytes

PACKED_LENGTH = 512


def main() -> None:
    """Train as many steps as the phases have."""
    options = _options()
    torch.manual_seed(settings.SEED)
    clock = StepClock(parse_phases(options.phases), torch.set_num_threads, _synchronise(options.device))
    torch.set_num_threads(clock.phases[0].threads)
    documents = json.loads(options.documents.read_text())[options.first : options.first + options.count]
    if options.group_by_length:
        documents = _grouped_by_length(documents, options.batch_size)
    trainer = _trainer(options, Dataset.from_list(documents), clock.total_steps)
    # No column may be dropped: what the model does not take, the collators do not give it.
    watch = _Watch(clock, trainer.data_collator)
    trainer.data_collator = watch.collate
    trainer.add_callback(watch)
    trainer.train()
    trainer.model.save_pretrained(options.out / "adapter")
    write(clock.report(_peak_bytes(options.device)), options.out / "steps.json")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.peers")
    parser.add_argument("--base-model", required=True, type=Path)
    parser.add_argument("--documents", required=True, type=Path, help="token ids and labels, JSON")
    parser.add_argument("--first", type=int, default=0, help="the first document to train on")
    parser.add_argument("--count", type=int, default=256)
    parser.add_argument("--trainer", required=True, choices=("trainer", "sft", "unsloth"))
    parser.add_argument("--precision", required=True, choices=("fp32", "bf16"))
    parser.add_argument("--batch-size", type=int, default=settings.BATCH_SIZE, help="rows, packed ones with --packing")
    parser.add_argument("--seed", type=int, default=settings.SEED)
    parser.add_argument("--schedule", default="constant", choices=("constant", "linear"))
    parser.add_argument("--learning-rate", type=float, default=settings.LEARNING_RATE)
    parser.add_argument("--shuffle", action="store_true", help="rows in the trainer's own random order")
    parser.add_argument("--group-by-length", action="store_true")
    parser.add_argument("--packing", action="store_true")
    parser.add_argument("--liger", action="store_true")
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--phases", required=True, help="threads:steps, comma-separated")
    parser.add_argument("--out", required=True, type=Path, help="gets adapter/ and steps.json")
    return parser.parse_args()


def _grouped_by_length(documents: list[Document], batch_size: int) -> list[Document]:
    """Batches of rows of like length, in random order.

    What the Trainer's own `group_by_length` comes to over an epoch; but that begins with the longest rows, and a few
    steps of it would not be the average step.
    """
    ordered = sorted(documents, key=lambda document: len(document["input_ids"]))
    batches = [ordered[begin : begin + batch_size] for begin in range(0, len(ordered), batch_size)]
    Random(settings.SEED).shuffle(batches)  # noqa: S311 - the same order every time
    return [document for batch in batches for document in batch]


def _trainer(options: argparse.Namespace, documents: Dataset, steps: int) -> Any:
    network, tokenizer = _network(options)
    common: dict[str, Any] = {
        "output_dir": str(options.out / "trainer"),
        "max_steps": steps,
        "per_device_train_batch_size": options.batch_size,
        "learning_rate": options.learning_rate,
        "lr_scheduler_type": options.schedule,
        "train_sampling_strategy": "random" if options.shuffle else "sequential",
        "seed": options.seed,
        "bf16": options.precision == "bf16",
        "use_cpu": options.device == "cpu",
        "gradient_checkpointing": False,
        "use_liger_kernel": options.liger,
        "logging_strategy": "no",
        "save_strategy": "no",
        "report_to": [],
        "disable_tqdm": True,
    }
    if options.trainer == "trainer":
        return Trainer(
            model=get_peft_model(network, lora()),
            args=TrainingArguments(**common),
            train_dataset=documents,
            data_collator=DataCollatorForSeq2Seq(tokenizer, padding=True),
        )
    # Not every process that measures a Trainer has TRL, which takes a second to import.
    from trl import SFTConfig, SFTTrainer  # noqa: PLC0415

    adapted = options.trainer == "unsloth"
    return SFTTrainer(
        model=network,
        args=SFTConfig(**common, max_length=PACKED_LENGTH, packing=options.packing),
        train_dataset=documents,
        processing_class=tokenizer,
        peft_config=None if adapted else lora(),
    )


def _network(options: argparse.Namespace) -> tuple[Any, Any]:
    """The base model and its tokenizer. Masters are fp32 on a CPU, as autocast wants them."""
    if options.trainer == "unsloth":
        from unsloth import FastLanguageModel  # noqa: PLC0415 - it needs a GPU to be imported

        network, tokenizer = FastLanguageModel.from_pretrained(
            str(options.base_model), max_seq_length=PACKED_LENGTH, load_in_4bit=False, dtype=torch.bfloat16
        )
        adapted = FastLanguageModel.get_peft_model(
            network,
            r=settings.LORA_RANK,
            lora_alpha=settings.LORA_ALPHA,
            target_modules=list(settings.TARGETS),
            use_gradient_checkpointing=False,
        )
        return adapted, tokenizer
    dtype = torch.bfloat16 if options.device == "cuda" and options.precision == "bf16" else torch.float32
    network = AutoModelForCausalLM.from_pretrained(options.base_model, dtype=dtype, local_files_only=True)
    return network, AutoTokenizer.from_pretrained(options.base_model, local_files_only=True)


def lora() -> LoraConfig:
    """The adapter that every engine trains."""
    return LoraConfig(
        task_type="CAUSAL_LM",
        r=settings.LORA_RANK,
        lora_alpha=settings.LORA_ALPHA,
        lora_dropout=0.0,
        target_modules="all-linear",
    )


class _Watch(TrainerCallback):
    """Times each step, and counts what its batch held."""

    def __init__(self, clock: StepClock, collate: Any) -> None:
        self._clock, self._collate = clock, collate
        # The loader is a batch ahead of the step: counts wait here for theirs.
        self._coming: deque[dict[str, int]] = deque()
        self._counts: dict[str, int] = {}

    def collate(self, rows: list[Any]) -> Any:
        batch = self._collate(rows)
        ids, labels = batch["input_ids"], batch["labels"]
        # Padding-free batches are one long row without a mask.
        mask = batch.get("attention_mask")
        counts = {
            "tokens": int(ids.numel() if mask is None else mask.sum()),
            "computed_tokens": ids.numel(),
            "supervised_tokens": int((labels != IGNORED).sum()),
        }
        self._coming.append(counts)
        return batch

    def on_step_begin(self, *_: Any, **__: Any) -> None:
        self._counts = self._coming.popleft()
        self._clock.begin()

    def on_step_end(self, *_: Any, **__: Any) -> None:
        self._clock.end(**self._counts)


def _synchronise(device: str) -> Any:
    return torch.cuda.synchronize if device == "cuda" else lambda: None


def _peak_bytes(device: str) -> int:
    return torch.cuda.max_memory_allocated() if device == "cuda" else peak_resident_bytes()


if __name__ == "__main__":
    main()
